# SPDX-License-Identifier: Apache-2.0
"""Directed kernels have no length of their own; gates; a recurrent unit reads what is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.nn.gated_layer import Layer, affine
from mmjax.nn.recurrent import Gru

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)


def test_a_directed_kernel_has_no_length():
    plain, directed = (affine(4, 3, normed=normed, rngs=nnx.Rngs(0)) for normed in (False, True))
    directed.bias.set_value(jnp.arange(3.0))
    np.testing.assert_allclose(plain(X) + jnp.arange(3), directed(X), rtol=1e-5, atol=1e-6)
    before = directed(X)
    directed.kernel.set_value(7 * directed.kernel[...])
    np.testing.assert_allclose(directed(X), before, rtol=1e-5, atol=1e-6)
    directed.length.set_value(2 * directed.length[...])
    np.testing.assert_allclose(
        directed(X) - directed.bias[...], 2 * (before - directed.bias[...]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize('gated', [False, True])
def test_layers(gated):
    layer = Layer.Config(gated=gated).build(4, 3, rngs=nnx.Rngs(0))
    y = layer.map(X)
    expected = jnp.tanh(y) / (1 + jnp.exp(-layer.gate(X))) if gated else jnp.maximum(y, 0)
    np.testing.assert_allclose(layer(X), expected, rtol=1e-5, atol=1e-6)


def test_a_recurrent_unit_passes_over_what_is_not_there():
    gru = jax.jit(Gru(4, 3, rngs=nnx.Rngs(0)).__call__)
    there = jnp.array([[False, True, True, False, True], [True] * 5])
    found = gru(X, there)
    np.testing.assert_allclose(found[0], gru(X[:1, jnp.array([1, 2, 4])])[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], gru(X)[1], rtol=1e-6)
