# SPDX-License-Identifier: Apache-2.0
"""A masked autoencoder: an encoder sees some patches of a picture, a light decoder paints all of them (He et al. 2022).

N pictures, P patches of a picture, V visible ones, D encoder's width, E decoder's width, C numbers of a patch.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from mmjax import sharding
from mmjax.batch import MediaSpec
from mmjax.models.vision import Vit, everything, sincos, spec_of_pictures
from mmjax.nn import stack
from mmjax.nn.block import Block
from mmjax.nn.layers import Linear, Norm, normal, parameter
from mmjax.nn.positions import Learned
from mmjax.sharding import P, b_D, w_DE


class Mae(nnx.Module):
    """Encodes visible patches, puts a learned token in the place of every other, decodes all into pixels."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        encoder: Vit.Config
        width: int = 512  # E
        depth: int = 8  # of the decoder
        block: Block.Config  # of the decoder
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)
        remat: str = 'none'

        def media_spec(self) -> MediaSpec:
            """Returns what the data side needs to know."""
            return spec_of_pictures(self.encoder)

        @property
        def vocab(self) -> int | None:
            """None: it reads no tokens."""
            return None

        def build(self, *, rngs: nnx.Rngs) -> 'Mae':
            """Builds the model."""
            return Mae(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        grid, self.remat = c.encoder.grid, c.remat
        self.encoder = c.encoder.build(rngs=rngs)
        self.enter = Linear(c.encoder.width, c.width, bias=True, spec=w_DE, rngs=rngs)
        self.mask = parameter(normal(rngs.params(), (c.width,), 0.02), b_D)
        places = Learned.Config(length=grid[0] * grid[1] + c.encoder.cls)
        self.position = places.build(c.width, rngs=rngs)
        if c.encoder.sincos:
            self.position.table.set_value(sincos(grid, c.width, extra=int(c.encoder.cls)))
        self.blocks = stack.build(lambda r: c.block.build(c.width, rngs=r), c.depth, rngs)
        self.norm = c.norm.build(c.width, rngs=rngs)
        self.paint = Linear(c.width, c.encoder.patch**2 * 3, bias=True, spec=w_DE, rngs=rngs)

    def __call__(
        self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3'], order: Int[Array, 'N P'], visible: int
    ) -> Float[Array, 'N P C']:
        """Returns the painted patches; the encoder sees the first `visible` ones of each picture's `order`."""
        if not 0 < visible < order.shape[1]:
            raise ValueError(f'{visible} visible patches of {order.shape[1]}: some are seen and some are not')
        x = self.encoder.enter(pixels)
        head = x.shape[1] - order.shape[1]  # the cls token is always seen
        seen = jnp.concatenate([x[:, :head], take(x[:, head:], order[:, :visible])], axis=1)
        x = self.encoder.encode(seen, self.encoder.depth)
        x = self.enter(x if self.encoder.norm is None else self.encoder.norm(x))
        hidden = sharding.broadcast_rows(self.mask[...][None], x.shape[0])
        hidden = jnp.broadcast_to(hidden, (x.shape[0], order.shape[1] - visible, x.shape[2])).astype(x.dtype)
        body = take(jnp.concatenate([x[:, head:], hidden], axis=1), jnp.argsort(order, axis=1))
        x = jnp.concatenate([x[:, :head], body], axis=1) + sharding.place(self.position.table[...], P())
        span = self.blocks.attn.plan(everything(*x.shape[:2], x.shape[1]), x.shape[1])
        x = stack.run(lambda x, block, _: block(x, span)[0], x, self.blocks, policy=self.remat)
        return self.paint(self.norm(x))[:, head:]


def take(x: Float[Array, 'N P D'], places: Int[Array, 'N V']) -> Float[Array, 'N V D']:
    """Returns x[n, places[n]] for every picture n."""
    return jax.vmap(lambda x, places: x[places])(x, places)
