# SPDX-License-Identifier: Apache-2.0
"""The specification, in plain JAX: it draws the dense mask and computes in float32. Slow, right on every backend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.span_attention.fused import NOTHING


def visible(span: Int[Array, '*B L 2'], num_keys: int) -> Bool[Array, '*B L {num_keys}']:
    """Draws the mask that `span` means. No fast path keeps it.

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
    bias: Float[Array, '#B N L S'] | None = None,
) -> tuple[Float[Array, 'B L N Hv'], Float[Array, 'B L N']]:
    """Returns attention over each query's interval of keys and the log of its sums; see fused.Kernel.forward."""
    rows, length, heads, _ = q.shape
    groups = heads // k.shape[2]
    mask = visible(span, k.shape[1])
    # Zero times what stands where nobody looks may be NaN.
    k, v = (jnp.where(mask.any(axis=1)[..., None, None], x, 0) for x in (k, v))
    q32, k32, v32 = (x.astype(jnp.float32) for x in (q, k, v))
    grouped = q32.reshape(rows, length, k.shape[2], groups, q.shape[-1])
    scores = jnp.einsum('BLKGH,BSKH->BKGLS', grouped, k32) * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32).reshape(-1, *scores.shape[1:])
    mask = mask[:, None, None]
    # Finite everywhere, so that a row which sees nothing has zero gradients and not NaN.
    scores = jnp.where(mask, scores, -1e30)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(scores - top), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    seeing = total > 0
    safe = jnp.where(seeing, total, 1.0)
    lse = jnp.where(seeing, top + jnp.log(safe), NOTHING)[..., 0]
    out = jnp.einsum('BKGLS,BSKH->BLKGH', weights / safe, v32)
    by_query = lambda x: jnp.moveaxis(x, 3, 1).reshape(rows, length, heads)
    return out.reshape(rows, length, heads, v.shape[-1]).astype(v.dtype), by_query(lse)
