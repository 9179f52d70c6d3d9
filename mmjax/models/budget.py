# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer with a budget of patches, which pictures of any shape fill (Pix2Struct, Lee et al. 2023;
KOSMOS-2.5, Lv et al. 2023).

B rows, M media a row, T frames, N = B * M * T, P patches of the budget, D width.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from mmjax import sharding
from mmjax.models.patches import compact
from mmjax.models.vision import patches
from mmjax.nn import stack
from mmjax.nn.block import Block
from mmjax.nn.layers import Linear, Norm
from mmjax.nn.positions import Learned
from mmjax.sharding import w_LD


class BudgetVit(nnx.Module):
    """A tower whose patches know their row and their column by learned vectors.

    Pictures stand at the top left of the largest one, and the patches that they cover leave in raster order, without
    gaps. Behind them follows padding up to the budget: patches of zeros in row 0 and column 0, which see the picture's
    and are seen by none, for connectors that were trained to look at them.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        width: int
        depth: int
        block: Block.Config
        patch: int = 16
        grid: tuple[int, int] = (128, 128)  # the most rows, the most columns of patches of a picture
        budget: int = 4096  # P: the most patches of a picture
        places: int = 4096  # vectors of rows, and as many of columns; the first are those of padding
        position_std: float = 0.02  # of them at first; a small tower, trained for minutes, sees none so short
        norm: Norm.Config | None = dataclasses.field(default_factory=Norm.Config)  # after the last block
        remat: str = 'none'

        @property
        def varying(self) -> bool:
            """Pictures keep their shape."""
            return True

        @property
        def size(self) -> tuple[int, int]:
            """Height and width in pixels of what holds every picture."""
            return self.grid[0] * self.patch, self.grid[1] * self.patch

        def build(self, *, rngs: nnx.Rngs) -> 'BudgetVit':
            """Builds the tower."""
            return BudgetVit(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if max(c.grid) >= c.places or c.budget > c.grid[0] * c.grid[1]:
            raise ValueError(
                f'BudgetVit.Config: grid {c.grid} needs more than {max(c.grid)} places (now {c.places}) and holds '
                f'{c.grid[0] * c.grid[1]} patches (budget {c.budget})'
            )
        self.c, self.width = c, c.width
        self.patch = Linear(c.patch**2 * 3, c.width, bias=True, spec=w_LD, rngs=rngs)
        place = Learned.Config(length=c.places, std=c.position_std)
        self.row, self.column = (place.build(c.width, rngs=rngs) for _ in range(2))
        self.blocks = stack.build(lambda r: c.block.build(c.width, rngs=r), c.depth, rngs)
        self.norm = c.norm.build(c.width, rngs=rngs) if c.norm else None

    def __call__(
        self,
        pixels: UInt8[Array, 'B M T h w 3'] | Float[Array, 'B M T h w 3'],
        size: Int[Array, 'B M 3'],
    ) -> Float[Array, 'B M T P D']:
        """Returns the features of every frame, those of padding behind the picture's.

        Bytes are brought to mean 0 and deviation 1, picture by picture; floats are taken as already normalised.
        """
        if pixels.shape[3:5] != self.c.size:
            raise ValueError(
                f'pictures in frames of {pixels.shape[3:5]} pixels for a tower of {self.c.size}: '
                'set model.encoder.grid to that of the layout, in patches'
            )
        b, m, t = pixels.shape[:3]
        n, most = b * m * t, self.c.budget
        x = patches(sharding.reshape_rows(pixels, (n, *pixels.shape[3:])), self.c.patch)
        x = compact(sharding.reshape_rows(x, (b, m, t, *x.shape[1:])), size, self.c.grid, most)
        x = sharding.reshape_rows(x, (n, most, x.shape[4]))
        each = jnp.broadcast_to(size[:, :, None], (b, m, t, 3))
        rows, columns = (sharding.reshape_rows(each[..., i : i + 1], (n, 1)) for i in (1, 2))
        number, count = jnp.arange(most), rows * columns
        there = number < count
        place = lambda index: jnp.where(there, 1 + index, 0)
        x = self.patch(jnp.where(there[..., None], own_scale(x, there), 0))
        across = jnp.maximum(columns, 1)
        x = x + self.row(place(number // across)).astype(x.dtype) + self.column(place(number % across)).astype(x.dtype)
        end = jnp.broadcast_to(count, (n, most))
        span = self.blocks.attn.plan(jnp.stack([end * 0, end], axis=-1), most)
        x = stack.run(lambda x, block, _: block(x, span)[0], x, self.blocks, policy=self.c.remat)
        x = x if self.norm is None else self.norm(x)
        return sharding.reshape_rows(x, (b, m, t, *x.shape[1:]))


def own_scale(x: UInt8[Array, 'N P F'] | Float[Array, 'N P F'], there: Bool[Array, 'N P']) -> Float[Array, 'N P F']:
    """Returns each picture's bytes less their mean, by their deviation, over the patches that are there."""
    if x.dtype != jnp.uint8:
        return x
    seen, x = there[..., None], x.astype(jnp.float32)
    count = jnp.maximum(there.sum(axis=1) * x.shape[2], 1)[:, None, None].astype(jnp.float32)
    mean = jnp.where(seen, x, 0).sum(axis=(1, 2), keepdims=True) / count
    square = jnp.where(seen, jnp.square(x - mean), 0).sum(axis=(1, 2), keepdims=True) / count
    # A picture of one colour has no deviation.
    return (x - mean) * jnp.minimum(jnp.where(square > 0, square, 1) ** -0.5, count**0.5)
