# SPDX-License-Identifier: Apache-2.0
"""Contrast with queues: without slow opinions and queue it is the plain one, and the ring forgets the oldest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array

from mmjax.models.connector import unit
from mmjax.objectives.contrastive import softmax_pairs
from mmjax.objectives.momentum import Queue, follow, momentum_pairs

IMAGES, TEXTS = unit(array(3, 4)), unit(array(3, 4, seed=1))


def test_alone_it_is_the_plain_contrast():
    empty = Queue(jnp.zeros((0, 4)), jnp.zeros((0, 4)), jnp.int32(0))
    loss, to_texts, to_images = momentum_pairs(IMAGES, TEXTS, IMAGES, TEXTS, empty, temperature=0.5, alpha=0.0)
    np.testing.assert_allclose(loss, softmax_pairs(IMAGES @ TEXTS.T / 0.5), rtol=1e-6)
    np.testing.assert_allclose(to_texts, to_images.T, rtol=1e-6)


def test_targets_and_slow_towers_get_no_gradient():
    queue = Queue(unit(array(6, 4, seed=2)), unit(array(6, 4, seed=3)), jnp.int32(0))
    loss = lambda *vectors: momentum_pairs(*vectors, queue, temperature=0.5, alpha=0.4)[0]
    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(IMAGES, TEXTS, IMAGES, TEXTS)
    assert [bool(np.any(g)) for g in grads] == [True, True, False, False]


def test_a_ring_of_past_vectors():
    queue = Queue(jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.int32(0))
    for step in (1.0, 2.0, 3.0):
        queue = queue.push(jnp.full((2, 1), step), jnp.full((2, 1), -step))
    assert queue.images[:, 0].tolist() == [3, 3, 2, 2] and queue.texts[:, 0].tolist() == [-3, -3, -2, -2]
    assert int(queue.next) == 2
    with pytest.raises(ValueError, match='a queue of 4 vectors is no multiple of a batch of 3'):
        queue.push(jnp.zeros((3, 1)), jnp.zeros((3, 1)))


def test_slow_parameters_follow():
    assert float(follow({'a': jnp.ones(())}, {'a': 2 * jnp.ones(())}, momentum=0.75)['a']) == 1.25
