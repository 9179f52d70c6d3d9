# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs: the values that they must have, and the same ones however the batch lies on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.objectives.contrastive import Contrastive, sigmoid_pairs, sigmoid_ring, softmax_pairs, softmax_sums
from mmjax.sharding import ROWS, P

RNG = np.random.default_rng(0)
IMAGES, TEXTS = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in RNG.standard_normal((2, 8, 6), np.float32))
SCALE, BIAS = np.float32(3.0), np.float32(-1.5)
ALL = np.ones(8, bool)
SOME = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)


def softmax(images, texts, there, scale, bias):
    return softmax_sums(scale * jnp.einsum('ND,MD->NM', images, sharding.place(texts, P())) + bias, there)[0]


def plain(loss, images, texts, there):
    """Returns N times the loss of the pairs that are there, by its definition."""
    images, texts = images[there], texts[there]
    return loss(jnp.asarray(SCALE * images @ texts.T + BIAS)) * len(images)


LOSSES = {'softmax': (softmax, softmax_pairs), 'sigmoid': (sigmoid_ring, sigmoid_pairs)}


def value_and_gradients(loss, mesh, there):
    """Returns the loss and its gradients by pictures, texts, scale and bias, computed on a mesh."""
    with sharding.use(mesh):
        rows = lambda x: jax.device_put(x, NamedSharding(mesh, P(ROWS))) if mesh else jnp.asarray(x)
        there = rows(there)
        run = jax.jit(jax.value_and_grad(lambda i, t, s, b: loss(i, t, there, s, b), argnums=(0, 1, 2, 3)))
        value, gradients = run(rows(IMAGES), rows(TEXTS), jnp.asarray(SCALE), jnp.asarray(BIAS))
        return jax.tree.map(np.asarray, [value, *gradients])


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('there', [ALL, SOME], ids=['all', 'some'])
def test_negatives_are_those_of_the_whole_batch_on_every_mesh(name, there):
    loss, definition = LOSSES[name]
    alone = value_and_gradients(loss, None, there)
    np.testing.assert_allclose(alone[0], plain(definition, IMAGES, TEXTS, there), rtol=1e-5)
    for one, other in zip(alone, value_and_gradients(loss, sharding.make_mesh(2, 2, 2), there), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    assert not alone[1][~there].any() and not alone[2][~there].any()


def test_losses_fall_to_nothing_for_perfect_pairs():
    perfect = 40 * jnp.eye(5) - 20
    assert softmax_pairs(perfect) < 1e-5 and sigmoid_pairs(perfect) < 1e-5
    assert softmax_pairs(-perfect) > 30 and sigmoid_pairs(-perfect) > 30
    np.testing.assert_allclose(softmax_pairs(jnp.zeros((5, 5))), np.log(5), rtol=1e-6)
    np.testing.assert_allclose(sigmoid_pairs(jnp.zeros((5, 5))), 5 * np.log(2), rtol=1e-6)


def test_nearest_texts_are_counted():
    similarity = jnp.array([[3.0, 1, 9], [4, 2, 9], [0, 0, 9]])
    assert softmax_sums(similarity, jnp.array([True, True, True]))[1] == 1
    assert softmax_sums(similarity, jnp.array([True, True, False]))[1] == 1  # the third text is not there


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss is 'triplet'"):
        Contrastive(loss='triplet')(None, None)
