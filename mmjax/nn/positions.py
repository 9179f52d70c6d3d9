# SPDX-License-Identifier: Apache-2.0
"""Positions: turned into queries and keys (rotary, xPos) or added to the input (sinusoidal, learned).

Turning parts have no parameters: a call makes the tables once a forward pass, `rotate` applies them in every layer.
Adding parts return vectors [B, L, D].
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn.layers import normal, parameter


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Turn:
    """The angles of every token: R/2 pairs of the head's first R entries turn; `gain` is xPos' decay, None without."""

    cos: Float[Array, 'B L R']
    sin: Float[Array, 'B L R']
    gain: Float[Array, 'B L R'] | None
    interleaved: bool = dataclasses.field(metadata=dict(static=True))


def rotate(x: Float[Array, 'B L N H'], turn: Turn | None, *, key: bool) -> Float[Array, 'B L N H']:
    """Turns the first entries of every head by its token's angles; the rest, and everything where turn is None, stays.

    Pairs are (i, i + R/2), or (2i, 2i + 1) when interleaved. Queries are multiplied by the gain, keys divided.
    """
    if turn is None:
        return x
    cos, sin = turn.cos[:, :, None], turn.sin[:, :, None]
    if turn.gain is not None:
        gain = turn.gain[:, :, None]
        cos, sin = (cos / gain, sin / gain) if key else (cos * gain, sin * gain)
    width = 2 * cos.shape[-1]
    y, rest = x[..., :width].astype(jnp.float32), x[..., width:]
    if turn.interleaved:
        a, b = y[..., 0::2], y[..., 1::2]
        y = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(y.shape)
    else:
        a, b = jnp.split(y, 2, axis=-1)
        y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    y = y.astype(x.dtype)
    return jnp.concatenate([y, rest], axis=-1) if rest.shape[-1] else y


class Rotary(nnx.Module):
    """Rotary positions, and xPos where `decay` is set. It has no parameters."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        theta: float = 10_000.0
        fraction: float = 1.0  # of the head that turns (Persimmon: half)
        interleaved: bool = False  # pairs (2i, 2i + 1) instead of (i, i + half)
        factor: float = 1.0  # positions are divided by it (linear scaling to longer rows)
        decay: float | None = (
            None  # xPos (512): the distance at which each pair has decayed by its base; None: no decay
        )

        def build(self, head_width: int) -> 'Rotary':
            """Builds the part for heads of the given width."""
            return Rotary(self, head_width)

    def __init__(self, c: Config, head_width: int):
        self.width = int(head_width * c.fraction)
        if self.width % 2:
            raise ValueError(f'rotary pairs: {c.fraction} of head width {head_width} is {self.width}, which is odd')
        self.theta, self.factor, self.decay, self.interleaved = c.theta, c.factor, c.decay, c.interleaved

    def __call__(self, position: Int[Array, 'B L']) -> Turn:
        """Makes the tables for the tokens of a batch, in float32.

        Positions of several axes, [B, L, 3], belong here: give each pair its axis before the product.
        """
        pair = jnp.arange(0, self.width, 2, dtype=jnp.float32)
        place = position.astype(jnp.float32)[..., None] / self.factor
        angle = place * self.theta ** (-pair / self.width)
        gain = None
        if self.decay is not None:
            gain = ((pair + 0.4 * self.width) / (1.4 * self.width)) ** (place / self.decay)
        return Turn(jnp.cos(angle), jnp.sin(angle), gain, self.interleaved)


class Sinusoidal(nnx.Module):
    """Fixed sine and cosine vectors added to the input: [sin | cos], as fairseq and Kosmos-2 lay them out."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        offset: int = 0  # added to every position (fairseq: padding id + 1, usually 2)

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'Sinusoidal':
            """Builds the part."""
            return Sinusoidal(self, width)

    def __init__(self, c: Config, width: int):
        self.offset, self.width = c.offset, width

    def __call__(self, position: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns the vectors of positions, float32."""
        half = self.width // 2
        rate = jnp.exp(jnp.arange(half) * (-math.log(10_000.0) / (half - 1)))
        angle = (position + self.offset)[..., None] * rate
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Learned(nnx.Module):
    """A learned vector for each place, added to the input."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        length: int  # rows of the table, the offset's included
        offset: int = 0  # added to every position (OPT: 2)
        std: float = 0.02  # of the table at first

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'Learned':
            """Builds the part."""
            return Learned(self, width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        self.offset = c.offset
        self.table = parameter(normal(rngs.params(), (c.length, width), c.std), sharding.w_LD)

    def __call__(self, position: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns the vectors of positions; the last one for those beyond the table."""
        ids = position + self.offset
        table = sharding.place(self.table[...], sharding.P())
        return table.at[ids].get(mode='clip', out_sharding=sharding.where(sharding.act_BLD))
