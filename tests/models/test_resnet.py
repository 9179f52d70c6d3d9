# SPDX-License-Identifier: Apache-2.0
"""CLIP's ResNet: shapes of its maps, the same numbers on every mesh, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.models.resnet import ResNet, average
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P

CONFIG = ResNet.Config(size=(32, 64), stem=4, depths=(1, 1, 1, 1), heads=2, out=6)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 64, 3)).astype(np.uint8)


def build():
    return CONFIG.build(rngs=nnx.Rngs(0))


def test_every_mesh_computes_the_same():
    params, skeleton, found = flatten(build()), Skeleton(build()), []
    for mesh in (None, sharding.make_mesh(2, 2, 2)):
        place = lambda x, spec, mesh=mesh: jax.device_put(x, NamedSharding(mesh, spec)) if mesh else jnp.asarray(x)
        with sharding.use(mesh):
            specs = sharding.param_specs(skeleton.merge(params), mesh)
            placed = {path: place(w, specs[path]) for path, w in params.items()}
            found.append(jax.jit(lambda p, x: skeleton.merge(p).pooled(x))(placed, place(PIXELS, P(ROWS))))
    alone, spread = (np.asarray(x) for x in found)
    assert alone.shape == (4, CONFIG.out)
    np.testing.assert_allclose(alone, spread, rtol=1e-4, atol=1e-5)


def test_features_of_a_picture_that_is_not_there_are_zero():
    features = jax.jit(build().__call__)(PIXELS[:2, None, None], jnp.array([[[1, 1, 2]], [[0, 0, 0]]]))
    assert features.shape == (2, 1, 1, CONFIG.tokens, CONFIG.width) == (2, 1, 1, 2, 128)
    assert features[0].any() and not features[1].any()


def test_average():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(average(x, 2)[0, :, :, 0], [[2.5, 4.5]])


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match='32x48 pixels'):
        ResNet.Config(size=(32, 48)).build(rngs=nnx.Rngs(0))
