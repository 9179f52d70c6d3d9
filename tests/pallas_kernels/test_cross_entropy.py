# SPDX-License-Identifier: Apache-2.0
"""The loss without logits against the plain formula: values, gradients, chunks, meshes, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from pallas_kernels.cross_entropy import api, cross_entropy, fused
from pallas_kernels.cross_entropy.fused import Scores

T, D, V = 24, 12, 16
CASES = {
    'tied': Scores(vocab=V),
    'padded': Scores(vocab=V - 5, z_loss=0.1),
    'untied, biased': Scores(vocab=V, vocab_axis=1, z_loss=0.1),
    'capped, scaled, padded, biased': Scores(vocab=V - 3, vocab_axis=1, scale=1.7, soft_cap=2.0, z_loss=0.05),
}


@functools.cache
def arrays(case: str, dtype=jnp.float32):
    scores, rng = CASES[case], np.random.default_rng(0)
    normal = lambda *size: jnp.asarray(rng.normal(size=size), dtype)
    table = normal(V, D) if scores.vocab_axis == 0 else normal(D, V)
    hidden, bias = normal(T, D) * 0.3, normal(V) if 'biased' in case else None
    best = (hidden @ (table.T if scores.vocab_axis == 0 else table) + (0 if bias is None else bias))[:, : scores.vocab]
    labels = np.where(rng.random(T) < 0.3, best.argmax(axis=-1), rng.integers(0, scores.vocab, T))
    weight = jnp.asarray(rng.choice([0.0, 0.5, 1.0], T), jnp.float32)
    return hidden, table, bias, jnp.asarray(labels, jnp.int32), weight


def run(case: str, implementation: str, chunk: int | None = None, dtype=jnp.float32, place=lambda arrays: arrays):
    """Returns the parts of the loss and the gradients of it, divided by the weights as training does."""
    hidden, table, bias, labels, weight = place(arrays(case, dtype))

    def loss(hidden, table, bias):
        settings = dict(bias=bias, implementation=implementation, chunk=chunk)
        total, sums = cross_entropy(hidden, table, labels, weight, CASES[case], **settings)
        return total / weight.sum(), (total, sums)

    (_, found), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(hidden, table, bias)
    return found, grads


@functools.cache
def expected(case: str):
    return run(case, 'reference')


def close(got, want, tolerance=2e-6):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=str(path))


@pytest.mark.parametrize('chunk', [7, None])
@pytest.mark.parametrize('case', CASES)
def test_chunks_equal_the_reference(case, chunk):
    want = expected(case)
    assert 0 < want[0][1].correct < arrays(case)[-1].sum()
    close(run(case, 'xla', chunk), want)


@pytest.mark.parametrize(
    'case, shape',
    [
        ('padded', (1, 1, 1)),
        ('padded', (2, 2, 2)),
        ('capped, scaled, padded, biased', (2, 2, 2)),
        ('capped, scaled, padded, biased', (1, 1, 8)),
    ],
)
def test_every_mesh_gives_the_same(case, shape):
    mesh = jax.make_mesh(shape, ('data', 'fsdp', 'tp'), (AxisType.Explicit,) * 3)
    table = P('tp', 'fsdp') if CASES[case].vocab_axis == 0 else P('fsdp', 'tp')
    rows = ('data', 'fsdp')
    specs = P(rows, None), table, P('tp'), P(rows), P(rows)

    def place(arrays):
        put = lambda x, spec: None if x is None else jax.device_put(x, NamedSharding(mesh, spec))
        return tuple(map(put, arrays, specs))

    with jax.set_mesh(mesh):
        found = run(case, 'xla', 2, place=place)
    close(found, expected(case))
    for grad, spec in zip(found[1], specs, strict=False):
        assert grad is None or grad.sharding.is_equivalent_to(NamedSharding(mesh, spec), grad.ndim)


def test_bfloat16_is_as_good_as_its_inputs():
    case = 'capped, scaled, padded, biased'
    (total, _), grads = run(case, 'xla', None, jnp.bfloat16)
    (want, _), wanted = expected(case)
    np.testing.assert_allclose(total, want, rtol=0.01)
    for got, right in zip(grads, wanted, strict=True):
        assert got.dtype == jnp.bfloat16
        assert jnp.linalg.norm(got.astype(jnp.float32) - right) < 0.015 * jnp.linalg.norm(right)


def test_a_table_of_many_chunks_is_summed_in_float32():
    # In bfloat16 a sum of 512 equal parts stops growing at 256 times the part.
    tokens, scores = 512, Scores(vocab=2)
    hidden, table = jnp.ones((tokens, 1), jnp.bfloat16), jnp.zeros((2, 1), jnp.bfloat16)
    labels, weight = jnp.zeros(tokens, jnp.int32), jnp.ones(tokens)
    loss = lambda table: cross_entropy(hidden, table, labels, weight, scores, chunk=1)[0]
    np.testing.assert_array_equal(jax.grad(loss)(table)[:, 0], [-256.0, 256.0])


def products(grad_of: tuple[int, ...]) -> int:
    """Counts the matrix products of a step that asks for some gradients."""
    hidden, table, _, labels, weight = arrays('tied')
    loss = lambda hidden, table: cross_entropy(hidden, table, labels, weight, CASES['tied'], chunk=8)[0]
    step = jax.grad(loss, grad_of) if grad_of else loss
    return str(jax.make_jaxpr(step)(hidden, table)).count('dot_general')


def test_what_is_frozen_costs_no_product():
    assert [products(of) for of in ((), (0,), (1,), (0, 1))] == [1, 2, 2, 3]


def test_scores_of_a_chunk_exist_at_a_time():
    hidden, table, _, labels, weight = arrays('tied')
    loss = lambda chunk: lambda h, t: cross_entropy(h, t, labels, weight, CASES['tied'], chunk=chunk)[0]
    shapes = str(jax.make_jaxpr(jax.grad(loss(6), (0, 1)))(hidden, table))
    assert f'f32[{T},{V}]' not in shapes and f'f32[6,{V}]' in shapes


def test_tokens_without_weight_change_nothing():
    hidden, table, _, labels, weight = arrays('padded')
    spoilt = hidden.at[3].set(1e4)
    step = jax.jit(jax.value_and_grad(lambda h, w: cross_entropy(h, table, labels, w, CASES['padded'], chunk=5)[0]))
    close(step(spoilt, weight.at[3].set(0.0)), step(hidden, weight.at[3].set(0.0)))
    total, grad = step(hidden, jnp.zeros(T))
    assert total == 0 and not np.any(grad)


def test_no_gradient_of_the_parts():
    hidden, table, _, labels, weight = arrays('padded')
    part = lambda h: cross_entropy(h, table, labels, weight, CASES['padded'])[1].nll
    assert not np.any(jax.jit(jax.grad(part))(hidden))


@pytest.mark.parametrize(
    'change, message',
    [
        ({'hidden': (5, 4)}, r'hidden \(5, 4\), table \(8, 3\)'),
        ({'weight': (6,)}, r'weight \(6,\)'),
        ({'bias': (3,)}, r'each of 8 columns, not \(3,\)'),
        ({'table': (6, 3), 'bias': (6,)}, 'a vocabulary of 7 does not fit a table of 6 columns'),
    ],
)
def test_refuses_arrays_that_do_not_belong_together(change, message):
    shapes = {'hidden': (5, 3), 'table': (8, 3), 'labels': (5,), 'weight': (5,), 'bias': (8,)} | change
    found = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        api.check_arrays(**found, scores=Scores(vocab=7))


def test_refusals():
    hidden, table, _, labels, weight = arrays('tied')
    with pytest.raises(TypeError, match='labels of integers, not float32'):
        api.check_arrays(hidden, table, weight, weight, None, CASES['tied'])
    with pytest.raises(ValueError, match="no implementation 'cuda'"):
        cross_entropy(hidden, table, labels, weight, CASES['tied'], implementation='cuda')
    mesh = jax.make_mesh((2, 2), ('data', 'tp'), (AxisType.Explicit,) * 2)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"split along V over other axes .*'tp'"):
        kernel = api.Xla(scores=CASES['tied'])
        fused.cross_entropy(kernel, put(hidden, 'tp', None), put(table, 'tp', None), None, labels, weight)
