# SPDX-License-Identifier: Apache-2.0
"""The specification, in plain JAX: it draws the dense mask and computes in float32. Slow, right on every backend."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def visible(span: Int[Array, '*B L 2'], num_keys: int) -> Bool[Array, '*B L {num_keys}']:
    """Draws the mask that `span` means; only the reference and the tests call it.

    causal text   (0,1) (0,2) (0,3)     1.. / 11. / 111
    image, text   (0,2) (0,2) (0,3)     11. / 11. / 111
    packed pair   (0,1) (0,2) (2,3)     1.. / 11. / ..1
    padding       (0,0) (2,1)           ... / ...
    """
    keys = jnp.arange(num_keys)
    return (span[..., :1] <= keys) & (keys < span[..., 1:])


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
    rows, length, heads, _ = q.shape
    groups = heads // k.shape[2]
    q32, k32, v32 = (x.astype(jnp.float32) for x in (q, k, v))
    grouped = q32.reshape(rows, length, k.shape[2], groups, q.shape[-1])
    scores = jnp.einsum('BLKGH,BSKH->BKGLS', grouped, k32) * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    mask = visible(span, k.shape[1])[:, None, None]
    # Finite everywhere, so that a row which sees nothing has zero gradients and not NaN.
    scores = jnp.where(mask, scores, -1e30)
    weights = jnp.where(mask, jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
    out = jnp.einsum('BKGLS,BSKH->BLKGH', weights, v32)
    return out.reshape(rows, length, heads, v.shape[-1]).astype(v.dtype)
