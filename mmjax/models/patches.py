# SPDX-License-Identifier: Apache-2.0
"""Pictures without an encoder: each patch of pixels is one affine map away from being a token (Fuyu).

B rows, M media a row, T frames, P patches of the largest frame, D width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt8

from mmjax.models.vision import normalise, patches
from mmjax.nn.layers import Linear
from mmjax.sharding import reshape_rows, w_LD


class Patches(nnx.Module):
    """One token for each patch of pixels, in raster order. There are no positions, so pictures may have any aspect."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        patch: int = 30
        grid: tuple[int, int] = (36, 64)  # rows, columns of patches of the largest picture
        varying: bool = True  # pictures keep their aspect and use a corner of the grid; False: they all fill it
        width: int | None = None  # of a token; None: as the decoder's
        bias: bool = True
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels in 0..1
        std: tuple[float, float, float] = (0.5, 0.5, 0.5)

        @property
        def size(self) -> tuple[int, int]:
            """Height and width of the largest picture in pixels."""
            return self.grid[0] * self.patch, self.grid[1] * self.patch

        @property
        def tokens(self) -> int:
            """P: the most tokens that a frame gives."""
            return self.grid[0] * self.grid[1]

        def build(self, *, width: int | None = None, rngs: nnx.Rngs) -> 'Patches':
            """Builds the part; `width` is the decoder's."""
            if self.width is None and width is None:
                raise ValueError('Patches.Config.width is not set, and there is no decoder whose width could be taken')
            return Patches(self, self.width or width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        self.patch_size, self.grid, self.varying, self.width = c.patch, tuple(c.grid), c.varying, width
        self.mean, self.std = tuple(c.mean), tuple(c.std)
        self.patch = Linear(c.patch * c.patch * 3, width, bias=c.bias, spec=w_LD, rngs=rngs)

    def __call__(
        self,
        pixels: UInt8[Array, 'B M T h w 3'] | Float[Array, 'B M T h w 3'],
        size: Int[Array, 'B M 3'] | None = None,
    ) -> Float[Array, 'B M T P D']:
        """Returns the tokens of every frame. Float pixels are taken as already normalised.

        A picture of r rows and c columns of patches (its `size`) gives its tokens first, without gaps:

          grid 2 x 3, picture 2 x 2      0 1 .      0 1 2 3 . .
                                         2 3 .
        """
        if pixels.shape[3:5] != (self.grid[0] * self.patch_size, self.grid[1] * self.patch_size):
            raise ValueError(
                f'pictures of {pixels.shape[3:5]} pixels for a grid of {self.grid} patches of {self.patch_size}; '
                'pad them in the layout'
            )
        b, m, t = pixels.shape[:3]
        flat = reshape_rows(pixels, (b * m * t, *pixels.shape[3:]))
        x = self.patch(patches(normalise(flat, self.mean, self.std), self.patch_size))
        x = reshape_rows(x, (b, m, t, *x.shape[1:]))
        return compact(x, size, self.grid) if self.varying and size is not None else x


def compact(
    x: Shaped[Array, 'B M T P D'], size: Int[Array, 'B M 3'], grid: tuple[int, int], most: int | None = None
) -> Shaped[Array, 'B M T Q D']:
    """Moves the r * c used patches of every frame to its front, in raster order; what follows them is arbitrary.

    most: how many places to fill; None: as many as there are patches.
    """
    columns, last = jnp.maximum(size[..., 2], 1)[..., None], grid[0] * grid[1] - 1
    p = jnp.arange(most or last + 1)
    index = jnp.minimum(p // columns * grid[1] + p % columns, last)
    take = jax.vmap(jax.vmap(lambda x, i: x[:, i]))
    return take(x, index)
