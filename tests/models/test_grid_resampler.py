# SPDX-License-Identifier: Apache-2.0
"""The grid resampler: queries and features know their places; one table of places serves grids of any size."""

import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax.models.grid_resampler import GridResampler
from mmjax.models.vision import resize_positions, resized
from mmjax.nn.attention import Attention

CONFIG = GridResampler.Config(attn=Attention.Config(heads=2, v_bias=True), queries=(2, 2))


def test_frames_are_read_alone():
    part = disturbed(lambda rngs: CONFIG.build(5, 8, features=(2, 3), rngs=rngs))
    x, count = array(2, 12, 5), jnp.full(2, 12)
    y = part(x, count)
    assert y.shape == (2, 8, 8) and CONFIG.grid(2, (2, 3)) == (4, 2)
    np.testing.assert_allclose(y[:, :4], part(x[:, :6], count), rtol=1e-5, atol=1e-6)
    # Features that change places are seen elsewhere: without places the sum over them would be the same.
    assert np.abs(y[:, 4:] - part(x[:, 6:][:, ::-1], count)).max() > 1e-3


def test_places_are_resized_alike_on_the_host_and_in_a_program():
    table = np.asarray(array(1 + 6, 4))
    for new in ((2, 3), (4, 3), (1, 2)):
        expected = resize_positions(table, (2, 3), new, extra=1)
        np.testing.assert_allclose(resized(jnp.asarray(table), (2, 3), new, extra=1), expected, atol=1e-6)


def test_a_grid_is_needed():
    with pytest.raises(ValueError, match='build it with their grid'):
        CONFIG.build(5, 8, rngs=nnx.Rngs(0))
