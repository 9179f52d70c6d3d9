# SPDX-License-Identifier: Apache-2.0
"""The tower with a budget of patches: pictures of any shape share a batch, and padding is seen by nobody."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import disturbed
from flax import nnx

from mmjax.models.budget import BudgetVit, own_scale
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp

TOWER = BudgetVit.Config(
    patch=2,
    grid=(4, 6),
    budget=8,
    places=7,
    width=8,
    depth=2,
    block=Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=8)),
)
SIZE = np.array([[[1, 1, 6], [1, 3, 2]]], np.int32)
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 2, 1, 8, 12, 3), np.uint8)


def run(c, pixels, size):
    tower = disturbed(lambda rngs: c.build(rngs=rngs))
    return np.asarray(jax.jit(lambda p, s: tower(p, s))(jnp.asarray(pixels), jnp.asarray(size)))


def test_only_its_own_pixels_count_whatever_the_budget():
    other = PIXELS.copy()
    other[0, 0, 0, 2:], other[0, 1, 0, 6:], other[0, 1, 0, :, 4:] = 7, 7, 7
    one, two = run(TOWER, PIXELS, SIZE), run(dataclasses.replace(TOWER, budget=7), other, SIZE)
    assert one.shape == (1, 2, 1, 8, 8)
    np.testing.assert_allclose(one[:, :, :, :7], two, rtol=1e-5, atol=1e-5)
    # All padding of a picture is alike, and unlike that of another picture, which it sees.
    np.testing.assert_allclose(one[0, 1, 0, 6], one[0, 1, 0, 7], rtol=1e-5, atol=1e-5)
    assert np.abs(one[0, 0, 0, 7] - one[0, 1, 0, 7]).max() > 1e-3


def test_bytes_have_mean_0_and_deviation_1_where_the_picture_is():
    there = np.arange(8) < np.array([[6], [3], [0]])
    x = np.random.default_rng(1).integers(0, 256, (3, 8, 12)).astype(np.uint8)
    x[1, :3] = 200
    y = np.asarray(own_scale(jnp.asarray(x), jnp.asarray(there)))
    np.testing.assert_allclose((y[0, :6].mean(), y[0, :6].std()), (0, 1), atol=1e-5)
    assert (y[1, :3] == 0).all() and np.isfinite(y).all()


@pytest.mark.parametrize('changes', [dict(places=6), dict(budget=25)])
def test_a_grid_that_cannot_hold_it_is_refused(changes):
    with pytest.raises(ValueError, match='grid'):
        dataclasses.replace(TOWER, **changes).build(rngs=nnx.Rngs(0))
