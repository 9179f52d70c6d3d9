# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.models import connector
from mmjax.nn.layers import Norm

GRID = (4, 6)


@pytest.mark.parametrize('config', [connector.Linear.Config(merge=2), connector.Mlp.Config(merge=2)])
def test_a_merged_token_sees_its_square_alone(config):
    part = config.build(3, 5, frames=2, features=GRID, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2 * 24, 3)), jnp.float32)
    full = part(x, jnp.array([48]))
    assert config.grid(2, GRID) == (4, 3) and full.shape == (1, 12, 5)
    for feature in (0, 7, 23, 24 + 15):
        frame, place = divmod(feature, 24)
        row, column = divmod(place, 6)
        moved = part(x.at[0, feature].add(1.0), jnp.array([48]))
        changed = np.flatnonzero(np.abs(np.asarray(moved - full)).max(-1)[0])
        assert changed.tolist() == [frame * 6 + row // 2 * 3 + column // 2]


def test_a_grid_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='4 x 6 features cannot be merged by squares of 4 x 4'):
        connector.Linear.Config(merge=4).grid(1, GRID)


def test_a_mean_of_squares_is_normed_before_it_is_mapped():
    norm = Norm.Config(kind='rms', eps=1e-6, offset=1.0)
    config = connector.Linear.Config(bias=False, merge=2, mean=True, norm=norm)
    part = config.build(3, 5, features=GRID, rngs=nnx.Rngs(0))
    scale = np.linspace(-0.5, 0.5, 3, dtype=np.float32)
    part.norm.scale.set_value(jnp.asarray(scale))
    x = np.random.default_rng(0).normal(size=(2, *GRID, 3)).astype(np.float32)
    mean = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    wanted = mean / np.sqrt(np.square(mean).mean(-1, keepdims=True) + 1e-6) * (1 + scale) @ part.linear.kernel[...]
    found = part(jnp.asarray(x.reshape(2, 24, 3)), jnp.array([24, 24]))
    np.testing.assert_allclose(found, wanted.reshape(2, 6, 5), rtol=1e-5, atol=1e-5)
