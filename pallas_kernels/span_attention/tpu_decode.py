# SPDX-License-Identifier: Apache-2.0
"""A few queries against a long cache on TPUs: one Mosaic kernel that reads the cache once, as it lies.

    a tile's scores, 2 key heads of 2 query heads         keys 0 | 1 | 2       each key of the cache stands there
    each, 1 query a row; `#` counts                heads     0 1 | 0 1 | 0 1   once a key head: rows of a tile are
                                          query head 0       # . | # . | # .   all heads of all queries, and one
                                                     1       # . | # . | # .   product serves them
                                                     2       . # | . # | . #
                                                     3       . # | . # | . #

The products between heads that do not belong together are free: a matrix unit is as busy with one row as with eight,
and what decoding waits for is the cache. In return nothing is transposed, copied or padded. Tiles of keys that no query
of a row sees are not in the list (`tiles.py`), so a row is read up to its own length.

B rows, L queries, N heads, R = L * N rows of scores, S keys, J of them a tile, K key heads, H and Hv widths of heads,
C = (keys at once) * K columns of scores.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pallas_kernels.span_attention.fused import NOTHING
from pallas_kernels.span_attention.tiles import FIRST, HIGH, LAST, LOW, Format, Planned, Tile, list_tiles
from pallas_kernels.span_attention.tpu_kernels import (
    LANES,
    LEAST,
    LOG2_E,
    UNSEEN,
    between,
    capped,
    dot,
    hide,
    repeat,
)

ROWS = 256  # most rows of scores, and
QUERIES = 16  # most queries, for which this kernel is faster than tiles of 128 queries (`docs/kernels.md`)
# Bytes of keys in a tile: transfers long enough that what a step costs besides does not show; chips as jax names them.
TILE_BYTES = {'TPU v5': 2 << 20, 'TPU7x': 2 << 20}
OTHERS = 1 << 20
SCORES = 1 << 18  # computed at once: fewer wait for one another, more do not fit


def few(q: Array | jax.ShapeDtypeStruct) -> bool:
    """Returns whether these queries are so few that the cache's bytes are what counts."""
    return q.shape[1] <= QUERIES and q.shape[1] * q.shape[2] <= ROWS


class Cut(NamedTuple):
    """How a cache is cut: keys a tile, and keys at once of those."""

    keys: int
    at_once: int

    def padded(self, num_keys: int) -> int:
        """Returns a row's keys in whole tiles."""
        return -(-num_keys // self.keys) * self.keys

    @classmethod
    def of(cls, q: Array | jax.ShapeDtypeStruct, k: Array | jax.ShapeDtypeStruct, tile_bytes: int) -> 'Cut':
        """Chooses tiles of `tile_bytes` of keys, a multiple of 128 keys, for q [B, L, N, H] and k [B, S, K, H]."""
        length, heads, width = k.shape[-3:]
        keys = LANES
        while keys < length and 2 * keys * heads * max(width, LANES) * k.dtype.itemsize <= tile_bytes:
            keys *= 2
        parts = [n for n in (1, 2, 4, 8, 16, 32) if keys % n == 0 and keys // n * heads % LANES == 0]
        small = [n for n in parts if keys // n * heads * q.shape[1] * q.shape[2] <= SCORES]
        return cls(keys, keys // min(small, default=parts[-1]))


def forward(
    q: Float[Array, 'B L N H'],
    k: Float[Array, 'depth B S K H'],
    v: Float[Array, 'depth B S K Hv'],
    planned: Planned,
    layer: Int[Array, ''],
    *,
    scale: float,
    soft_cap: float | None,
    cut: Cut,
    vmem: int,
    interpret: object,
) -> tuple[Float[Array, 'B L N Hv'], Float[Array, 'B L N']]:
    """See fused.Kernel.forward; `layer` says which of the cache's layers is read."""
    rows, length, heads, width = q.shape
    num_keys, kv_heads, value_width = *k.shape[2:4], v.shape[-1]
    scores = length * heads
    span = _within(planned.span, num_keys)
    tile = Tile(length, cut.keys)
    tiles = planned.tiles(span, cut.padded(num_keys), tile)
    # Bounds in columns, on all lanes.
    bounds = jnp.broadcast_to(jnp.repeat(span * kv_heads, heads, axis=1)[..., None], (rows, scores, 2, LANES))
    q = (q.astype(jnp.float32) * (scale * LOG2_E)).astype(q.dtype).reshape(rows, scores, width)
    k, v = (x.reshape(-1, num_keys * kv_heads, x.shape[-1]) for x in (k, v))
    columns = cut.at_once * kv_heads
    own = jnp.arange(scores)[:, None] % heads // (heads // kv_heads) == jnp.arange(columns) % kv_heads
    form = Format.of(rows, length, cut.padded(num_keys), tile)
    of_row, of_tile = _blocks(form)
    of_keys = lambda x: of_tile(cut.keys * kv_heads, x.shape[-1])
    call = pl.pallas_call(
        functools.partial(_kernel, form=form, cut=cut, kv_heads=kv_heads, soft_cap=soft_cap, precision=_precision(q)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(tiles[0],),
            in_specs=[
                of_row(scores, width), of_keys(k), of_keys(v), of_row(scores, LANES), of_row(scores, LANES),
                pl.BlockSpec((scores, columns), lambda t, *_: (0, 0)),
            ],
            out_specs=[of_row(scores, value_width), of_row(scores, LANES)],
            scratch_shapes=[pltpu.VMEM((scores, n), jnp.float32) for n in (LANES, LANES, value_width)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((rows, scores, value_width), v.dtype),
            jax.ShapeDtypeStruct((rows, scores, LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('arbitrary',), vmem_limit_bytes=vmem, disable_bounds_checks=True
        ),
        interpret=interpret,
        name='span_attention_decode',
    )  # fmt: skip
    out, lse = call(
        tiles, jnp.reshape(layer * rows, 1), q, k, v, bounds[:, :, 0], bounds[:, :, 1], jnp.where(own, 0.0, UNSEEN)
    )
    shape = (rows, length, heads)
    lse = lse[..., 0].reshape(shape)
    return out.reshape(*shape, value_width), jnp.where(lse < NOTHING, lse * (1 / LOG2_E), NOTHING)


def _blocks(form: Format) -> tuple[Callable[..., pl.BlockSpec], Callable[..., pl.BlockSpec]]:
    """Returns what makes specs of (what belongs to a row, a tile of its cache), of the shapes of their blocks."""

    def of_row(*block: int) -> pl.BlockSpec:
        index = lambda t, tiles, first: (form.row(form.entry(tiles, t)), *[0] * len(block))
        return pl.BlockSpec((None, *block), index)

    def of_tile(*block: int) -> pl.BlockSpec:
        def index(t, tiles, first):
            entry = form.entry(tiles, t)
            return first[0] + form.row(entry), form.keys(entry), 0

        return pl.BlockSpec((None, *block), index)

    return of_row, of_tile


def plan(q, k, span: Int[Array, 'B L 2'], cut: Cut) -> dict[tuple[int, ...], Int[Array, 'W']]:
    """Returns the list that `forward` needs for queries and keys of such shapes, as `Planned` keeps it."""
    num_keys, tile = cut.padded(k.shape[-3]), Tile(q.shape[1], cut.keys)
    return {(num_keys, *tile): list_tiles(_within(span, k.shape[-3]), num_keys, tile)}


def _within(span: Int[Array, 'B L 2'], num_keys: int) -> Int[Array, 'B L 2']:
    low, high = span[..., 0].clip(0, num_keys), span[..., 1].clip(0, num_keys)
    return jnp.stack([low, jnp.maximum(low, high)], axis=-1).astype(jnp.int32)


def _precision(q) -> lax.Precision:
    return lax.Precision.HIGHEST if q.dtype == jnp.float32 else lax.Precision.DEFAULT


def _kernel(
    tiles, _, q_ref, k_ref, v_ref, low_ref, high_ref, own_ref,
    out_ref, lse_ref, top, total, acc, *, form, cut, kv_heads, soft_cap, precision,
):  # fmt: skip
    """Adds one tile of the cache to its row; bounds are in columns of scores, own_ref [R, C] is 0 or UNSEEN."""
    entry = form.entry(tiles, pl.program_id(0))
    columns = cut.at_once * kv_heads

    @pl.when(entry & FIRST != 0)
    def _():
        top[...] = jnp.full_like(top, LEAST)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    def tile(some: bool) -> None:
        q, own = q_ref[...], own_ref[...]
        for start in range(0, cut.keys * kv_heads, columns):
            values = v_ref[start : start + columns, :]
            scores = dot(q, k_ref[start : start + columns, :], (1, 1), precision)
            if soft_cap:
                scores = capped(scores, soft_cap)
            if some:
                offset = form.keys(entry) * (cut.keys * kv_heads) + start
                place = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
                low, high = (repeat(ref[...] - offset, columns) for ref in (low_ref, high_ref))
                seen = between(place, low, high)
                scores = jnp.where(seen, scores, UNSEEN)
                values = hide(values, offset, *(x * kv_heads for x in form.bounds(tiles, entry)))
            if kv_heads > 1:
                scores = scores + own
            old = top[...]
            new = jnp.maximum(old, scores.max(axis=1, keepdims=True))
            weights = jnp.exp2(scores - repeat(new, columns))
            shrink = jnp.exp2(old - new)
            sums = weights[:, :LANES]
            for lane in range(LANES, columns, LANES):
                sums = sums + weights[:, lane : lane + LANES]
            top[...], total[...] = new, total[...] * shrink + sums
            more = dot(weights.astype(values.dtype), values, (1, 0), precision)
            acc[...] = acc[...] * repeat(shrink, more.shape[1]) + more

    whole = entry & (LOW | HIGH) == 0
    pl.when(whole)(lambda: tile(False))
    pl.when(~whole)(lambda: tile(True))

    @pl.when(entry & LAST != 0)
    def _():
        sums = total[...].sum(axis=1, keepdims=True)
        some = sums > 0
        out_ref[...] = (acc[...] * jnp.where(some, 1 / jnp.where(some, sums, 1.0), 0.0)).astype(out_ref.dtype)
        lse_ref[...] = jnp.where(some, top[...] + jnp.log2(jnp.where(some, sums, 1.0)), NOTHING)
