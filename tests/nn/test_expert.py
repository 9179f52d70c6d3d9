# SPDX-License-Identifier: Apache-2.0
"""A block's second set of weights reads the tokens that are named, and no others; all see each other."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.expert import Expert
from mmjax.nn.mlp import Mlp

WIDTH = 8
ATTN = Attention.Config(heads=2, kv_heads=1)
SECOND = Expert.Config(attn=dataclasses.replace(ATTN, q_bias=True, k_bias=True), mlp=Mlp.Config(width=20))
BLOCK = Block.Config(attn=ATTN, mlp=Mlp.Config(width=12), expert=SECOND)
SPAN = jnp.array([[[0, 1], [0, 2], [0, 3], [0, 4]]] * 2)


@pytest.fixture(scope='module')
def block() -> Block:
    return disturbed(lambda rngs: BLOCK.build(WIDTH, rngs=rngs))


def alone(block: Block, part: Block | Expert, x):
    """The block with the attention and MLP of one part."""
    h = block.attn_norm(x)
    y = x + part.attn(h, part.attn.keys_values(h), SPAN)
    return y + part.mlp(block.mlp_norm(y))


def test_one_set_alone(block):
    x, ones = array(2, 4, WIDTH), jnp.ones((2, 4), jnp.int32)
    first, second = alone(block, block, x), alone(block, block.expert, x)
    np.testing.assert_allclose(block(x, SPAN)[0], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(block(x, SPAN, expert=0 * ones)[0], block(x, SPAN)[0])
    np.testing.assert_allclose(block(x, SPAN, expert=ones)[0], second, rtol=1e-5, atol=1e-6)
    assert np.abs(first - second).max() > 0.1


def test_each_token_its_own_and_keys_of_both(block):
    x = array(2, 4, WIDTH)
    mixed = block(x, SPAN, expert=jnp.array([[0, 1, 0, 0], [1, 1, 0, 1]]))[0]
    first, second = block(x, SPAN)[0], block(x, SPAN, expert=jnp.ones((2, 4), jnp.int32))[0]
    np.testing.assert_array_equal(mixed[0, 0], first[0, 0])
    np.testing.assert_array_equal(mixed[1, :2], second[1, :2])
    # What comes later sees keys that the other set made.
    assert (mixed[0, 1] != second[0, 1]).any() and (mixed[0, 2:] != first[0, 2:]).any(axis=-1).all()


def test_heads_of_another_shape_are_refused():
    wrong = dataclasses.replace(SECOND, attn=Attention.Config(heads=2))
    with pytest.raises(ValueError, match=r'\(2, 2, 4\), the block \(2, 1, 4\)'):
        dataclasses.replace(BLOCK, expert=wrong).build(WIDTH, rngs=nnx.Rngs(0))
