# SPDX-License-Identifier: Apache-2.0
"""The two Mosaic kernels: each call adds one tile of scores to what its line and its batch row collect in VMEM.

Scores are in base 2: queries arrive multiplied by scale * log2(e), since `exp2` is one instruction less than `exp`.

Q queries a tile, J keys, G query heads a key head, R = G * Q rows of scores, H and Hv widths of heads.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Num

from pallas_kernels.span_attention.fused import NOTHING
from pallas_kernels.span_attention.tiles import END, FIRST, HIGH, LAST, LOW, SOME, START, Format, Tile

LANES = 128
LOG2_E = math.log2(math.e)
UNSEEN = -1e30  # a score that does not count; its weight is exactly zero beside a maximum of at least LEAST
LEAST = -1e20  # the maximum of nothing
TINY = 1e-30  # less than the sum of any row that sees a key


class Shape(NamedTuple):
    """What a kernel needs to know when it is compiled."""

    tile: Tile
    soft_cap: float | None
    precision: lax.Precision
    tiles: Format

    @property
    def chunk(self) -> int:
        """Keys of a part."""
        return self.tile.keys // self.tile.chunks

    def part(self, number: int | None, rows: int) -> slice:
        """Returns a part of this many rows or queries of a tile; None: all of them."""
        each = rows // self.tile.parts
        return slice(None) if number is None else slice(number * each, (number + 1) * each)


def dot(x, y, contract: tuple[int, int], precision) -> Float[Array, 'M N']:
    """Multiplies two matrices over one axis of each, summed in float32."""
    axes = ((contract[:1], contract[1:]), ((), ()))
    return lax.dot_general(x, y, axes, precision=precision, preferred_element_type=jnp.float32)


def repeat(x: Num[Array, 'M 128'], width: int) -> Num[Array, 'M W']:
    """Widens a value that all 128 lanes carry to `width` lanes."""
    return x[:, :width] if width <= LANES else jnp.tile(x, (1, -(-width // LANES)))[:, :width]


def forward_kernel(tiles, q_ref, k_ref, v_ref, span_ref, out_ref, lse_ref, top, total, acc, *, shape):
    """Adds one tile to its line; span_ref is [2, Q, 128], lse_ref [R / 128, 128]."""
    entry = shape.tiles.entry(tiles, pl.program_id(1))
    groups, _, width = q_ref.shape
    size = groups * shape.tile.queries

    @pl.when(entry & FIRST != 0)
    def _():
        top[...] = jnp.full_like(top, LEAST)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    def add(here: slice, cut: bool, part: int | None = None) -> None:
        rows, queries = shape.part(part, size), shape.part(part, shape.tile.queries)
        q, values = q_ref[:, queries, :].reshape(-1, width), v_ref[here, :]
        scores = dot(q, k_ref[here, :], (1, 1), shape.precision)
        if shape.soft_cap:
            scores = capped(scores, shape.soft_cap)
        if cut:
            offset = shape.tiles.keys(entry) * shape.tile.keys + here.start
            low, high = (repeat(span_ref[i, queries, :] - offset, shape.chunk) for i in range(2))
            place = lax.broadcasted_iota(jnp.int32, low.shape, 1)
            seen = between(place, low, high)
            scores = jnp.where(jnp.tile(seen, (groups, 1)), scores, UNSEEN)
            values = hide(values, offset, *shape.tiles.bounds(tiles, entry, part))
        old = top[rows, :]
        new = jnp.maximum(old, scores.max(axis=1, keepdims=True))
        weights = jnp.exp2(scores - repeat(new, shape.chunk))
        shrink = jnp.exp2(old - new)
        # The sums of a row stay spread over the lanes until the line ends.
        sums = weights[:, :LANES]
        for lane in range(LANES, shape.chunk, LANES):
            sums = sums + weights[:, lane : lane + LANES]
        top[rows, :], total[rows, :] = new, total[rows, :] * shrink + sums
        more = dot(weights.astype(values.dtype), values, (1, 0), shape.precision)
        acc[rows, :] = acc[rows, :] * repeat(shrink, more.shape[1]) + more

    by_parts(entry, tiles, shape, add)

    @pl.when(entry & LAST != 0)
    def _():
        sums = total[...].sum(axis=1, keepdims=True)
        # A row that sees nothing has a sum and an output of zero.
        out = acc[...] * (1 / jnp.maximum(sums, TINY))
        out_ref[...] = out.reshape(out_ref.shape).astype(out_ref.dtype)
        sums, most = across(jnp.broadcast_to(sums, (size, LANES))), across(top[...])
        lse_ref[...] = jnp.where(sums > 0, most + jnp.log2(jnp.maximum(sums, TINY)), NOTHING)


def across(x: Float[Array, 'R 128']) -> Float[Array, 'R/128 128']:
    """Returns what each row carries on all of its lanes, 128 rows side by side: diagonals, far cheaper than turning."""
    x = x.reshape(-1, LANES, LANES)
    row, lane = (lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in (1, 2))
    return jnp.where(row == lane, x, 0.0).sum(axis=1)


def backward_kernel(tiles, q_ref, k_ref, v_ref, do_ref, rows_ref, dq_ref, dk_ref, dv_ref, dq, dk, dv, *, shape, scale):
    """Adds one tile to the gradients. Its scores stand keys by queries.

    rows_ref [4, R] carries for each row of scores: where its span begins and ends, lse and mean, these as their bits.
    """
    entry = shape.tiles.entry(tiles, pl.program_id(1))
    size = q_ref.shape[0] * shape.tile.queries

    @pl.when(entry & START != 0)
    def _():
        dk[...] = jnp.zeros_like(dk)
        dv[...] = jnp.zeros_like(dv)

    @pl.when(entry & FIRST != 0)
    def _():
        dq[...] = jnp.zeros_like(dq)

    def add(here: slice, cut: bool, part: int | None = None) -> None:
        rows, queries = shape.part(part, size), shape.part(part, shape.tile.queries)
        q, do = (x[:, queries, :].reshape(-1, x.shape[-1]) for x in (q_ref, do_ref))
        lse, mean = (lax.bitcast_convert_type(rows_ref[i : i + 1, rows], jnp.float32) for i in (2, 3))
        k, v = k_ref[here, :], v_ref[here, :]
        offset = shape.tiles.keys(entry) * shape.tile.keys + here.start
        if cut:
            k, v = (hide(x, offset, *shape.tiles.bounds(tiles, entry, part)) for x in (k, v))
        scores = dot(k, q, (1, 1), shape.precision)
        if shape.soft_cap:
            scores = capped(scores, shape.soft_cap)
        counted = scores
        if cut:
            place = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
            low, high = (rows_ref[i : i + 1, rows] - offset for i in range(2))
            seen = between(place, low, high)
            counted = jnp.where(seen, scores, UNSEEN)
        weights = jnp.exp2(counted - lse)
        dscores = weights * (dot(v, do, (1, 1), shape.precision) - mean)
        if shape.soft_cap:
            dscores = dscores * (1 - jnp.square(scores * (1 / (shape.soft_cap * LOG2_E))))
        dscores, weights = dscores.astype(q.dtype), weights.astype(do.dtype)
        place = pl.ds(pl.multiple_of(offset, LANES), shape.chunk)
        dv[place, :] += dot(weights, do, (1, 0), shape.precision)
        dk[place, :] += dot(dscores, q, (1, 0), shape.precision)
        dq[rows, :] += dot(dscores, k, (0, 0), shape.precision)

    by_parts(entry, tiles, shape, add)

    @pl.when(entry & LAST != 0)
    def _():
        dq_ref[...] = (dq[...] * scale).reshape(dq_ref.shape).astype(dq_ref.dtype)

    @pl.when(entry & END != 0)
    def _():
        dk_ref[...] = (dk[...] * (1 / LOG2_E)).astype(dk_ref.dtype)  # q carries scale * log2(e)
        dv_ref[...] = dv[...].astype(dv_ref.dtype)


def by_parts(entry, tiles, shape: Shape, add) -> None:
    """Runs add(keys, cut) for all keys of a tile, add(keys, True, part) for parts of which some query sees something.

    Whole tiles compare nothing. Tiles that spans cut are computed at once if all of their parts are seen.
    """
    chunks = [slice(i, i + shape.chunk) for i in range(0, shape.tile.keys, shape.chunk)]

    def all_at_once(cut: bool) -> None:
        for here in chunks:
            add(here, cut)

    cut, some = entry & (LOW | HIGH) != 0, entry & SOME != 0
    pl.when(~cut)(lambda: all_at_once(False))
    pl.when(cut & ~some)(lambda: all_at_once(True))
    for part in range(shape.tile.parts):
        low, high = shape.tiles.bounds(tiles, entry, part)
        for here in chunks:
            start = shape.tiles.keys(entry) * shape.tile.keys + here.start
            seen = (start < high) & (start + shape.chunk > low)
            pl.when(some & seen)(functools.partial(add, here, True, part))


def capped(scores, cap: float):
    """Returns cap * tanh(scores / cap) in base 2."""
    return jnp.tanh(scores * (1 / (cap * LOG2_E))) * (cap * LOG2_E)


def between(place, low, high):
    """Returns low <= place < high."""
    # One subtraction and one unsigned comparison. Spans end where they begin at the earliest.
    unsigned = lambda x: lax.bitcast_convert_type(x, jnp.uint32)
    return unsigned(place - low) < unsigned(high - low)


def hide(x: Num[Array, 'J W'], offset, low, high) -> Num[Array, 'J W']:
    """Returns keys or values with zeros where no query of the line looks: zero times what stands there may be NaN."""
    place = offset + lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where((place >= low) & (place < high), x, jnp.zeros_like(x))
