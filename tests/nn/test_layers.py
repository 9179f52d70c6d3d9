# SPDX-License-Identifier: Apache-2.0
"""Linear, Norm, Embed and the draw of their first values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax import sharding
from mmjax.nn.layers import Embed, Linear, Norm, normal, parameter
from mmjax.sharding import P, w_DNH, w_NHD, w_VD

RNG = np.random.default_rng(0)


def array(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_normal_is_a_cut_normal_of_the_asked_deviation():
    draw = jax.jit(normal, static_argnums=(1, 2))(jax.random.key(0), (400, 500), 3.0)
    assert abs(draw.mean()) < 0.03 and abs(draw.std() - 3) < 0.03
    assert 6.8 < draw.max() < 6.83 and -6.83 < draw.min() < -6.8  # 2 deviations of the uncut normal
    inside = jnp.mean(jnp.abs(draw) < 3 / 0.87962566)
    assert abs(inside - 0.6827 / 0.9545) < 0.005
    # Neighbours in a row, in a column, and under the next key say nothing of each other.
    other = normal(jax.random.key(1), (400, 500), 3.0)
    for a, b in ((draw[:, 1:], draw[:, :-1]), (draw[1:], draw[:-1]), (draw, other)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


@pytest.mark.parametrize('shape_in, shape_out, spec', [(6, (3, 4), w_DNH), ((3, 4), 6, w_NHD)])
def test_linear_contracts_its_last_axes(shape_in, shape_out, spec):
    linear = Linear(shape_in, shape_out, bias=True, spec=spec, rngs=nnx.Rngs(0))
    linear.bias[...] = array(*linear.bias.shape)
    x = array(2, 5, *((shape_in,) if isinstance(shape_in, int) else shape_in))
    want = np.tensordot(x, linear.kernel[...], linear.num_in) + linear.bias[...]
    np.testing.assert_allclose(linear(x), want, atol=1e-5)


def test_linear_computes_in_its_parameters_type_and_answers_in_the_asked_one():
    linear = Linear(64, 64, bias=False, spec=P(None, None), rngs=nnx.Rngs(0))
    linear.kernel.set_value(linear.kernel[...].astype(jnp.bfloat16))
    x = array(3, 64)
    assert linear(x).dtype == jnp.bfloat16
    exact = x.astype(jnp.bfloat16).astype(jnp.float32) @ linear.kernel[...].astype(jnp.float32)
    np.testing.assert_allclose(linear(x, jnp.float32), exact, atol=1e-5)  # summed and left in float32


def test_parameter_refuses_a_spec_of_another_rank():
    with pytest.raises(ValueError, match='names 2 axes of a parameter with shape'):
        parameter(jnp.zeros((2, 3, 4)), P('fsdp', 'tp'))


@pytest.mark.parametrize('offset', [0.0, 1.0])
@pytest.mark.parametrize('kind', ['layer', 'rms'])
def test_norm(kind, offset):
    norm = Norm.Config(kind=kind, eps=1e-3, offset=offset).build((3, 4), rngs=nnx.Rngs(0))
    x = array(2, 5, 3, 4) + 2
    flat = np.asarray(x, np.float64).reshape(2, 5, 12)
    centred = flat - flat.mean(-1, keepdims=True) if kind == 'layer' else flat
    want = (centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-3)).reshape(x.shape)
    np.testing.assert_allclose(norm(x), want, atol=1e-5)  # as built, it scales by one
    norm.scale[...] = array(3, 4)
    want = want * (np.asarray(norm.scale[...]) + offset)
    if kind == 'layer':
        norm.bias[...] = array(3, 4)
        want = want + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), want, atol=1e-5)


def test_norm_keeps_float32_statistics_of_bfloat16():
    norm = Norm.Config(kind='layer').build(256, rngs=nnx.Rngs(0))
    x = (100 + array(4, 256)).astype(jnp.bfloat16)
    got = norm(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), norm(x.astype(jnp.float32)), atol=0.02)


def test_norm_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="'batch'; choose 'layer' or 'rms'"):
        Norm.Config(kind='batch').build(4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('shape', [None, (1, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_embed_looks_up_and_scores_on_every_mesh(shape):
    embed = Embed(16, 8, spec=w_VD, rngs=nnx.Rngs(0))
    ids, weight, x = jnp.asarray(RNG.integers(0, 16, (4, 5))), array(4, 5, 8), array(4, 5, 8)
    table = np.asarray(embed.table[...])
    mesh = sharding.make_mesh(*shape) if shape else None
    with sharding.use(mesh):
        graph, state = nnx.split(embed)
        if mesh:
            state = jax.device_put(state, sharding.shardings(embed, mesh))
            ids, weight, x = (jax.device_put(a, P(sharding.ROWS)) for a in (ids, weight, x))
        loss = lambda state: (nnx.merge(graph, state)(ids) * weight).sum()
        found = jax.jit(lambda state: nnx.merge(graph, state)(ids))(state)
        grad = jax.jit(jax.grad(loss))(state).table[...]
        scores = jax.jit(lambda state: nnx.merge(graph, state).attend(x))(state)
    np.testing.assert_array_equal(found, table[np.asarray(ids)])
    want = np.zeros_like(table)
    np.add.at(want, np.asarray(ids), np.asarray(weight))
    np.testing.assert_allclose(grad, want, atol=1e-5)
    np.testing.assert_allclose(scores, np.asarray(x) @ table.T, atol=1e-5)
