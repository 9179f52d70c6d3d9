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
    count: Int[Array, '']


@jax.named_scope('list_tiles')  # by this name, profiles and tests find it
def list_tiles(span: Int[Array, 'B L 2'], num_keys: int, size: tuple[int, int]) -> TileList:
    """Lists the tiles of `size` (queries, keys), which divides L and num_keys.

    Queries that see nothing keep one tile a line, so that somebody writes their zeros.
    """
    rows, length, _ = span.shape
    lines, across = rows * (length // size[0]), num_keys // size[1]
    a_row = lines // rows
    start, end = span.reshape(lines, size[0], 2).transpose(2, 0, 1)
    seeing = start < end
    low = jnp.where(seeing, start, num_keys).min(axis=-1).clip(0, num_keys)
    high = jnp.where(seeing, end, 0).max(axis=-1).clip(0, num_keys)
    # What lies between these two is seen by every query of the line.
    whole_from, whole_to = jnp.where(seeing, start, num_keys).max(axis=-1), jnp.where(seeing, end, 0).min(axis=-1)

    first = jnp.minimum(low, num_keys - 1) // size[1]
    counts = jnp.maximum(-(-high // size[1]) - first, 1)
    ends = jnp.cumsum(counts)
    entry = jnp.arange(lines * across, dtype=jnp.int32)
    line = jnp.minimum(jnp.searchsorted(ends, entry, side='right', method='compare_all'), lines - 1)
    place = entry - (ends - counts)[line]
    keys = jnp.minimum(first[line] + place, across - 1)
    at_first, at_last = place == 0, place == counts[line] - 1
    flags = (
        FIRST * at_first
        + LAST * at_last
        + START * (at_first & (line % a_row == 0))
        + END * (at_last & (line % a_row == a_row - 1))
        + LOW * (keys * size[1] < whole_from[line])
        + HIGH * ((keys + 1) * size[1] > whole_to[line])
    )
    return TileList(*(x.astype(jnp.int32) for x in (line, keys, flags, low, high, ends[-1])))
