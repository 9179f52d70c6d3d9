# SPDX-License-Identifier: Apache-2.0
"""Maps of what is wrong: which patches they mark, how they are stretched, what memory knows, and their losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.models.inspector import MapDecoder, PromptLearner, unlike
from mmjax.nn.convolution import halved, stretched
from mmjax.objectives.maps import dice, focal, map_losses

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_a_map_marks_the_patches_that_are_like_the_wrong_text():
    decoder = jax.eval_shape(lambda: MapDecoder(2, 4, 3, (4, 6), rngs=nnx.Rngs(0)))
    decoder.linear.kernel.set_value(jnp.stack([jnp.eye(4, 3)] * 2))
    decoder.linear.bias.set_value(jnp.zeros((2, 3)))
    patches = jnp.zeros((2, 1, 6, 4)).at[:, :, :, 0].set(1.0).at[:, 0, 5].set(jnp.array([0.0, 2.0, 0.0, 0.0]))
    texts = jnp.eye(3)[None, :2]  # right is the first axis, wrong the second
    found = jax.jit(MapDecoder.__call__, static_argnums=2)(decoder, patches, (2, 3), texts)
    assert found.shape == (2, 1, 4, 6, 2)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-6)
    wrong = np.asarray(found[0, 0, ..., 1])
    assert wrong[-1, -1] > 0.99 and wrong[:, :3].max() < 0.01 and wrong[0].max() < 0.01


def test_stretching_keeps_corners_and_lines():
    ramp = np.linspace(0, 1, 3)[:, None] + 10 * np.linspace(0, 1, 4)
    wide = np.linspace(0, 1, 7)[:, None] + 10 * np.linspace(0, 1, 5)
    found = stretched(jnp.asarray(ramp, jnp.float32)[None, ..., None], (7, 5))[0, ..., 0]
    np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(halved(jnp.arange(15.0).reshape(1, 3, 5, 1))[0, ..., 0], [[6, 8]])


@pytest.mark.parametrize('size, count', [((16, 16), 2 + 4), ((16, 24), 2 + 8)])
def test_prompts_are_as_many_as_is_said(size, count):
    c = PromptLearner.Config(channels=(2, 3), last=3, learned=2)
    found = jax.eval_shape(lambda: c.build(5, rngs=nnx.Rngs(0))(jnp.zeros((3, *size))))
    assert found.shape == (3, c.count(size), 5) and c.count(size) == count
    with pytest.raises(ValueError, match='less than a window of side 3'):
        c.count((8, 16))


def test_what_memory_knows_is_not_unlike_it():
    patches, other = draw(2, 1, 4, 3), draw(2, 1, 5, 3)
    knows = jnp.concatenate([3 * patches, other], axis=2)
    distance = jax.jit(lambda memory: unlike(patches, memory, (2, 2), (4, 4)))
    np.testing.assert_allclose(distance(knows), 0, atol=1e-6)
    assert distance(other).min() > 0


def test_losses_of_maps():
    target = jnp.asarray(RNG.integers(0, 2, (2, 4, 4)), jnp.float32)
    right = jnp.stack([1 - target, target], axis=-1)
    p = jnp.full((2, 4, 4), 0.25)
    given = jnp.stack([1 - p, p], axis=-1)
    at = np.where(target > 0, 0.25, 0.75)
    np.testing.assert_allclose(focal(given, target), (-((1 - at) ** 2) * np.log(at)).mean(axis=(1, 2)), rtol=1e-3)
    area = np.asarray(target.sum(axis=(1, 2)))
    np.testing.assert_allclose(dice(p, target), 1 - (0.5 * area + 1) / (4 + area + 1), rtol=1e-5)
    np.testing.assert_allclose(map_losses(given[None], target), focal(given, target) + dice(p, target), rtol=1e-6)
    assert map_losses(right[None], target).max() < 1e-4
    both = map_losses(jnp.stack([given, 1 - right]), target)
    np.testing.assert_allclose(both, map_losses(given[None], target) + map_losses(1 - right[None], target), rtol=1e-6)
    assert (map_losses(1 - right[None], target) > map_losses(given[None], target)).all()
