# SPDX-License-Identifier: Apache-2.0
"""The specification, in plain JAX: it holds the scores of all tokens, and JAX differentiates it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.cross_entropy.fused import Scores, Sums, weighted


def cross_entropy(
    scores: Scores,
    hidden: Float[Array, 'T D'],
    table: Float[Array, 'V D'] | Float[Array, 'D V'],
    bias: Float[Array, 'V'] | None,
    labels: Int[Array, 'T'],
    weight: Float[Array, 'T'],
) -> tuple[Float[Array, ''], Sums]:
    """Returns the loss and its parts; see api.cross_entropy. Their gradients flow to the weights too."""
    columns = table if scores.vocab_axis == 0 else table.T
    y = jnp.dot(hidden.astype(table.dtype), columns.T, preferred_element_type=jnp.float32)
    y = (y if bias is None else y + bias) * scores.scale
    if scores.soft_cap is not None:
        y = scores.soft_cap * jnp.tanh(y / scores.soft_cap)
    y = y[:, : scores.vocab]
    total = jax.nn.logsumexp(y, axis=-1)
    label = jnp.take_along_axis(y, labels[:, None], axis=-1)[:, 0]
    parts = Sums(total - label, scores.z_loss * jnp.square(total), (label >= y.max(axis=-1)).astype(jnp.float32))
    sums = weighted(parts, weight)
    return sums.nll + sums.z_loss, sums
