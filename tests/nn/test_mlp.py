# SPDX-License-Identifier: Apache-2.0
"""The feed-forward part: activations against their formulas, gate, inner norm."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import disturbed
from flax import nnx

from mmjax import sharding
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import ACTIVATIONS, Mlp

RNG = np.random.default_rng(0)
FORMULAS = {
    'gelu': lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    'gelu_tanh': lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    'quick_gelu': lambda x: x / (1 + np.exp(-1.702 * x)),
    'relu': lambda x: np.maximum(x, 0),
    'relu2': lambda x: np.maximum(x, 0) ** 2,
    'silu': lambda x: x / (1 + np.exp(-x)),
}


def test_every_activation_has_a_formula():
    assert FORMULAS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize('act', FORMULAS)
def test_activation(act):
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(ACTIVATIONS[act](jnp.asarray(x, jnp.float32)), FORMULAS[act](x), atol=2e-6)


@pytest.mark.parametrize('norm', [None, Norm.Config(kind='rms', eps=1e-3)])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('gated', [False, True])
def test_mlp(gated, bias, norm):
    c = Mlp.Config(width=7, act='silu', gated=gated, bias=bias, inner_norm=norm)
    part = disturbed(lambda rngs: c.build(5, width_out=3, rngs=rngs))
    p = {path: np.asarray(w.get_value(), np.float64) for path, w in sharding.paths(part).items()}
    x = RNG.normal(size=(2, 4, 5))
    linear = lambda x, name: x @ p[f'{name}/kernel'] + p.get(f'{name}/bias', 0)
    silu = FORMULAS['silu']
    h = silu(linear(x, 'gate')) * linear(x, 'up') if gated else silu(linear(x, 'up'))
    if norm:
        h = h / np.sqrt(np.square(h).mean(-1, keepdims=True) + 1e-3) * p['inner_norm/scale']
    np.testing.assert_allclose(jax.jit(part)(jnp.asarray(x, jnp.float32)), linear(h, 'down'), atol=2e-5)
    assert any('bias' in path for path in p) == bias


def test_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="'swish'; choose one of"):
        Mlp.Config(width=4, act='swish').build(4, rngs=nnx.Rngs(0))
