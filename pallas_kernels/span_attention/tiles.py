# SPDX-License-Identifier: Apache-2.0
"""The tiles of scores that some query sees, listed on the device from the spans.

    keys       0    1    2    3         two packed documents; each `#` is one entry of the list, row by row:
    queries 0  #    .    .    .         a kernel runs over the list and never meets a dot
            1  #    #    .    .
            2  .    #    #    .         FIRST and LAST stand at the ends of a line, START and END at the ends of a
            3  .    .    #    #         batch row; LOW and HIGH where a span begins or ends inside a tile

A line's tiles run from the one with its lowest start to the one with its highest end, whatever the order of the spans:
spans that grow with the query (all of mmjax's) list only tiles that are needed, others are right and less sparse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

FIRST, LAST, START, END, LOW, HIGH = (1 << bit for bit in range(6))


class TileList(NamedTuple):
    """Entry t is the tile of keys `keys[t]` (in tiles) in line `line[t]`; only the first `count` entries count.

    Lines are numbered through all batch rows. `low` and `high` are the lowest start and the highest end in a line.
    """

    line: Int[Array, 'T']
    keys: Int[Array, 'T']
    flags: Int[Array, 'T']
    low: Int[Array, 'lines']
    high: Int[Array, 'lines']
    count: Int[Array, '1']


class Planned(NamedTuple):
    """Spans, and the lists that were made of them before a loop over layers: XLA would make them anew in each.

    A list is found by its keys a row (whole tiles of them) and its tile's size; what is not among them is made where it
    is needed. Where rows lie on several devices, so do their lists: each device's describe its own rows.
    """

    span: Int[Array, 'B L 2']
    lists: dict[tuple[int, int, int], TileList]

    def tiles(self, span: Int[Array, 'B Lp 2'], num_keys: int, size: tuple[int, int]) -> TileList:
        """Returns the list for these sizes; `span` is what it is made of if it is not there."""
        return self.lists.get((num_keys, *size)) or list_tiles(span, num_keys, size)


def plain(span: Int[Array, 'B L 2'] | Planned) -> Int[Array, 'B L 2']:
    """Returns the spans alone."""
    return span.span if isinstance(span, Planned) else span


@jax.named_scope('list_tiles')  # by this name, profiles and tests find it
def list_tiles(span: Int[Array, 'B L 2'], num_keys: int, size: tuple[int, int]) -> TileList:
    """Lists the tiles of `size` (queries, keys), which divides L and num_keys.

    Queries that see nothing keep one tile a line, so that somebody writes their zeros.
    """
    rows, length, _ = span.shape
    lines, across = rows * (length // size[0]), num_keys // size[1]
    a_row = lines // rows
    start, end = (span.reshape(lines, size[0], 2)[..., i] for i in range(2))
    seeing = start < end
    low = jnp.where(seeing, start, num_keys).min(axis=-1).clip(0, num_keys)
    high = jnp.where(seeing, end, 0).max(axis=-1).clip(0, num_keys)
    # What lies between these two is seen by every query of the line.
    whole_from, whole_to = jnp.where(seeing, start, num_keys).max(axis=-1), jnp.where(seeing, end, 0).min(axis=-1)

    # On TPUs a small operation costs what starting it costs, so there are as few as can be: sums over comparisons of
    # everything with everything take the place of a running sum and of lookups, and numpy computes what it can.
    first = jnp.minimum(low, num_keys - 1) // size[1]
    counts = jnp.maximum(-(-high // size[1]) - first, 1)
    other, line = (lax.broadcasted_iota(jnp.int32, (lines, lines), axis) for axis in range(2))
    before = jnp.where(other < line, counts[:, None], 0).sum(axis=0)
    line, entry = (lax.broadcasted_iota(jnp.int32, (lines, lines * across), axis) for axis in range(2))
    place = entry - before[:, None]  # the entry's in each line, if it is one of its own
    in_row = np.arange(lines)[:, None] % a_row
    # Entries behind the last one that counts are of the last line.
    beyond = np.where(np.arange(lines) == lines - 1, lines * across, 0)
    mine = (place >= 0) & (place - beyond[:, None] < counts[:, None])
    keys = jnp.minimum(first[:, None] + place, across - 1)
    flags = (
        jnp.where(place == 0, np.where(in_row == 0, FIRST + START, FIRST), 0)
        + jnp.where(place + 1 == counts[:, None], np.where(in_row == a_row - 1, LAST + END, LAST), 0)
        + LOW * (keys * size[1] < whole_from[:, None])
        + HIGH * ((keys + 1) * size[1] > whole_to[:, None])
    )
    of_entry = lambda x: jnp.where(mine, x, 0).sum(axis=0)
    entries = (of_entry(x) for x in (line, keys, flags))
    return TileList(*(x.astype(jnp.int32) for x in (*entries, low, high, counts.sum(keepdims=True))))
