# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs: picture i belongs to text i, and to no other of the batch.

N pairs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def softmax_pairs(similarity: Float[Array, 'N N']) -> Float[Array, '']:
    """Returns the mean of two cross entropies: pictures among texts, texts among pictures (CLIP)."""
    n = similarity.shape[0]
    both = jax.nn.log_softmax(similarity, axis=1) + jax.nn.log_softmax(similarity, axis=0)
    # Masked, not indexed: rows lie on different devices.
    return -jnp.where(jnp.eye(n, dtype=bool), both, 0).sum() / (2 * n)


def sigmoid_pairs(similarity: Float[Array, 'N N']) -> Float[Array, '']:
    """Returns the binary cross entropies of all pairs, summed over texts, averaged over pictures (SigLIP)."""
    sign = 2 * jnp.eye(similarity.shape[0]) - 1
    return -jax.nn.log_sigmoid(sign * similarity).sum(axis=1).mean()
