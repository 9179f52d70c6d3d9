# SPDX-License-Identifier: Apache-2.0
"""Attention against a loop over tokens in numpy; its switches; grouped heads on meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax import sharding
from mmjax.nn.attention import Attention
from mmjax.nn.layers import Norm
from mmjax.nn.positions import Rotary
from mmjax.sharding import P

WIDTH, SOURCE = 12, 10
PLAIN = Attention.Config(heads=4, kv_heads=2, head_width=6)
BIASES = dict(q_bias=True, k_bias=True, v_bias=True, o_bias=True)


def build(c: Attention.Config, source: int | None = None) -> Attention:
    return disturbed(lambda rngs: c.build(WIDTH, source_width=source, rngs=rngs))


def by_hand(part: Attention, x, source, span, c: Attention.Config) -> np.ndarray:
    """Computes the attention of every head and token in turn, in float64."""
    p = {path: np.asarray(w.get_value(), np.float64) for path, w in sharding.paths(part).items()}
    project = lambda x, name: np.einsum('lD,DNH->lNH', x, p[f'{name}/kernel']) + p.get(f'{name}/bias', 0)
    rms = lambda x, scale: x / np.sqrt(np.square(x).mean(-1, keepdims=True) + c.qk_norm.eps) * scale
    out = np.zeros((*x.shape[:2], WIDTH))
    for b in range(x.shape[0]):
        q, k, v = project(x[b], 'q'), project(source[b], 'k'), project(source[b], 'v')
        if c.qk_norm:
            q, k = rms(q, p['q_norm/scale']), rms(k, p['k_norm/scale'])
        for i in range(x.shape[1]):
            start, end = np.asarray(span[b, i])
            start = max(start, i + 1 - c.window) if c.window else start
            heads = np.zeros(q.shape[1:])
            for n in range(q.shape[1]) if start < end else ():
                kv = n // (q.shape[1] // k.shape[1])
                score = k[start:end, kv] @ q[i, n] * (c.scale or q.shape[-1] ** -0.5)
                score = c.soft_cap * np.tanh(score / c.soft_cap) if c.soft_cap else score
                weight = np.exp(score - score.max())
                heads[n] = weight @ v[start:end, kv] / weight.sum()
            if c.inner_norm:
                mean, var = heads.mean(), heads.var()
                heads = (heads - mean) / np.sqrt(var + c.inner_norm.eps) * p['inner_norm/scale'] + p['inner_norm/bias']
            out[b, i] = np.einsum('NH,NHD->D', heads, p['o/kernel']) + p.get('o/bias', 0)
    return out


@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(kv_heads=None, head_width=None),
        BIASES,
        dict(v_bias=True),
        dict(qk_norm=Norm.Config(kind='rms', eps=1e-2), scale=0.7),
        dict(inner_norm=Norm.Config(eps=1e-2), soft_cap=0.5, **BIASES),
        dict(window=3),
    ],
    ids=['grouped', 'as many key heads', 'biases', 'one bias', 'qk norm', 'inner norm, cap', 'window'],
)
def test_attention_by_hand(changes):
    c = dataclasses.replace(PLAIN, **changes)
    part, x = build(c), array(2, 7, WIDTH)
    place = jnp.arange(7)
    span = jnp.stack([jnp.stack([place * 0, place + 1], -1), jnp.stack([place // 4 * 4, place + 1], -1)])
    span = span.at[1, 6].set(0)
    got = jax.jit(lambda x: part(x, part.keys_values(x), span))(x)
    np.testing.assert_allclose(got, by_hand(part, x, x, span, c), atol=2e-5)


def test_cross_attention_reads_a_source_of_another_width():
    part, x, source = build(PLAIN, SOURCE), array(2, 5, WIDTH), array(2, 8, SOURCE)
    span = jnp.array([[[0, 8], [0, 3], [3, 8], [2, 2], [7, 8]]] * 2)
    got = jax.jit(lambda x: part(x, part.keys_values(source), span))(x)
    np.testing.assert_allclose(got, by_hand(part, x, source, span, PLAIN), atol=2e-5)
    assert not np.any(got[:, 3])


@pytest.mark.parametrize('rows', [1, 4])
def test_a_bias_of_scores_on_a_mesh(rows):
    """A bias that favours one key beyond all others leaves that key's values; heads and rows keep their own."""
    part = build(dataclasses.replace(PLAIN, kv_heads=None))
    x, span = array(4, 5, WIDTH), jnp.tile(jnp.array([[0, 5]]), (4, 5, 1))
    chosen = np.random.default_rng(0).integers(0, 5, (rows, 4, 5))
    bias = 1e4 * jax.nn.one_hot(chosen, 5)
    run = jax.jit(lambda part, x, span, bias: part(x, part.keys_values(x), span, bias=bias))
    values = np.asarray(part.v(x))
    index = np.broadcast_to(chosen, (4, 4, 5))
    collected = values[np.arange(4)[:, None, None], index, np.arange(4)[:, None]].swapaxes(1, 2)
    want = np.einsum('BLNH,NHD->BLD', collected, np.asarray(part.o.kernel.get_value()))
    np.testing.assert_allclose(run(part, x, span, bias), want, atol=1e-5)
    with sharding.use(mesh := sharding.make_mesh(1, 2, 2)):
        placed = jax.device_put(nnx.state(part), sharding.shardings(part, mesh))
        spec = P(sharding.ROWS if rows > 1 else None)
        args = [jax.device_put(a, P(sharding.ROWS)) for a in (x, span)] + [jax.device_put(bias, spec)]
        np.testing.assert_allclose(run(nnx.merge(nnx.graphdef(part), placed), *args), want, atol=1e-5)


def test_queries_and_keys_both_turn():
    """What is seen depends on distances, so a shift of all positions changes nothing, and a stretch does."""
    part, x, place = build(PLAIN), array(2, 5, WIDTH), jnp.tile(jnp.arange(5), (2, 1))
    rotary, span = Rotary.Config().build(6), jnp.stack([place * 0, place + 1], axis=-1)
    run = jax.jit(lambda place: part(x, part.keys_values(x, rotary(place)), span, rotary(place)))
    np.testing.assert_allclose(run(place), run(place + 7), atol=1e-5)
    assert np.abs(run(place) - run(2 * place)).max() > 0.01


@pytest.mark.parametrize('bias', ['q_bias', 'k_bias', 'v_bias', 'o_bias'])
def test_each_bias_has_its_own_switch(bias):
    part = build(dataclasses.replace(PLAIN, **{bias: True}))
    assert [path for path in sharding.paths(part) if path.endswith('bias')] == [f'{bias[0]}/bias']


@pytest.mark.parametrize('shape, kv_heads', [((2, 2, 2), 2), ((1, 2, 4), 2), ((1, 2, 4), 1), ((1, 1, 8), 1)])
def test_key_heads_fewer_than_tp_are_kept_whole(shape, kv_heads):
    c = dataclasses.replace(PLAIN, heads=8, kv_heads=kv_heads, **BIASES)
    x, span = array(4, 5, WIDTH), jnp.tile(jnp.array([[0, 5]]), (4, 5, 1))
    make = lambda rngs: c.build(WIDTH, rngs=rngs)
    run = lambda part, x, span: part(x, part.keys_values(x), span)
    plain = sharding.init_sharded(make, jax.random.key(0), None)
    mesh = sharding.make_mesh(*shape)
    with sharding.use(mesh):
        part = sharding.init_sharded(make, jax.random.key(0), mesh)
        rows = [jax.device_put(a, P(sharding.ROWS)) for a in (x, span)]
        got = jax.jit(run)(part, *rows)
    heads = 'tp' if kv_heads % shape[2] == 0 else None
    assert sharding.param_specs(part, mesh)['k/kernel'] == P('fsdp', heads, None)
    np.testing.assert_allclose(got, jax.jit(run)(plain, x, span), atol=1e-5)


def test_heads_that_do_not_split_are_refused_with_both_numbers():
    c = dataclasses.replace(PLAIN, heads=6, kv_heads=3)
    mesh = sharding.make_mesh(tp=4)
    with pytest.raises(ValueError, match=r'k/kernel with shape \(12, 3, 6\).*size 3 cannot be split over tp=4'):
        sharding.init_sharded(lambda rngs: c.build(WIDTH, rngs=rngs), jax.random.key(0), mesh)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(kv_heads=3), 'heads 4 is no multiple of kv_heads 3'),
        (dict(heads=5, kv_heads=5, head_width=None), 'width 12'),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **changes).build(WIDTH, rngs=nnx.Rngs(0))
