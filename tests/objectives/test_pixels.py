# SPDX-License-Identifier: Apache-2.0
"""Hidden patches: how many, which, and the error of what is painted there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.masking import Blocks, random_order, unseen
from mmjax.objectives.pixels import own_deviations, patch_errors, removed


def test_every_picture_hides_as_many_patches_and_others():
    order = random_order(jax.random.key(0), 50, 16)
    assert (np.sort(order, axis=1) == np.arange(16)).all()
    gone = np.asarray(removed(order, 4))
    assert (gone.sum(axis=1) == 12).all() and len({row.tobytes() for row in gone}) > 40
    assert gone.mean(axis=0).min() > 0.6 and gone.mean(axis=0).max() < 0.9
    for row, seen in zip(gone, np.asarray(order)[:, :4], strict=True):
        assert not row[seen].any()


def test_targets_are_each_patchs_own_deviations():
    rng = np.random.default_rng(0)
    target = rng.normal(3, 5, (2, 3, 12)).astype(np.float32)
    own = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
    painted = rng.normal(size=target.shape).astype(np.float32)
    normed = own_deviations(jnp.asarray(target))
    errors = lambda x: patch_errors(jnp.asarray(x), normed)
    np.testing.assert_allclose(errors(own), 0, atol=1e-9)
    np.testing.assert_allclose(errors(painted), np.square(painted - own).mean(-1), rtol=1e-5)
    # A patch that is painted grey is wrong by its variance.
    np.testing.assert_allclose(errors(np.zeros_like(target)), 11 / 12, rtol=1e-5)


def test_one_who_sees_no_picture_guesses_the_mean_of_those_that_are_there():
    target = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    guess = unseen(jnp.asarray(target), jnp.array([True, False, True, True]))
    np.testing.assert_allclose(guess, np.broadcast_to(target[[0, 2, 3]].mean(0), target.shape), rtol=1e-5)
    assert not np.any(unseen(jnp.asarray(target), jnp.zeros(4, bool)))


def test_blocks_hide_neighbours_and_no_more_than_asked():
    hidden = np.asarray(Blocks(count=20, least=4)(jax.random.key(1), 40, (7, 6))).reshape(40, 7, 6)
    counts = hidden.sum(axis=(1, 2))
    assert counts.max() <= 20 and counts.mean() > 18 and len({h.tobytes() for h in hidden}) > 35
    # Most hidden patches have a hidden neighbour at the right: of single ones picked at random, half would.
    assert (hidden[:, :, 1:] & hidden[:, :, :-1]).sum() > 0.65 * hidden[:, :, :-1].sum()
    with pytest.raises(ValueError, match='7 x 6 patches'):
        Blocks(count=43)(jax.random.key(1), 1, (7, 6))
