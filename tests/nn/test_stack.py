# SPDX-License-Identifier: Apache-2.0
"""Depth as an axis: scan equals loop, inserted blocks stand where they should, remat changes no number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax.nn import stack
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp

WIDTH, DEPTH = 8, 3
BLOCK = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=12))
SPAN = jnp.array([[[0, 1], [0, 2], [0, 3], [0, 4]]])


def make(rngs: nnx.Rngs) -> nnx.Module:
    return BLOCK.build(WIDTH, rngs=rngs)


def stacked() -> nnx.Module:
    return disturbed(lambda rngs: stack.build(make, DEPTH, rngs))


def loss(blocks, x, policy):
    return jnp.square(stack.run(lambda x, block, layer: block(x, SPAN)[0], x, blocks, policy=policy)).sum()


@pytest.mark.parametrize('looped', [False, True])
def test_scan_equals_loop(looped):
    blocks, x = stacked(), array(1, 4, WIDTH)
    kernel = np.asarray(blocks.attn.q.kernel.get_value())
    assert len({layer.tobytes() for layer in kernel}) == DEPTH

    @jax.jit
    def loop(blocks, x):
        for i in range(DEPTH):
            x = jax.tree.map(lambda p, i=i: p[i], blocks)(x, SPAN)[0]
        return x

    body = lambda x, block, _: block(x, SPAN)[0]
    scan = lambda blocks, x: stack.run(body, x, blocks, policy='none', looped=looped)
    np.testing.assert_allclose(jax.jit(scan)(blocks, x), loop(blocks, x), atol=1e-5)


def test_remat_computes_again_and_changes_no_number():
    blocks, x = stacked(), array(1, 4, WIDTH)
    programs = {p: jax.jit(jax.value_and_grad(loss), static_argnums=2).trace(blocks, x, p) for p in stack.REMAT}
    results = {p: jax.tree.leaves(t.lower().compile()(blocks, x)) for p, t in programs.items()}
    for policy in ('block', 'dots'):
        for got, want in zip(results[policy], results['none'], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    # The products in the backward pass: all of them again, or none, those of attention included.
    count = {p: str(t.jaxpr).count('dot_general') for p, t in programs.items()}
    assert count['none'] == count['dots'] < count['block']


@pytest.mark.parametrize(
    'every, first, expected', [(4, 0, [0, 4]), (4, 3, [3, 7]), (3, 2, [2, 5]), (1, 0, [*range(8)])]
)
def test_crossings(every, first, expected):
    assert stack.crossings(8, every, first) == expected


def spell(carry, x):
    spelt, count = carry
    return carry if x is None else (spelt.at[count].set(x), count + 1)


@pytest.mark.parametrize('depth, every', [(8, 4), (7, 3), (5, 1), (3, 5), (6, 6), (4, 3)])
def test_inserted_blocks_stand_before_their_layers(depth, every):
    for first in range(every):
        at = stack.crossings(depth, every, first)
        # Each block appends its digit: the result spells the order. Inserted ones count from 100.
        blocks, inserted = jnp.arange(depth) + 1, jnp.arange(len(at)) + 100
        body = lambda carry, x, layer, new: spell(spell(carry, new), jnp.where(x == layer + 1, x, -1))
        start = (jnp.zeros(depth + len(at), int), 0)
        run = functools.partial(stack.run_crossed, body, every=every, first=first, policy='none')
        order, count = jax.jit(run)(start, blocks, inserted)
        want = [x for i in range(depth) for x in ([100 + at.index(i)] if i in at else []) + [i + 1]]
        assert order.tolist() == want and count == len(want), (depth, every, first)


def test_program_does_not_grow_with_depth():
    def size(depth: int) -> int:
        blocks = jax.eval_shape(lambda: stack.build(make, depth, nnx.Rngs(0)))
        inserted = jax.eval_shape(lambda: stack.build(make, len(stack.crossings(depth, 4, 3)), nnx.Rngs(0)))
        body = lambda x, block, _, new: block(x if new is None else new(x, SPAN)[0], SPAN)[0]
        run = lambda x, b, c: stack.run_crossed(body, x, b, c, every=4, first=3, policy='block')
        return str(jax.make_jaxpr(run)(jnp.zeros((1, 4, WIDTH)), blocks, inserted)).count('dot_general')

    assert size(8) == size(32) and size(30) == size(10) <= 2 * size(8)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: stack.crossings(8, 4, 4), r'first 4 must lie in 0\.\.3'),
        (lambda: stack.remat(make, 'full'), "'full'; choose one of"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
