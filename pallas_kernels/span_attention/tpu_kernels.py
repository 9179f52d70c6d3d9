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
from pallas_kernels.span_attention.tiles import END, FIRST, HIGH, LAST, LOW, START

LANES = 128
LOG2_E = math.log2(math.e)
UNSEEN = -1e30  # a score that does not count; its weight is exactly zero beside a maximum of at least LEAST
LEAST = -1e20  # the maximum of nothing


class Shape(NamedTuple):
    """What a kernel needs to know when it is compiled."""

    queries: int
    keys: int
    keys_at_once: int
    soft_cap: float | None
    precision: lax.Precision


def dot(x, y, contract: tuple[int, int], precision) -> Float[Array, 'M N']:
    """Multiplies two matrices over one axis of each, summed in float32."""
    axes = ((contract[:1], contract[1:]), ((), ()))
    return lax.dot_general(x, y, axes, precision=precision, preferred_element_type=jnp.float32)


def repeat(x: Num[Array, 'M 128'], width: int) -> Num[Array, 'M W']:
    """Widens a value that all 128 lanes carry to `width` lanes."""
    return x[:, :width] if width <= LANES else jnp.tile(x, (1, -(-width // LANES)))[:, :width]


def forward_kernel(
    line, keys, flags, line_low, line_high, q_ref, k_ref, v_ref, low_ref, high_ref,
    out_ref, lse_ref, top, total, acc, *, shape,
):  # fmt: skip
    """Adds one tile to its line; low_ref, high_ref [Q, 128] carry the spans."""
    t = pl.program_id(1)
    flag = flags[t]
    groups, _, width = q_ref.shape
    size = groups * shape.queries

    @pl.when(flag & FIRST != 0)
    def _():
        top[...] = jnp.full_like(top, LEAST)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    def tile(cut_low: bool, cut_high: bool) -> None:
        q = q_ref[...].reshape(size, width)
        for start in range(0, shape.keys, shape.keys_at_once):
            here = slice(start, start + shape.keys_at_once)
            values = v_ref[here, :]
            scores = dot(q, k_ref[here, :], (1, 1), shape.precision)
            if shape.soft_cap:
                scores = capped(scores, shape.soft_cap)
            if cut_low or cut_high:
                place = lax.broadcasted_iota(jnp.int32, (shape.queries, shape.keys_at_once), 1)
                offset = keys[t] * shape.keys + start
                low, high = (repeat(ref[...] - offset, shape.keys_at_once) for ref in (low_ref, high_ref))
                seen = between(place, low if cut_low else None, high if cut_high else None)
                scores = jnp.where(jnp.tile(seen, (groups, 1)), scores, UNSEEN)
                values = hide(values, offset, line_low[line[t]], line_high[line[t]])
            old = top[...]
            new = jnp.maximum(old, scores.max(axis=1, keepdims=True))
            weights = jnp.exp2(scores - repeat(new, shape.keys_at_once))
            shrink = jnp.exp2(old - new)
            # The sums of a row stay spread over the lanes until the line ends.
            sums = weights[:, :LANES]
            for lane in range(LANES, shape.keys_at_once, LANES):
                sums = sums + weights[:, lane : lane + LANES]
            top[...], total[...] = new, total[...] * shrink + sums
            more = dot(weights.astype(values.dtype), values, (1, 0), shape.precision)
            acc[...] = acc[...] * repeat(shrink, more.shape[1]) + more

    by_sides(flag, tile)

    @pl.when(flag & LAST != 0)
    def _():
        sums = total[...].sum(axis=1, keepdims=True)
        some = sums > 0
        out = acc[...] * jnp.where(some, 1 / jnp.where(some, sums, 1.0), 0.0)
        out_ref[...] = out.reshape(out_ref.shape).astype(out_ref.dtype)
        lse = jnp.where(some, top[:, :1] + jnp.log2(jnp.where(some, sums, 1.0)), NOTHING)
        lse_ref[...] = jnp.broadcast_to(lse, (size, LANES)).T[:1]


def backward_kernel(
    line, keys, flags, line_low, line_high, q_ref, k_ref, v_ref, low_ref, high_ref, do_ref, lse_ref, mean_ref,
    dq_ref, dk_ref, dv_ref, dq, dk, dv, *, shape, scale,
):  # fmt: skip
    """Adds one tile to the gradients. Its scores stand keys by queries; low_ref, high_ref are [1, Q]."""
    t = pl.program_id(1)
    flag = flags[t]
    groups, _, width = q_ref.shape
    size = groups * shape.queries

    @pl.when(flag & START != 0)
    def _():
        dk[...] = jnp.zeros_like(dk)
        dv[...] = jnp.zeros_like(dv)

    @pl.when(flag & FIRST != 0)
    def _():
        dq[...] = jnp.zeros_like(dq)

    def tile(cut_low: bool, cut_high: bool) -> None:
        q, do = q_ref[...].reshape(size, width), do_ref[...].reshape(size, -1)
        for start in range(0, shape.keys, shape.keys_at_once):
            here = slice(start, start + shape.keys_at_once)
            k, v = k_ref[here, :], v_ref[here, :]
            offset = keys[t] * shape.keys + start
            if cut_low or cut_high:
                k, v = (hide(x, offset, line_low[line[t]], line_high[line[t]]) for x in (k, v))
            scores = dot(k, q, (1, 1), shape.precision)
            if shape.soft_cap:
                scores = capped(scores, shape.soft_cap)
            counted = scores
            if cut_low or cut_high:
                place = lax.broadcasted_iota(jnp.int32, (shape.keys_at_once, size), 0)
                low, high = (jnp.tile(ref[...] - offset, (1, groups)) for ref in (low_ref, high_ref))
                seen = between(place, low if cut_low else None, high if cut_high else None)
                counted = jnp.where(seen, scores, UNSEEN)
            weights = jnp.exp2(counted - lse_ref[...])
            dscores = weights * (dot(v, do, (1, 1), shape.precision) - mean_ref[...])
            if shape.soft_cap:
                dscores = dscores * (1 - jnp.square(scores * (1 / (shape.soft_cap * LOG2_E))))
            dscores, weights = dscores.astype(q.dtype), weights.astype(do.dtype)
            place = pl.ds(pl.multiple_of(offset, LANES), shape.keys_at_once)
            dv[place, :] += dot(weights, do, (1, 0), shape.precision)
            dk[place, :] += dot(dscores, q, (1, 0), shape.precision)
            dq[...] += dot(dscores, k, (0, 0), shape.precision)

    by_sides(flag, tile)

    @pl.when(flag & LAST != 0)
    def _():
        dq_ref[...] = (dq[...] * scale).reshape(dq_ref.shape).astype(dq_ref.dtype)

    @pl.when(flag & END != 0)
    def _():
        dk_ref[...] = (dk[...] * (1 / LOG2_E)).astype(dk_ref.dtype)  # q carries scale * log2(e)
        dv_ref[...] = dv[...].astype(dv_ref.dtype)


def by_sides(flag, tile) -> None:
    """Runs tile(cut_low, cut_high) as the entry of the list says: a body each, so that whole tiles compare nothing."""
    for cut_low in (False, True):
        for cut_high in (False, True):
            wanted = flag & (LOW | HIGH) == LOW * cut_low + HIGH * cut_high
            pl.when(wanted)(functools.partial(tile, cut_low, cut_high))


def capped(scores, cap: float):
    """Returns cap * tanh(scores / cap) in base 2."""
    return jnp.tanh(scores * (1 / (cap * LOG2_E))) * (cap * LOG2_E)


def between(place, low, high):
    """Returns low <= place < high; a bound of None holds everywhere."""
    if low is None:
        return place < high
    if high is None:
        return place >= low
    # One subtraction and one unsigned comparison. Spans end where they begin at the earliest.
    unsigned = lambda x: lax.bitcast_convert_type(x, jnp.uint32)
    return unsigned(place - low) < unsigned(high - low)


def hide(x: Num[Array, 'J W'], offset, low, high) -> Num[Array, 'J W']:
    """Returns keys or values with zeros where no query of the line looks: zero times what stands there may be NaN."""
    place = offset + lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where((place >= low) & (place < high), x, jnp.zeros_like(x))
