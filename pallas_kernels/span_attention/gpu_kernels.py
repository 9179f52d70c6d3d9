# SPDX-License-Identifier: Apache-2.0
"""The three Triton kernels: attention of one tile of queries, its queries' gradients, one tile of keys' gradients.

Each program walks the other axis between the two ends of what is seen, in three loops:

    first     whole_first     whole_last     last       outer loops compare every key with every query's span and hide
      | cut ..... | whole .......... | cut ... |        what no query of the row sees; the inner one compares nothing

Scores are in base 2: `raw * factor`, where the factor carries scale * log2(e).

Q queries a tile, J keys, L queries and S keys a row (both whole tiles), G query heads a key head, H and Hv widths.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.span_attention.fused import NOTHING

LOG2_E = math.log2(math.e)
UNSEEN = -1e30  # a score that does not count; its weight is exactly zero beside a maximum of at least LEAST
LEAST = -1e20  # the maximum of nothing


class Shape(NamedTuple):
    """What a kernel needs to know when it is compiled."""

    queries: int
    keys: int
    groups: int
    scale: float
    soft_cap: float | None

    @property
    def factor(self) -> float:
        """What makes a raw score one in base 2."""
        return (self.soft_cap or self.scale) * LOG2_E

    def raw(self, x, y):
        """Returns scores before `factor`: x y^T, or its tanh."""
        scores = dot(x, y.T)
        return jnp.tanh(scores * (self.scale / self.soft_cap)) if self.soft_cap else scores


def dot(x, y):
    """Multiplies two matrices, summed in float32; float32 arrays are multiplied in float32."""
    return plgpu.dot(x, y, precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None)


def three_loops(ends_ref, body, carry):
    """Folds body(cut, i, carry) over the cut tiles, the whole ones and the cut ones behind them."""
    first, whole_first, whole_last, last = (ends_ref[i] for i in range(4))
    carry = lax.fori_loop(first, whole_first, functools.partial(body, True), carry)
    carry = lax.fori_loop(whole_first, whole_last, functools.partial(body, False), carry)
    return lax.fori_loop(whole_last, last, functools.partial(body, True), carry)


def rows(ref, start, size: int, cut: bool, limits_ref):
    """Returns keys or values from `start`; zeros outside the limits where cut, since zero times NaN is NaN."""
    ref = ref.at[pl.ds(start, size), :]
    if not cut:
        return plgpu.load(ref)
    place = start + jnp.arange(size)
    inside = (place >= limits_ref[0]) & (place < limits_ref[1])
    return plgpu.load(ref, mask=jnp.broadcast_to(inside[:, None], ref.shape), other=0.0)


def forward_kernel(q_ref, k_ref, v_ref, low_ref, high_ref, ends_ref, limits_ref, out_ref, lse_ref, *, shape: Shape):
    """Computes one tile of queries of one head: q_ref [Q, H], k_ref [S, H], v_ref [S, Hv], bounds [Q]."""
    q, low, high = q_ref[...], low_ref[...], high_ref[...]

    def tile(cut: bool, j, carry):
        top, total, acc = carry
        start = j * shape.keys
        raw = shape.raw(q, rows(k_ref, start, shape.keys, cut, limits_ref))
        if cut:
            place = start + jnp.arange(shape.keys)[None, :]
            raw = jnp.where((place >= low[:, None]) & (place < high[:, None]), raw, UNSEEN)
        new = jnp.maximum(top, raw.max(axis=1) * shape.factor)
        weights = jnp.exp2(raw * shape.factor - new[:, None])
        shrink = jnp.exp2(top - new)
        values = rows(v_ref, start, shape.keys, cut, limits_ref)
        more = dot(weights.astype(values.dtype), values)
        return new, total * shrink + weights.sum(axis=1), acc * shrink[:, None] + more

    zeros = jnp.zeros(shape.queries, jnp.float32)
    start = (zeros + LEAST, zeros, jnp.zeros(out_ref.shape, jnp.float32))
    top, total, acc = three_loops(ends_ref, tile, start)
    some = total > 0
    safe = jnp.where(some, total, 1.0)
    out_ref[...] = (acc / safe[:, None]).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(some, (top + jnp.log2(safe)) * (1 / LOG2_E), NOTHING)


def queries_kernel(
    q_ref, k_ref, v_ref, low_ref, high_ref, ends_ref, limits_ref, do_ref, lse_ref, mean_ref, dq_ref, *, shape: Shape
):
    """Computes the gradients of one tile of queries of one head."""
    q, low, high, do = q_ref[...], low_ref[...], high_ref[...], do_ref[...]
    lse, mean = lse_ref[...] * LOG2_E, mean_ref[...]

    def tile(cut: bool, j, dq):
        start = j * shape.keys
        k, v = (rows(ref, start, shape.keys, cut, limits_ref) for ref in (k_ref, v_ref))
        raw = shape.raw(q, k)
        counted = raw
        if cut:
            place = start + jnp.arange(shape.keys)[None, :]
            counted = jnp.where((place >= low[:, None]) & (place < high[:, None]), raw, UNSEEN)
        dscores = jnp.exp2(counted * shape.factor - lse[:, None]) * (dot(do, v.T) - mean[:, None])
        if shape.soft_cap:
            dscores = dscores * (1 - raw * raw)
        return dq + dot(dscores.astype(k.dtype), k)

    dq = three_loops(ends_ref, tile, jnp.zeros(dq_ref.shape, jnp.float32))
    dq_ref[...] = (dq * shape.scale).astype(dq_ref.dtype)


def keys_kernel(
    q_ref, k_ref, v_ref, low_ref, high_ref, ends_ref, limits_ref, do_ref, lse_ref, mean_ref, dk_ref, dv_ref,
    *, shape: Shape,
):  # fmt: skip
    """Computes the gradients of one tile of keys; q_ref [L, G, H], do_ref [L, G, Hv], lse_ref, mean_ref [G, L]."""
    first = pl.program_id(0) * shape.keys
    place = first + jnp.arange(shape.keys)
    inside = ((place >= limits_ref[0]) & (place < limits_ref[1]))[:, None]
    k, v = (plgpu.load(ref, mask=jnp.broadcast_to(inside, ref.shape), other=0.0) for ref in (k_ref, v_ref))

    def tile(head, cut: bool, i, carry):
        dk, dv = carry
        here = pl.ds(i * shape.queries, shape.queries)
        q, do = q_ref[here, head, :], do_ref[here, head, :]
        lse, mean = lse_ref[head, here] * LOG2_E, mean_ref[head, here]
        raw = shape.raw(k, q)
        counted = raw
        if cut:
            low, high = low_ref[here][None, :], high_ref[here][None, :]
            counted = jnp.where((place[:, None] >= low) & (place[:, None] < high), raw, UNSEEN)
        weights = jnp.exp2(counted * shape.factor - lse[None, :])
        dscores = weights * (dot(v, do.T) - mean[None, :])
        if shape.soft_cap:
            dscores = dscores * (1 - raw * raw)
        return dk + dot(dscores.astype(q.dtype), q), dv + dot(weights.astype(do.dtype), do)

    zeros = (jnp.zeros(dk_ref.shape, jnp.float32), jnp.zeros(dv_ref.shape, jnp.float32))
    of_head = lambda head, carry: three_loops(ends_ref, functools.partial(tile, head), carry)
    dk, dv = lax.fori_loop(0, shape.groups, of_head, zeros)
    dk_ref[...] = (dk * shape.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)
