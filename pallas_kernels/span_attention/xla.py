# SPDX-License-Identifier: Apache-2.0
"""Attention over key intervals in plain XLA: blocks of scores, only those that some query of the chunk sees.

    keys     0       128     256     384             rows of `#`: what the loops compute for two packed documents
    queries  ####### ....... ....... .......         (causal, the second starts at 200): each chunk of queries runs
             ####### ####### ....... .......         over the key blocks from its lowest start to its highest end
             ....... ####### ####### .......
             ....... ####### ####### #######

The softmax is accumulated over key blocks and the backward pass computes the scores again, so memory is O(L).
`docs/kernels.md` has its times on a CPU beside dense scores and torch's flash attention.

B rows, L queries, C of them a chunk, S keys, J of them a block, K key heads, G query heads each, H head width.
A chunk's queries of one key head stand in one axis: Q = G * C.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.platform import platform
from pallas_kernels.span_attention.fused import NOTHING

FEW = 32  # queries times heads of a row: with 32 key heads of 128 both ways take as long


class Tiles(NamedTuple):
    """How scores are cut: C queries by J keys; rows one by one, or all at once over the union of their keys."""

    queries: int
    keys: int
    by_row: bool


def tiles(length: int, num_keys: int) -> Tiles:
    """Chooses the tiles: on a CPU small enough for its cache, elsewhere large enough to keep the device busy."""
    cpu = platform() == 'cpu'
    if max(length, num_keys) <= (192 if cpu else 512):
        return Tiles(length, num_keys, by_row=False)
    queries, keys = (128, 64) if cpu else (512, 512)
    return Tiles(min(length, queries), min(num_keys, keys), by_row=cpu)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xla:
    """A fused.Kernel for any backend."""

    scale: float
    soft_cap: float | None = None
    tile: Tiles | None = None  # None: chosen by the shapes and the backend

    def forward(self, q, k, v, span):
        """See fused.Kernel.forward."""
        if self.tile is None and platform() == 'cpu' and q.shape[1] * q.shape[2] <= FEW:
            return _few(q, k, v, span, self.scale, self.soft_cap)
        kv_heads, tile = k.shape[2], self._tile(q, k)
        parts = (_cut(q, kv_heads, tile.queries), *_chunk_spans(span, k.shape[1], tile))

        def row(parts, k, v):
            chunk = lambda part: _forward_chunk(*part, k, v, self.scale, self.soft_cap, tile.keys)
            return lax.map(chunk, parts)

        out, lse = _over_rows(row, tile)(parts, k, v)
        join = lambda x: _join(x, kv_heads, tile.queries, q.shape[1], q.shape[2])
        return join(out), join(lse[..., None])[..., 0]

    def backward(self, q, k, v, span, grad, lse, mean):
        """See fused.Kernel.backward."""
        kv_heads, tile = k.shape[2], self._tile(q, k)
        cut = lambda x: _cut(x, kv_heads, tile.queries)
        parts = (
            cut(q),
            *_chunk_spans(span, k.shape[1], tile),
            cut(grad),
            *(cut(x[..., None])[..., 0] for x in (mean, lse)),
        )

        def row(parts, k, v):
            chunk = lambda sums, part: _backward_chunk(sums, *part, k, v, self.scale, self.soft_cap, tile.keys)
            zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
            (dk, dv), dq = lax.scan(chunk, zeros, parts)
            return dq, dk.astype(k.dtype), dv.astype(v.dtype)

        dq, dk, dv = _over_rows(row, tile)(parts, k, v)
        return _join(dq, kv_heads, tile.queries, q.shape[1], q.shape[2]), dk, dv

    def _tile(self, q, k) -> Tiles:
        tile = self.tile or tiles(q.shape[1], k.shape[1])
        return tile._replace(keys=min(tile.keys, k.shape[1]))


def _few(q, k, v, span, scale, soft_cap):
    """Attends for so few queries that reading the keys is the cost: all heads of a row share one product with them.

    keys [S, K * H] as they lie in a cache     x     a query head a column, zero but for its own key head's rows

    A product for each key head is less arithmetic, but takes a transposed copy of the cache. On one core 8 heads of 64
    and 256 keys took 16 ms a token of 8 rows and 8 layers; by heads 27 ms, in blocks of keys 35 ms.
    """
    (rows, length, heads, _), (keys, kv_heads) = q.shape, k.shape[1:3]
    low, high = (x[:, None] for x in jax.vmap(_bounds)(span))
    places = jnp.arange(keys)
    inside = ((low <= places) & (places < high))[..., None, None]
    k, v = (jnp.where(inside, x, 0).reshape(rows, keys, -1) for x in (k, v))
    own = jnp.eye(kv_heads, dtype=q.dtype)
    grouped = q.reshape(rows, length, kv_heads, heads // kv_heads, -1)
    columns = jnp.einsum('BLKGH,KM->BKHLMG', grouped, own).reshape(rows, k.shape[-1], length * heads)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = dot('BSE,BEQ->BSQ', k, columns).reshape(rows, keys, length, heads) * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    seen = ((span[..., :1] <= places) & (places < span[..., 1:])).transpose(0, 2, 1)[..., None]
    top = jnp.where(seen, scores, -NOTHING).max(axis=1)
    weights = jnp.where(seen, jnp.exp(scores - top[:, None]), 0.0)
    total = weights.sum(axis=1)
    safe = jnp.where(total > 0, total, 1.0)
    out = dot('BSQ,BSE->BQE', weights.reshape(rows, keys, -1).astype(v.dtype), v)
    out = out.reshape(rows, length, kv_heads, heads // kv_heads, kv_heads, -1)
    out = jnp.einsum('BLKGKH->BLKGH', out).reshape(rows, length, heads, -1)
    return (out / safe[..., None]).astype(v.dtype), jnp.where(total > 0, top + jnp.log(safe), NOTHING)


def _forward_chunk(q, span, first, last, k, v, scale, soft_cap, size):
    bounds = _bounds(span)

    def block(j, carry):
        top, total, out = carry
        start, keys, values = _block(j, size, k, v, bounds)
        scores, seen = _scores(q, keys, span, j * size, start, scale, soft_cap)
        new_top = jnp.maximum(top, jnp.where(seen, scores, -NOTHING).max(axis=-1))
        weights = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0.0)
        shrink = jnp.exp(top - new_top)
        more = jnp.einsum('KQJ,JKH->KQH', weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
        return new_top, total * shrink + weights.sum(axis=-1), out * shrink[..., None] + more

    zeros = jnp.zeros(q.shape[:2], jnp.float32)
    start = (zeros - NOTHING, zeros, jnp.zeros((*q.shape[:2], v.shape[-1])))
    top, total, out = _fold(block, start, first, last, size == k.shape[0])
    safe = jnp.where(total > 0, total, 1.0)
    return (out / safe[..., None]).astype(v.dtype), jnp.where(total > 0, top + jnp.log(safe), NOTHING)


def _backward_chunk(sums, q, span, first, last, grad, mean, log_sum, k, v, scale, soft_cap, size):
    bounds = _bounds(span)

    def block(j, carry):
        dq, dk, dv = carry
        start, keys, values = _block(j, size, k, v, bounds)
        scores, seen = _scores(q, keys, span, j * size, start, scale, soft_cap)
        weights = jnp.where(seen, jnp.exp(scores - log_sum[..., None]), 0.0)
        dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        dscores = weights * (dot('KQH,JKH->KQJ', grad, values) - mean[..., None])
        if soft_cap is not None:
            dscores = dscores * (1 - jnp.square(scores / soft_cap))
        dscores, weights = (dscores * scale).astype(q.dtype), weights.astype(grad.dtype)
        dq = dq + dot('KQJ,JKH->KQH', dscores, keys)
        dk = _add(dk, start, dot('KQJ,KQH->JKH', dscores, q))
        return dq, dk, _add(dv, start, dot('KQJ,KQH->JKH', weights, grad))

    dq, dk, dv = _fold(block, (jnp.zeros(q.shape, jnp.float32), *sums), first, last, size == k.shape[0])
    return (dk, dv), dq.astype(q.dtype)


def _fold(block, carry, first, last, single):
    # One block that holds all keys needs no loop, even where no query sees any of them.
    return block(0, carry) if single else lax.fori_loop(first, last, block, carry)


def _scores(q, keys, span, from_key, start, scale, soft_cap):
    """Returns a block's scores [K, Q, J] and which of them count."""
    scores = jnp.einsum('KQH,JKH->KQJ', q, keys, preferred_element_type=jnp.float32) * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    places = start + jnp.arange(keys.shape[0])
    # The last block starts early where it would stick out; what it shares with the one before is not counted again.
    seen = (span[:, :1] <= places) & (places < span[:, 1:]) & (places >= from_key)
    return scores, jnp.tile(seen, (q.shape[1] // span.shape[0], 1))


def _bounds(span):
    """Returns the lowest start and the highest end of a chunk's spans; nothing lies between them if all are empty."""
    seeing = span[:, 0] < span[:, 1]
    most = jnp.iinfo(span.dtype).max
    return jnp.where(seeing, span[:, 0], most).min(), jnp.where(seeing, span[:, 1], 0).max()


def _block(j, size, k, v, bounds):
    """Returns a block's first place, keys and values: zeros where no query looks, since zero times NaN is NaN."""
    start, (low, high) = jnp.minimum(j * size, k.shape[0] - size), bounds
    places = start + jnp.arange(size)
    inside = ((low <= places) & (places < high))[:, None, None]
    return start, *(jnp.where(inside, lax.dynamic_slice_in_dim(x, start, size), 0) for x in (k, v))


def _add(total, start, part):
    old = lax.dynamic_slice_in_dim(total, start, part.shape[0])
    return lax.dynamic_update_slice_in_dim(total, old + part, start, 0)


def _cut(x: Float[Array, 'B L N H'], kv_heads: int, size: int) -> Float[Array, 'B chunks K Q H']:
    b, length, n, h = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
    x = x.reshape(b, -1, size, kv_heads, n // kv_heads, h)
    return x.transpose(0, 1, 3, 4, 2, 5).reshape(b, -1, kv_heads, n // kv_heads * size, h)


def _join(
    x: Float[Array, 'B chunks K Q H'], kv_heads: int, size: int, length: int, heads: int
) -> Float[Array, 'B L N H']:
    b, h = x.shape[0], x.shape[-1]
    x = x.reshape(b, -1, kv_heads, heads // kv_heads, size, h).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(b, -1, heads, h)[:, :length]


def _chunk_spans(span: Int[Array, 'B L 2'], num_keys: int, tile: Tiles) -> tuple[Array, Array, Array]:
    """Returns the spans of every chunk [B, chunks, C, 2], and the first and last + 1 block of keys that it sees."""
    span = jnp.pad(span, ((0, 0), (0, -span.shape[1] % tile.queries), (0, 0)))
    span = span.reshape(span.shape[0], -1, tile.queries, 2)
    start, end = jnp.maximum(span[..., 0], 0), jnp.minimum(span[..., 1], num_keys)
    axes = -1 if tile.by_row else (0, -1)
    first = jnp.where(start < end, start, num_keys).min(axis=axes) // tile.keys
    last = -(-jnp.where(start < end, end, 0).max(axis=axes) // tile.keys)
    return span, first, last


def _over_rows(row, tile):
    if tile.by_row:
        return lambda parts, k, v: lax.map(lambda args: row(*args), (parts, k, v))
    # The bounds of the loops are the same for all rows and must stay unbatched: a batched loop runs on selects.
    axes = lambda parts: tuple(None if i in (2, 3) else 0 for i in range(len(parts)))
    return lambda parts, k, v: jax.vmap(row, in_axes=(axes(parts), 0, 0))(parts, k, v)
