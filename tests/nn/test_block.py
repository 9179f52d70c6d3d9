# SPDX-License-Identifier: Apache-2.0
"""Blocks: where each norm and branch stands, and the gates over media."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax import sharding
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch, GatedBlock
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp

WIDTH, MEDIA = 8, 6
BIASED = Attention.Config(heads=2, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
BLOCK = Block.Config(attn=BIASED, mlp=Mlp.Config(width=12))
GATED = GatedBlock.Config(attn=BIASED, mlp=Mlp.Config(width=12), gate_init=0.5)
SPAN = jnp.array([[[0, 1], [0, 2], [0, 3], [0, 4]]] * 2)


def made(c: Block.Config) -> Block:
    return disturbed(lambda rngs: c.build(WIDTH, rngs=rngs))


def sequential(b: Block, x, attn):
    x = x + attn(b.attn_norm(x))
    return x + b.mlp(b.mlp_norm(x))


def normed_after(b: Block, x, attn):
    x = x + b.attn_post_norm(attn(x))
    return x + b.mlp_post_norm(b.mlp(x))


def sums_normed(b: Block, x, attn):
    x = b.attn_sum_norm(x + attn(x))
    return b.mlp_sum_norm(x + b.mlp(x))


def branches_scaled(b: Block, x, attn):
    x = x + b.attn_scale * attn(b.attn_norm(x))
    return x + b.mlp_scale * b.mlp(b.mlp_norm(x))


def parallel(b: Block, x, attn):
    h = b.attn_norm(x)
    return x + attn(h) + b.mlp(h)


def parallel_two_norms(b: Block, x, attn):
    return x + attn(b.attn_norm(x)) + b.mlp(b.mlp_norm(x))


@pytest.mark.parametrize(
    'changes, formula, norms',
    [
        (dict(), sequential, {'attn_norm', 'mlp_norm'}),
        (dict(norm=None, post_norm=Norm.Config()), normed_after, {'attn_post_norm', 'mlp_post_norm'}),
        (dict(norm=None, sum_norm=Norm.Config()), sums_normed, {'attn_sum_norm', 'mlp_sum_norm'}),
        (dict(layer_scale=0.5), branches_scaled, {'attn_norm', 'mlp_norm'}),
        (dict(parallel=True), parallel, {'attn_norm'}),
        (dict(parallel=True, shared_norm=False), parallel_two_norms, {'attn_norm', 'mlp_norm'}),
    ],
    ids=['sequential', 'norms after', 'sums normed', 'branches scaled', 'parallel', 'parallel, two norms'],
)
def test_block(changes, formula, norms):
    block = made(dataclasses.replace(BLOCK, **changes))
    x = array(2, 4, WIDTH)
    attn = lambda h: block.attn(h, block.attn.keys_values(h), SPAN)
    got, kept, want = jax.jit(lambda x: (*block(x, SPAN), formula(block, x, attn)))(x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert kept is None
    assert {path.split('/')[0] for path in sharding.paths(block) if 'norm' in path} == norms


def test_block_looks_at_what_remember_returns():
    block, x = made(BLOCK), array(2, 4, WIDTH)
    twice = lambda kv: (jax.tree.map(lambda x: 2 * x, kv), kv)

    @jax.jit
    def run(x):
        h = block.attn_norm(x)
        kv = block.attn.keys_values(h)
        want = x + block.attn(h, twice(kv)[0], SPAN)
        return block(x, SPAN, remember=twice), (want + block.mlp(block.mlp_norm(want)), kv)

    for got, want in zip(*map(jax.tree.leaves, run(x)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_what_stands_between_changes_the_first_sum():
    block, x = made(BLOCK), array(2, 4, WIDTH)

    @jax.jit
    def run(x):
        y = 3 * (x + block.attn(h := block.attn_norm(x), block.attn.keys_values(h), SPAN))
        return block(x, SPAN, between=lambda y: 3 * y)[0], y + block.mlp(block.mlp_norm(y))

    np.testing.assert_allclose(*run(x), atol=1e-5)


def test_one_sum_of_both_branches_has_no_norm_of_each():
    with pytest.raises(ValueError, match='sum_norm has no place'):
        dataclasses.replace(BLOCK, parallel=True, sum_norm=Norm.Config()).build(WIDTH, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('norms', [dict(), dict(norm=None, sum_norm=Norm.Config())], ids=['before', 'of the sum'])
def test_cross_branch(norms):
    """A token that sees nothing of the source is not touched, not even by a bias or a norm."""
    part = disturbed(lambda rngs: CrossBranch.Config(attn=BIASED, **norms).build(WIDTH, MEDIA, rngs=rngs))
    x, media, span = array(2, 4, WIDTH), array(2, 5, MEDIA), jnp.array([[[0, 5], [0, 0], [2, 4], [3, 3]]] * 2)

    @jax.jit
    def run(x, media):
        kv = part.keys_values(media)
        if part.norm is None:
            return part(x, kv, span), part.sum_norm(x + part.attn(x, kv, span))
        return part(x, kv, span), x + part.attn(part.norm(x), kv, span)

    got, want = run(x, media)
    np.testing.assert_allclose(got[:, [0, 2]], want[:, [0, 2]], atol=1e-5)
    np.testing.assert_array_equal(got[:, [1, 3]], x[:, [1, 3]])


def test_out_scale_shrinks_both_output_kernels():
    plain, small = (
        sharding.paths(disturbed(lambda rngs, c=c: c.build(WIDTH, rngs=rngs), by=0))
        for c in (BLOCK, dataclasses.replace(BLOCK, out_scale=0.25))
    )
    for path, param in small.items():
        factor = 0.25 if path in ('attn/o/kernel', 'mlp/down/kernel') else 1
        np.testing.assert_allclose(param.get_value(), factor * np.asarray(plain[path].get_value()), rtol=1e-6)


def gated(c: GatedBlock.Config, by: float = 0.3) -> GatedBlock:
    return disturbed(lambda rngs: c.build(WIDTH, MEDIA, rngs=rngs), by=by)


@pytest.mark.parametrize('vector_gates', [False, True])
@pytest.mark.parametrize('media_norm', [None, Norm.Config()])
def test_gated_block(vector_gates, media_norm):
    block = gated(dataclasses.replace(GATED, vector_gates=vector_gates, media_norm=media_norm))
    x, media, span = array(2, 4, WIDTH), array(2, 5, MEDIA), jnp.array([[[0, 5], [0, 2], [2, 4], [4, 5]]] * 2)

    @jax.jit
    def run(x, media):
        source = media if media_norm is None else block.media_norm(media)
        looked = block.attn(block.attn_norm(x), block.attn.keys_values(source), span)
        y = x + jnp.tanh(block.attn_gate[...]) * looked
        want = y + jnp.tanh(block.mlp_gate[...]) * block.mlp(block.mlp_norm(y))
        return block(x, block.keys_values(media), span), want

    got, want = run(x, media)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert block.attn_gate.shape == ((WIDTH,) if vector_gates else ())


def test_gated_block_changes_nothing_at_first_but_its_gates_learn():
    block = gated(dataclasses.replace(GATED, gate_init=0.0), by=0)
    x, media, span = array(2, 4, WIDTH), array(2, 5, MEDIA), jnp.tile(jnp.array([0, 5]), (2, 4, 1))

    def loss(block):
        y = block(x, block.keys_values(media), span)
        return jnp.square(y).sum(), y

    grads, y = jax.jit(jax.grad(loss, has_aux=True))(block)
    np.testing.assert_array_equal(y, x)
    assert np.any(grads.attn_gate[...]) and np.any(grads.mlp_gate[...])


def test_a_token_that_sees_no_media_gets_none_not_even_a_bias():
    block, x, media = gated(GATED), array(2, 4, WIDTH), array(2, 5, MEDIA)
    span = jnp.array([[[0, 0], [0, 5], [3, 3], [5, 2]]] * 2)

    @jax.jit
    def run(x, media):
        alone = x + jnp.tanh(block.mlp_gate[...]) * block.mlp(block.mlp_norm(x))
        return block(x, block.keys_values(media), span), alone

    got, alone = run(x, media)
    unseen = np.array([0, 2, 3])
    np.testing.assert_allclose(got[:, unseen], alone[:, unseen], atol=1e-6)
    assert np.abs(got[:, 1] - alone[:, 1]).max() > 0.01


def test_layer_scale_multiplies_both_branches():
    block, x = made(dataclasses.replace(BLOCK, layer_scale=0.1)), array(2, 4, WIDTH)
    attn = lambda h: block.attn_scale[...] * block.attn(h, block.attn.keys_values(h), SPAN)
    y = x + attn(block.attn_norm(x))
    y = y + block.mlp_scale[...] * block.mlp(block.mlp_norm(y))
    np.testing.assert_allclose(block(x, SPAN)[0], y, rtol=1e-5, atol=1e-6)
