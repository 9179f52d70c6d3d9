# SPDX-License-Identifier: Apache-2.0
"""Counted work: as the formulas say, and as the program of the gradient has it."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mmjax.nn.attention import Attention, attend
from mmjax.nn.block import Block
from mmjax.nn.cache import KeyValue
from mmjax.nn.mlp import Mlp
from mmjax.plan.flops import Counter, Place, Work, by_part, count

B, D, F = 4, 8, 16
WEIGHTS = dict(first=jax.ShapeDtypeStruct((D, F), jnp.float32), second=jax.ShapeDtypeStruct((3, F, F), jnp.float32))
X = jax.ShapeDtypeStruct((B, D), jnp.float32)


def loss(trained, frozen, x, policy=None):
    w = {**trained, **frozen}
    with jax.named_scope('encoder'):
        x = x @ w['first']
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), policy=policy)
    with jax.named_scope('decoder'):
        x = jax.lax.scan(layer, x, w['second'])[0]
    return jax.lax.cond(x.sum() > 0, lambda x: (x @ x.T).sum(), lambda x: x.sum(), x)


def total(found):
    return sum(work.useful for work in found.values())


ONE, LAYERS, LAST = 2 * B * D * F, 3 * 2 * B * F * F, 2 * B * B * F


@pytest.mark.parametrize(
    'trained, forward, backward, again',
    [
        (('first', 'second'), ONE + LAYERS + LAST, ONE + 2 * LAYERS + 2 * LAST, LAYERS),
        (('second',), ONE + LAYERS + LAST, 2 * LAYERS + 2 * LAST, LAYERS),  # behind a frozen tower
        (('first',), ONE + LAYERS + LAST, ONE + LAYERS + 2 * LAST, LAYERS),  # before a frozen decoder
        ((), ONE + LAYERS + LAST, 0, 0),
    ],
)
def test_a_product_costs_again_for_each_side_that_is_trained(trained, forward, backward, again):
    split = {p: w for p, w in WEIGHTS.items() if p in trained}, {p: w for p, w in WEIGHTS.items() if p not in trained}
    found = count(loss, *split, X)
    work = Work(*map(sum, zip(*found.values(), strict=True)))
    # Of the scan's first round x may not depend on what is trained; of the others it does, and one body serves all.
    assert work == Work(forward, backward, again, 0)


def test_scopes_become_parts():
    found = by_part(count(loss, WEIGHTS, {}, X), ('encoder', 'decoder'))
    assert {part: work.forward for part, work in found.items()} == {'encoder': ONE, 'decoder': LAYERS, 'rest': LAST}


def test_it_is_what_the_gradient_computes():
    block = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=48))
    graph, params = nnx.split(nnx.eval_shape(lambda: block.build(32, rngs=nnx.Rngs(0))))
    x, span, bias = jnp.zeros((2, 16, 32)), jnp.zeros((2, 16, 2), jnp.int32), jnp.zeros((1, 2, 16, 16))

    def loss(params, x):  # with a bias attention is plain products, whose gradient can be counted in turn
        return nnx.merge(graph, params)(x, span, bias=bias)[0].sum()

    counter, jaxpr = Counter(), jax.make_jaxpr(jax.grad(loss))(params, x).jaxpr
    counter.walk(jaxpr, [False] * len(jaxpr.invars), Place())
    assert total(count(loss, params, x)) == sum(work.forward for work in counter.found.values()) > 0


@pytest.mark.parametrize('scope, share', [('decoder', 0.5), ('encoder', 1.0)])
def test_attention_by_its_shapes(scope, share):
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    arguments = array(2, 64, 4, 8), KeyValue(array(2, 64, 2, 8), array(2, 64, 2, 8))

    def loss(q, kv, span):
        with jax.named_scope(scope):
            return attend(q, kv, span, scale=1.0, soft_cap=None).sum()

    found = count(lambda q, kv, span: loss(q, kv, span), arguments[0], arguments[1], jnp.zeros((2, 64, 2), jnp.int32))
    product = 2 * 2 * 64 * 64 * 4 * 8 * share
    # Keys and values are not trained here: two products forward; backward one for each side that comes from q.
    assert found == {scope: Work(2 * product, 2 * product, 0, 4 * product)}
