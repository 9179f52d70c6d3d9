# SPDX-License-Identifier: Apache-2.0
"""Connectors: from an encoder's features of one medium to the media tokens that the decoder reads.

A connector is called with `features [N, T*n, E]`, the frames of every medium one after the other (n features a frame),
and `count [N]`, how many of them are real; it returns `[N, P, D]`. Those that keep every feature (`Linear`, `Mlp`) give
token p for feature p, so a medium with fewer frames simply uses fewer tokens. Those that ask with queries of their own
(`AttentionPool`, `Resampler`) look at the real features only.

N media (rows times media a row), T frames, n features a frame, E features' width (E2 of a merged square), Q queries,
P tokens, D width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn import layers
from mmjax.nn.attention import Attention
from mmjax.nn.layers import Norm, normal, parameter
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.sharding import P, w_DE, w_DF, w_FD, w_LD

Grid = tuple[int, int]


class Linear(nnx.Module):
    """One affine map of every feature (Shikra, Ferret, PaLM-E), or of every square of them, or its mean (Gemma 3)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        bias: bool = True
        merge: int = 1  # side of the square of features that becomes one token
        mean: bool = False  # the features of a square are averaged; False: they stand side by side
        norm: Norm.Config | None = None  # of what the map gets

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens, given those of one frame's features."""
            return merged_grid(frames, features, self.merge)

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'Linear':
            """Builds the part; width None: tokens as wide as features. `features` is one frame's grid of them."""
            return Linear(self, width_in, width or width_in, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, features: Grid | None, *, rngs: nnx.Rngs):
        self.width, self.merge, self.mean, self.features = width, c.merge, c.mean, features
        width_in = width_in if c.mean else c.merge**2 * width_in
        self.norm = c.norm.build(width_in, rngs=rngs) if c.norm else None
        self.linear = layers.Linear(width_in, width, bias=c.bias, spec=w_DE, rngs=rngs)

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N P D']:
        """Returns one token for each feature, or for each square of them."""
        x = merge(features, self.features, self.merge)
        if self.mean:
            x = jnp.stack(jnp.split(x, self.merge**2, axis=-1)).mean(axis=0)
        return self.linear(x if self.norm is None else self.norm(x))


class Mlp(nnx.Module):
    """Two affine maps with an activation between them (LLaVA-1.5), and a norm before them (InternVL)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        hidden: int | None = None  # None: as wide as the tokens
        act: str = 'gelu'
        bias: bool = True
        merge: int = 1  # side of the square of features that becomes one token
        norm: Norm.Config | None = None  # of what enters, a merged square as one vector

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens, given those of one frame's features."""
            return merged_grid(frames, features, self.merge)

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'Mlp':
            """Builds the part; width None: tokens as wide as features. `features` is one frame's grid of them."""
            return Mlp(self, width_in, width or width_in, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, features: Grid | None, *, rngs: nnx.Rngs):
        if c.act not in ACTIVATIONS:
            raise ValueError(f'Mlp.Config.act is {c.act!r}; choose one of {sorted(ACTIVATIONS)}')
        self.act, self.width, self.merge, self.features = c.act, width, c.merge, features
        self.norm = c.norm.build(c.merge**2 * width_in, rngs=rngs) if c.norm else None
        self.up = layers.Linear(c.merge**2 * width_in, c.hidden or width, bias=c.bias, spec=w_DF, rngs=rngs)
        self.down = layers.Linear(c.hidden or width, width, bias=c.bias, spec=w_FD, rngs=rngs)

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N P D']:
        """Returns one token for each feature, or for each square of them."""
        x = merge(features, self.features, self.merge)
        return self.down(ACTIVATIONS[self.act](self.up(x if self.norm is None else self.norm(x))))


class AttentionPool(nnx.Module):
    """Learned queries ask, once, among the mapped features and themselves (KOSMOS)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config
        queries: int = 64
        unit: bool = False  # features are scaled to length 1 first
        padding: bool = False  # queries also see the padding behind a medium's features (KOSMOS-2.5)

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return 1, self.queries

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'AttentionPool':
            """Builds the part; more frames than one get learned embeddings of their places."""
            return AttentionPool(self, width_in, width or width_in, frames, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, frames: int, *, rngs: nnx.Rngs):
        self.unit, self.padding, self.width = c.unit, c.padding, width
        self.dense = layers.Linear(width_in, width, bias=True, spec=w_DE, rngs=rngs)
        self.time = parameter(normal(rngs.params(), (frames, width), 0.02), w_LD) if frames > 1 else None
        self.latents = parameter(normal(rngs.params(), (c.queries, width), 1.0), w_LD)
        self.attn = c.attn.build(width, rngs=rngs)

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N Q D']:
        """Returns what the queries collect."""
        queries, source, span = self.asked(features, count)
        return self.attn(queries, self.attn.keys_values(source), span)

    def asked(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N']
    ) -> tuple[Float[Array, 'N Q D'], Float[Array, 'N S D'], Int[Array, 'N Q 2']]:
        """Returns the queries, what they look at, and the span that each sees."""
        count = jnp.full_like(count, features.shape[1]) if self.padding else count
        x = self.dense(unit(features) if self.unit else features)
        x = x if self.time is None else with_time(x, self.time[...])
        return beside(sharding.broadcast_rows(self.latents[...], x.shape[0]), x, count)


def merged_grid(frames: int, features: Grid, side: int) -> Grid:
    """Returns the (rows, columns) of a medium's tokens when squares of features are merged."""
    if features[0] % side or features[1] % side:
        raise ValueError(
            f'{features[0]} x {features[1]} features cannot be merged by squares of {side} x {side}; '
            'choose a picture size and a patch that give multiples of it'
        )
    return frames * features[0] // side, features[1] // side


def merge(x: Float[Array, 'N n E'], features: Grid | None, side: int) -> Float[Array, 'N P E2']:
    """Puts the features of each square side by side, row by row (spatial merge, as in Qwen2-VL).

    side 2      a b c d
                e f g h   ->   abef cdgh

    Without a grid the features come square by square already.
    """
    if side == 1:
        return x
    if features is None:
        return sharding.reshape_rows(x, (x.shape[0], x.shape[1] // side**2, side**2 * x.shape[2]))
    rows, columns = features
    frames = x.shape[1] // (rows * columns)
    x = sharding.reshape_rows(x, (x.shape[0], frames * rows // side, side, columns // side, side, x.shape[2]))
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return sharding.reshape_rows(x, (x.shape[0], x.shape[1] * x.shape[2], side * side * x.shape[5]))


def unit(x: Float[Array, '... E']) -> Float[Array, '... E']:
    """Scales vectors to length 1; zero stays zero, and its gradient finite."""
    y = x.astype(jnp.float32)
    square = jnp.square(y).sum(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)


def with_time(x: Float[Array, 'N n E'], time: Float[Array, 'T E']) -> Float[Array, 'N n E']:
    """Adds frame t's vector to every feature of frame t."""
    return x + jnp.repeat(sharding.place(time, P()), x.shape[1] // time.shape[0], axis=0)


def beside(
    latents: Float[Array, 'N Q E'], media: Float[Array, 'N n E'], count: Int[Array, 'N']
) -> tuple[Float[Array, 'N Q E'], Float[Array, 'N S E'], Int[Array, 'N Q 2']]:
    """Returns latents, [latents ; media], and the span by which each latent sees all latents and the real media.

    The latents come first, since then what is real is one interval also where a medium is short:

      Q 2, n 4, count 3      l l m m m .
    """
    source = jnp.concatenate([latents, media], axis=1)
    end = latents.shape[1] + count[:, None, None]
    span = jnp.concatenate([jnp.zeros_like(end), end], axis=-1)
    return latents, source, jnp.broadcast_to(span, (*latents.shape[:2], 2))
