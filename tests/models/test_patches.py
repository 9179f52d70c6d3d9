# SPDX-License-Identifier: Apache-2.0
"""Patches of pictures that keep their aspect: tokens stand without gaps, and float pixels are taken as they are."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.models.patches import Patches, compact

GRID = (2, 3)


@pytest.mark.parametrize(
    'size, first', [((2, 3), [0, 1, 2, 3, 4, 5]), ((2, 2), [0, 1, 3, 4]), ((1, 3), [0, 1, 2]), ((2, 1), [0, 3])]
)
def test_used_patches_come_first(size, first):
    numbered = jnp.arange(6.0).reshape(1, 1, 1, 6, 1)
    found = compact(numbered, jnp.array([[[1, *size]]]), GRID)
    assert found[0, 0, 0, : len(first), 0].tolist() == first


def test_bytes_are_normalised_and_floats_are_not():
    patches = Patches.Config(patch=2, grid=GRID, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).build(
        width=4, rngs=nnx.Rngs(0)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 1, 4, 6, 3)).astype(np.uint8)
    floats = (pixels.astype(np.float32) / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(
        patches(jnp.asarray(pixels)), patches(jnp.asarray(floats, jnp.float32)), rtol=1e-4, atol=1e-5
    )


def test_refusals():
    with pytest.raises(ValueError, match='width'):
        Patches.Config().build(rngs=nnx.Rngs(0))
    patches = Patches.Config(patch=2, grid=GRID).build(width=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r'grid of \(2, 3\)'):
        patches(jnp.zeros((1, 1, 1, 4, 4, 3), jnp.uint8))
