# SPDX-License-Identifier: Apache-2.0
"""Positions: turned into queries and keys (rotary, xPos), added to the input (sinusoidal, learned) or to the scores.

Turning parts have no parameters: a call makes the tables once a forward pass, `rotate` applies them in every layer.
Parts that add to the input return vectors [B, L, D]. What is added to scores is made once for all layers too.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
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
        # Pairs that turn by each axis of positions [B, L, 3] (time, row, column): the first so many by time and so on,
        # or, `mixed`, time, row, column in turn while an axis has pairs left, and by time the rest.
        sections: tuple[int, ...] = ()
        mixed: bool = False

        def build(self, head_width: int) -> 'Rotary':
            """Builds the part for heads of the given width."""
            return Rotary(self, head_width)

    def __init__(self, c: Config, head_width: int):
        self.width = int(head_width * c.fraction)
        if self.width % 2:
            raise ValueError(f'rotary pairs: {c.fraction} of head width {head_width} is {self.width}, which is odd')
        if c.sections and sum(c.sections) != self.width // 2:
            raise ValueError(f'Rotary.Config.sections {c.sections} are not the {self.width // 2} pairs of a head')
        self.axis = axes_of_pairs(tuple(c.sections), c.mixed) if c.sections else None
        self.theta, self.factor, self.decay, self.interleaved = c.theta, c.factor, c.decay, c.interleaved

    def __call__(self, position: Int[Array, 'B L *axes']) -> Turn:
        """Makes the tables for the tokens of a batch, in float32."""
        if (position.ndim == 3) != (self.axis is not None):
            raise ValueError(
                f'positions {position.shape} for Rotary.Config.sections {"set" if self.axis else "unset"}: sections '
                'turn by positions [B, L, axes], others by [B, L]; was the layout built for this model?'
            )
        pair = jnp.arange(0, self.width, 2, dtype=jnp.float32)
        place = position.astype(jnp.float32) / self.factor
        place = place[..., None] if self.axis is None else place[..., jnp.asarray(self.axis)]
        angle = place * self.theta ** (-pair / self.width)
        gain = None
        if self.decay is not None:
            gain = ((pair + 0.4 * self.width) / (1.4 * self.width)) ** (place / self.decay)
        return Turn(jnp.cos(angle), jnp.sin(angle), gain, self.interleaved)


def axes_of_pairs(sections: tuple[int, ...], mixed: bool) -> tuple[int, ...]:
    """Returns the axis by which each pair turns.

    sections 3 2 1      0 0 0 1 1 2        mixed      0 1 2 0 1 0
    """
    if not mixed:
        return tuple(axis for axis, count in enumerate(sections) for _ in range(count))
    found = [0] * sum(sections)
    for axis, count in enumerate(sections[1:], start=1):
        found[axis : count * len(sections) : len(sections)] = [axis] * len(
            found[axis : count * len(sections) : len(sections)]
        )
    return tuple(found)


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


class Relative(nnx.Module):
    """A learned number for each head and distance of key and query, added to the scores (T5).

    Distances share a number where they are large: with 8 for one direction and a reach of 32, they are
    0 | 1 | 2 | 3 | 4-6 | 7-11 | 12-19 | 20 and more (half stand alone, the widths of the others grow geometrically).
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        buckets: int = 32  # numbers for each head
        reach: int = 128  # all distances from here on share one
        two_way: bool = False  # half of the numbers are for keys after the query; False: those count as distance 0
        std: float = 0.02  # of the table at first

        def build(self, heads: int, *, rngs: nnx.Rngs) -> 'Relative':
            """Builds the part."""
            return Relative(self, heads, rngs=rngs)

    def __init__(self, c: Config, heads: int, *, rngs: nnx.Rngs):
        self.two_way, count = c.two_way, c.buckets // 2 if c.two_way else c.buckets
        if count < 2 or count % 2 or c.reach <= count // 2:
            raise ValueError(f'{count} numbers for a direction must be even, and their half less than reach {c.reach}')
        self.starts, self.count = _starts(count, c.reach), count
        self.table = parameter(normal(rngs.params(), (c.buckets, heads), c.std), sharding.P(None, None))

    def __call__(self, place: Int[Array, '#B L'], keys: int) -> Float[Array, '#B N L {keys}']:
        """Returns what is added to the scores of queries at these places of their row, against its first `keys` keys.

        Places of a row serve as well as positions in a document, since no query sees another document, and they are
        the same for all rows of a batch, so that one matrix serves them all.
        """
        ahead = jnp.arange(keys) - place[..., None]
        distance = jnp.abs(ahead) if self.two_way else jnp.maximum(-ahead, 0)
        bucket = (distance[..., None] >= jnp.asarray(self.starts)).sum(axis=-1)
        if self.two_way:
            bucket = bucket + jnp.where(ahead > 0, self.count, 0)
        rows = sharding.where(sharding.P(None if place.shape[0] == 1 else sharding.ROWS, None, None, None))
        return self.table[...].at[bucket].get(mode='clip', out_sharding=rows).transpose(0, 3, 1, 2)


def _starts(count: int, reach: int) -> tuple[int, ...]:
    """Returns the first distance of every bucket but the one of distance 0."""
    alone = count // 2
    # Distance d >= alone has the bucket alone + floor(log(d / alone) / log(reach / alone) * alone), the last at most.
    # Powers of whole numbers are compared: no rounding of a logarithm can put a distance elsewhere.
    least = lambda b: next(d for d in range(alone, reach + 1) if d**alone >= reach**b * alone ** (alone - b))
    return (*range(1, alone + 1), *(least(bucket) for bucket in range(1, alone)))


class GridOffsets(nnx.Module):
    """A learned number for each head and offset of two patches of a grid, added to the scores (BEiT, Bao et al. 2022).

    With a token in front of the patches (cls) three more numbers stand for: it looks at a patch, a patch looks at it,
    it looks at itself.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        grid: tuple[int, int]  # rows and columns of patches
        extra: int = 0  # tokens in front of the patches: none or one

        def build(self, heads: int, *, rngs: nnx.Rngs) -> 'GridOffsets':
            """Builds the part, which adds nothing at first."""
            return GridOffsets(self, heads)

    def __init__(self, c: Config, heads: int):
        if c.extra not in (0, 1):
            raise ValueError(f'GridOffsets.Config.extra is {c.extra}: none or one token stands in front of the patches')
        self.grid, self.extra = tuple(c.grid), c.extra
        numbers = (2 * c.grid[0] - 1) * (2 * c.grid[1] - 1) + 3 * c.extra
        self.table = parameter(jnp.zeros((numbers, heads)), sharding.P(None, None))

    def __call__(self) -> Float[Array, '1 N L L']:
        """Returns what is added to the scores of every query (third axis) and key, the same for all pictures."""
        table = sharding.place(self.table[...], sharding.P())
        return jnp.moveaxis(table[offsets(self.grid, self.extra)], -1, 0)[None]


def offsets(grid: tuple[int, int], extra: int) -> np.ndarray:
    """Returns the number [L, L] that each pair of query and key has in the table of `GridOffsets`.

    A grid of 1 x 3, whose offsets are -2 .. 2, with a token in front:

      7 5 5 5        query minus key in raster order, the smallest offset first
      6 2 1 0
      6 3 2 1
      6 4 3 2
    """
    rows, columns = (x.ravel() for x in np.indices(grid))
    row, column = (x[:, None] - x[None] for x in (rows, columns))
    index = (row + grid[0] - 1) * (2 * grid[1] - 1) + column + grid[1] - 1
    if not extra:
        return index
    index, last = np.pad(index, ((1, 0), (1, 0))), (2 * grid[0] - 1) * (2 * grid[1] - 1)
    index[0, 1:], index[1:, 0], index[0, 0] = last, last + 1, last + 2
    return index
