# SPDX-License-Identifier: Apache-2.0
"""The sampler of regions: where it reads, and which points it chooses."""

import jax.numpy as jnp
import pytest
from flax import nnx

from mmjax.models.region_sampler import RegionSampler, nearest, sample, spread


def test_features_between_those_of_the_grid_are_mixed():
    features = jnp.arange(6.0).reshape(1, 6, 1)  # 0 1 2 / 3 4 5
    points = jnp.array([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.5], [0.5, 0.25], [1.0, 0.75]]])
    assert sample(features, (2, 3), points)[0, :, 0].tolist() == [0.0, 5.0, 1.0, 2.0, 4.5]


def test_chosen_points_are_far_apart_and_their_neighbours_near():
    place = jnp.array([[[0.0, 0.0], [0.1, 0.0], [0.9, 0.9], [0.0, 0.8], [1.0, 0.9]]])
    chosen = spread(place, 3)
    assert chosen.tolist() == [[0, 4, 3]]
    near = nearest(jnp.take_along_axis(place, chosen[..., None], axis=1), place, 2)
    assert [sorted(one) for one in near[0].tolist()] == [[0, 1], [2, 4], [0, 3]]


@pytest.mark.parametrize(
    'changes',
    [dict(pool='min'), dict(anchors=(4, 2, 1)), dict(anchors=(9, 2)), dict(neighbours=(3, 5)), dict(anchors=())],
)
def test_what_cannot_be_chosen_is_refused(changes):
    config = RegionSampler.Config(**{**dict(points=8, anchors=(4, 2), neighbours=(3, 3)), **changes})
    with pytest.raises(ValueError, match=r'pool|anchors'):
        config.build(3, 5, rngs=nnx.Rngs(0))
