# SPDX-License-Identifier: Apache-2.0
"""The Perceiver Resampler: learned latents look at a medium's features, layer after layer (Flamingo).

N media, T frames, n features of a medium, E width, Q latents.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.models.connector import Grid, beside, with_time
from mmjax.nn import layers, mlp, stack
from mmjax.nn.attention import Attention
from mmjax.nn.layers import Norm, normal, parameter
from mmjax.sharding import w_DE, w_LD


class ResamplerBlock(nnx.Module):
    """latents + attn(latents, [latents ; media]), then latents + mlp(norm latents); each side has its own norm."""

    def __init__(self, c: 'Resampler.Config', width: int, *, rngs: nnx.Rngs):
        self.media_norm = c.norm.build(width, rngs=rngs)
        self.latent_norm = c.norm.build(width, rngs=rngs)
        self.attn = c.attn.build(width, rngs=rngs)
        self.mlp_norm = c.norm.build(width, rngs=rngs)
        self.mlp = mlp.Mlp.Config(width=c.mlp_ratio * width, act=c.act, bias=False).build(width, rngs=rngs)

    def __call__(
        self, latents: Float[Array, 'N Q E'], media: Float[Array, 'N n E'], count: Int[Array, 'N']
    ) -> Float[Array, 'N Q E']:
        """Returns the latents after one look; `count` features of each medium are real."""
        queries, source, span = beside(self.latent_norm(latents), self.media_norm(media), count)
        latents = latents + self.attn(queries, self.attn.keys_values(source), span)
        return latents + self.mlp(self.mlp_norm(latents))


class Resampler(nnx.Module):
    """Gives Q tokens of a medium, however many features it has."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config = dataclasses.field(default_factory=lambda: Attention.Config(heads=8, head_width=64))
        queries: int = 64
        depth: int = 6
        act: str = 'gelu'
        mlp_ratio: int = 4
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)
        time: bool = True  # media of several frames get learned embeddings of the frames' places
        order: int = 0  # most media a document that get learned embeddings of their own places, 0 for none
        remat: str = 'none'

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return 1, self.queries

        def build(
            self,
            width_in: int,
            width: int | None = None,
            *,
            frames: int = 1,
            features: Grid | None = None,
            rngs: nnx.Rngs,
        ) -> 'Resampler':
            """Builds the part; it works at the features' width, and maps the result to `width` where one is given."""
            return Resampler(self, width_in, width, frames, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int | None, frames: int, *, rngs: nnx.Rngs):
        self.remat, self.width = c.remat, width or width_in
        table = lambda count, std: parameter(normal(rngs.params(), (count, width_in), std), w_LD)
        self.latents = table(c.queries, 1.0)
        self.time = table(frames, 1.0) if c.time and frames > 1 else None
        self.order = table(c.order, 1.0) if c.order else None
        self.blocks = stack.build(lambda r: ResamplerBlock(c, width_in, rngs=r), c.depth, rngs)
        self.norm = c.norm.build(width_in, rngs=rngs)
        self.out = layers.Linear(width_in, width, bias=True, spec=w_DE, rngs=rngs) if width else None

    def __call__(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N'], order: Int[Array, 'N'] | None = None
    ) -> Float[Array, 'N Q D']:
        """Returns the tokens of every medium; `order` is its place among its document's media."""
        x = features if self.time is None else with_time(features, self.time[...])
        if self.order is not None:
            if order is None:
                raise ValueError(
                    'this resampler numbers the media of a document (Resampler.Config.order): pass their places'
                )
            x = x + jnp.take(self.order[...], order, axis=0, mode='clip')[:, None]
        latents = sharding.broadcast_rows(self.latents[...], x.shape[0]).astype(x.dtype)
        body = lambda latents, block, layer: block(latents, x, count)
        latents = self.norm(stack.run(body, latents, self.blocks, policy=self.remat))
        return latents if self.out is None else self.out(latents)
