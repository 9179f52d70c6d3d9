# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs at the values that they must have."""

import jax.numpy as jnp
import numpy as np

from mmjax.objectives.contrastive import sigmoid_pairs, softmax_pairs


def test_losses_fall_to_nothing_for_perfect_pairs():
    perfect = 40 * jnp.eye(5) - 20
    assert softmax_pairs(perfect) < 1e-5 and sigmoid_pairs(perfect) < 1e-5
    assert softmax_pairs(-perfect) > 30 and sigmoid_pairs(-perfect) > 30
    np.testing.assert_allclose(softmax_pairs(jnp.zeros((5, 5))), np.log(5), rtol=1e-6)
    np.testing.assert_allclose(sigmoid_pairs(jnp.zeros((5, 5))), 5 * np.log(2), rtol=1e-6)
