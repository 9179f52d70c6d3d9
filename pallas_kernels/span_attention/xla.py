# SPDX-License-Identifier: Apache-2.0
"""Attention over key intervals without a kernel: one chunk of queries at a time, so that memory is O(L)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.span_attention import reference

CHUNK = 256


def attention(
    q: Float[Array, 'B L N H'],
    k: Float[Array, 'B S K H'],
    v: Float[Array, 'B S K Hv'],
    span: Int[Array, 'B L 2'],
    *,
    scale: float,
    soft_cap: float | None = None,
) -> Float[Array, 'B L N Hv']:
    """Returns attention over each query's interval of keys; see api.span_attention."""
    length = q.shape[1]
    block = jax.checkpoint(lambda q, span: reference.attention(q, k, v, span, scale=scale, soft_cap=soft_cap))
    if length <= CHUNK:
        return block(q, span)
    extra = -length % CHUNK
    chunks = lambda x: jnp.moveaxis(
        jnp.pad(x, ((0, 0), (0, extra)) + ((0, 0),) * (x.ndim - 2)).reshape(x.shape[0], -1, CHUNK, *x.shape[2:]), 1, 0
    )
    out = jax.lax.map(lambda args: block(*args), (chunks(q), chunks(span)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], length + extra, *out.shape[3:])[:, :length]
