# SPDX-License-Identifier: Apache-2.0
"""The tiles of scores that some query sees, listed on the device from the spans.

    keys       0    1    2    3         two packed documents; each `#` is one entry of the list, row by row:
    queries 0  #    .    .    .         a kernel runs over the list and never meets a dot
            1  #    #    .    .
            2  .    #    #    .         FIRST and LAST stand at the ends of a line, START and END at the ends of a
            3  .    .    #    #         batch row; LOW and HIGH where a span begins or ends inside a tile,
                                    SOME where a part of the tile is seen by no query

A line's tiles run from the one with its lowest start to the one with its highest end, whatever the order of the spans:
spans that grow with the query (all of mmjax's) list only tiles that are needed, others are right and less sparse.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

FLAGS = 7  # bits
FIRST, LAST, START, END, LOW, HIGH, SOME = (1 << bit for bit in range(FLAGS))


class Tile(NamedTuple):
    """How many scores stand in a tile: `queries` times `keys`; it has `parts` of its queries times `chunks` of keys."""

    queries: int
    keys: int
    parts: int = 1
    chunks: int = 1


class Format(NamedTuple):
    """How a list is written as one int32 array: how many entries, the entries, each part's `low`, each part's `high`.

    One array, so that a layer which chooses between two lists chooses once, and a kernel reads one number a tile: from
    its lowest bit, the entry's flags (7 bits), its keys in tiles, its line within the batch row, the batch row. What
    stands behind the entries that count is arbitrary. `low` and `high` are the lowest start and highest end of spans in
    a part of a line.
    """

    rows: int  # of the batch
    lines: int  # of a batch row
    across: int  # tiles of keys, all of them
    parts: int  # of a line

    @classmethod
    def of(cls, rows: int, length: int, num_keys: int, tile: Tile) -> 'Format':
        """Returns the format for `length` queries and `num_keys` keys a row, both of them in whole tiles."""
        return cls(rows, length // tile.queries, num_keys // tile.keys, tile.parts)

    @property
    def most(self) -> int:
        """Entries, if every query sees every key."""
        return self.rows * self.lines * self.across

    def word(self, row, line, keys, flags):
        """Writes an entry."""
        return flags | keys << FLAGS | line << FLAGS + _bits(self.across) | row << self._row_bit

    def entry(self, tiles, t):
        """Reads entry t of a list."""
        return tiles[1 + t]

    def keys(self, word):
        """Returns an entry's tile of keys."""
        return word >> FLAGS & (1 << _bits(self.across)) - 1

    def line(self, word):
        """Returns an entry's line within its batch row."""
        return word >> FLAGS + _bits(self.across) & (1 << _bits(self.lines)) - 1

    def row(self, word):
        """Returns an entry's batch row."""
        return word >> self._row_bit

    def bounds(self, tiles, word, part: int | None = None):
        """Returns `low` and `high` of a part of an entry's line; None: of the line."""
        place = 1 + self.most + (self.row(word) * self.lines + self.line(word)) * self.parts
        places = [place + i for i in (range(self.parts) if part is None else (part,))]
        lows, highs = ([tiles[i + more] for i in places] for more in (0, self.rows * self.lines * self.parts))
        return functools.reduce(jnp.minimum, lows), functools.reduce(jnp.maximum, highs)

    @property
    def _row_bit(self) -> int:
        return FLAGS + _bits(self.across) + _bits(self.lines)


def _bits(count: int) -> int:
    return (count - 1).bit_length()


class Planned(NamedTuple):
    """Spans, and the lists that were made of them before a loop over layers: XLA would make them anew in each.

    A list is found by its keys a row (whole tiles of them) and its tile's size; what is not among them is made where it
    is needed. Where rows lie on several devices, so do their lists: each device's describe its own rows.
    """

    span: Int[Array, 'B L 2']
    lists: dict[tuple[int, ...], Int[Array, 'W']]

    def tiles(self, span: Int[Array, 'B Lp 2'], num_keys: int, tile: Tile) -> Int[Array, 'W']:
        """Returns the list for these sizes; `span` is what it is made of if it is not there."""
        found = self.lists.get((num_keys, *tile))
        return list_tiles(span, num_keys, tile) if found is None else found


def plain(span: Int[Array, 'B L 2'] | Planned) -> Int[Array, 'B L 2']:
    """Returns the spans alone."""
    return span.span if isinstance(span, Planned) else span


@jax.named_scope('list_tiles')  # by this name, profiles and tests find it
def list_tiles(span: Int[Array, 'B L 2'], num_keys: int, tile: Tile) -> Int[Array, 'W']:
    """Lists the tiles of L queries and num_keys keys, both in whole tiles, as `Format` says.

    Queries that see nothing keep one tile a line, so that somebody writes their zeros.
    """
    form = Format.of(*span.shape[:2], num_keys, tile)
    lines, across = form.rows * form.lines, form.across
    start, end = (span.reshape(lines, form.parts, -1, 2)[..., i] for i in range(2))
    seeing = start < end
    start, end = jnp.where(seeing, start, num_keys), jnp.where(seeing, end, 0)
    lows, highs = start.min(axis=-1).clip(0, num_keys), end.max(axis=-1).clip(0, num_keys)
    low, high = lows.min(axis=-1), highs.max(axis=-1)
    # What lies between these two is seen by every query of the line.
    whole_from, whole_to = start.max(axis=(1, 2)), end.min(axis=(1, 2))

    # On TPUs a small operation costs what starting it costs, so there are as few as can be: sums over comparisons of
    # everything with everything take the place of a running sum and of lookups, and numpy computes what it can.
    first = jnp.minimum(low, num_keys - 1) // tile.keys
    counts = jnp.maximum(-(-high // tile.keys) - first, 1)
    other, line = (lax.broadcasted_iota(jnp.int32, (lines, lines), axis) for axis in range(2))
    before = jnp.where(other < line, counts[:, None], 0).sum(axis=0)
    row, in_row = np.divmod(np.arange(lines)[:, None], form.lines)
    entry = lax.broadcasted_iota(jnp.int32, (lines, form.most), 1)
    place = entry - before[:, None]  # the entry's in each line, if it is one of its own
    mine = (place >= 0) & (place < counts[:, None])
    keys = jnp.minimum(first[:, None] + place, across - 1)
    flags = (
        jnp.where(place == 0, np.where(in_row == 0, FIRST + START, FIRST), 0)
        + jnp.where(place + 1 == counts[:, None], np.where(in_row == form.lines - 1, LAST + END, LAST), 0)
        + LOW * (keys * tile.keys < whole_from[:, None])
        + HIGH * ((keys + 1) * tile.keys > whole_to[:, None])
    )
    # All parts of the queries see the first chunk and the last one, hence those between them.
    chunk = tile.keys // tile.chunks
    first_seen = lows.max(axis=-1)[:, None] < keys * tile.keys + chunk
    last_seen = highs.min(axis=-1)[:, None] > (keys + 1) * tile.keys - chunk
    flags = flags + jnp.where(first_seen & last_seen, 0, SOME)
    entries = jnp.where(mine, form.word(row, in_row, keys, flags), 0).sum(axis=0)
    return jnp.concatenate([counts.sum(keepdims=True), entries, lows.ravel(), highs.ravel()]).astype(jnp.int32)
