# SPDX-License-Identifier: Apache-2.0
"""Contrast with slow copies of both towers and queues of their past vectors (ALBEF, Li et al. 2021; BLIP).

N pairs of a batch, K vectors of a queue, E width. All vectors have length 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Queue(NamedTuple):
    """The slow towers' vectors of past batches, a ring: the oldest are overwritten."""

    images: Float[Array, 'K E']
    texts: Float[Array, 'K E']
    next: Int[Array, '']  # where the next vectors go

    def push(self, images: Float[Array, 'N E'], texts: Float[Array, 'N E']) -> 'Queue':
        """Returns the queue with a batch in it; raises ValueError unless its length is a multiple of the batch's."""
        size, new = len(self.images), len(images)
        if size % new:
            raise ValueError(f'a queue of {size} vectors is no multiple of a batch of {new}: the ring would tear')
        put = lambda old, batch: jax.lax.dynamic_update_slice(old, jax.lax.stop_gradient(batch), (self.next, 0))
        return Queue(put(self.images, images), put(self.texts, texts), (self.next + new) % size)


def follow(slow: dict[str, Array], fast: dict[str, Array], momentum: float = 0.995) -> dict[str, Array]:
    """Returns the slow towers' parameters after one step behind the fast ones."""
    return {path: momentum * slow[path] + (1 - momentum) * value for path, value in fast.items()}


def momentum_pairs(
    images: Float[Array, 'N E'],
    texts: Float[Array, 'N E'],
    slow_images: Float[Array, 'N E'],
    slow_texts: Float[Array, 'N E'],
    queue: Queue,
    *,
    temperature: Float[Array, ''] | float,
    alpha: Float[Array, ''] | float,
) -> tuple[Float[Array, ''], Float[Array, 'N M'], Float[Array, 'N M']]:
    """Returns (loss, similarities of pictures with slow texts, of texts with slow pictures), own batch before queue.

    The target of a row is `alpha` parts of what the slow towers think, and 1 - `alpha` of its own partner: a queue
    holds other texts that fit as well.
    """
    slow_images, slow_texts, queue = jax.lax.stop_gradient((slow_images, slow_texts, queue))
    all_texts = jnp.concatenate([slow_texts, queue.texts])
    all_images = jnp.concatenate([slow_images, queue.images])
    own = jnp.eye(len(images), len(all_texts))

    def side(fast: Array, slow: Array, others: Array) -> tuple[Array, Array]:
        similarity = fast @ others.T / temperature
        thought = jax.nn.softmax(slow @ others.T / temperature, axis=1)
        target = jax.lax.stop_gradient(alpha * thought + (1 - alpha) * own)
        return -(jax.nn.log_softmax(similarity, axis=1) * target).sum(axis=1).mean(), similarity

    pictures, to_texts = side(images, slow_images, all_texts)
    words, to_images = side(texts, slow_texts, all_images)
    return (pictures + words) / 2, to_texts, to_images
