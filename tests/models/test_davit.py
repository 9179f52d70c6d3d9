# SPDX-License-Identifier: Apache-2.0
"""DaViT: what a place sees in each half of a block, and the same numbers on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.models.davit import Channels, Davit, Near, Shrink, Windows
from mmjax.models.overview import Overview
from mmjax.nn.layers import Norm
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P

CONFIG = Davit.Config(
    size=(16, 24), widths=(4, 8), depths=(1, 1), heads=(2, 2), groups=(2, 4), strides=(4, 2), window=3
)


def convolved(x, kernel, stride, padding, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, [(padding,) * 2] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )  # fmt: skip


def test_convolutions():
    x = array(2, 8, 4, 3)
    near = disturbed(lambda rngs: Near(3, rngs=rngs))
    want = x + convolved(x, near.kernel[...], 1, 1, groups=3) + near.bias[...]
    np.testing.assert_allclose(near(x), want, atol=1e-5)
    for before in (False, True):
        part = disturbed(lambda rngs, before=before: Shrink(3, 5, 2, Norm.Config(), before=before, rngs=rngs))
        want = convolved(part.norm(x) if before else x, part.kernel[...], 2, 1) + part.bias[...]
        np.testing.assert_allclose(part(x), want if before else part.norm(want), atol=1e-5)


def test_places_see_their_window_and_the_zeros_that_fill_it():
    part, x = disturbed(lambda rngs: Windows(4, 2, 3, rngs=rngs)), array(1, 4, 5, 4)
    apply = jax.jit(lambda part, x: part(x))
    y, attn = apply(part, x), part.attn
    window = jnp.concatenate([x[0, 3:, 3:].reshape(2, 4), jnp.zeros((7, 4))])[None]
    want = attn(window[:, :2], attn.keys_values(window), jnp.array([[[0, 9]] * 2]))
    np.testing.assert_allclose(y[0, 3, 3:], want[0], atol=1e-5)
    other = apply(part, x.at[0, 0, 0].add(1.0))
    assert (np.abs(other - y).max(axis=(0, 3)) > 1e-6).tolist() == [[True] * 3 + [False] * 2] * 3 + [[False] * 5]


def test_channels_of_a_group_see_each_other_at_all_places():
    part, x = disturbed(lambda rngs: Channels(4, 2, rngs=rngs)), array(1, 2, 3, 4)
    q, k, v = (each(x.reshape(1, 6, 4))[0] for each in (part.q, part.k, part.v))  # [places, groups, channels]
    found = np.zeros((6, 2, 2), np.float32)
    for group in range(2):
        scores = jax.nn.softmax(q[:, group].T @ k[:, group] / 6**0.5, axis=-1)
        found[:, group] = v[:, group] @ scores.T
    np.testing.assert_allclose(part(x).reshape(1, 6, 4), part.o(jnp.asarray(found)[None]), atol=1e-5)


def test_one_mesh_is_another():
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 255, (4, 1, 1, 16, 24, 3), np.uint8))
    size = jnp.array([[[1, 4, 6]]] * 3 + [[[0, 0, 0]]])
    config = Davit.Config(size=(16, 24), widths=(8,), depths=(1,), heads=(2,), groups=(2,), strides=(4,), window=3)
    model = sharding.init_sharded(config.build, jax.random.key(0), None)
    params, skeleton, found = flatten(model), Skeleton(model), []
    for mesh in (None, sharding.make_mesh(2, 2, 2)):
        place = lambda x, spec, mesh=mesh: jax.device_put(x, NamedSharding(mesh, spec)) if mesh else jnp.asarray(x)
        with sharding.use(mesh):
            specs = sharding.param_specs(model, mesh)
            placed = {path: place(np.asarray(w), specs[path]) for path, w in params.items()}
            rows = [place(x, P(ROWS)) for x in (pixels, size)]
            found.append(np.asarray(jax.jit(lambda p, *rows: skeleton.merge(p)(*rows))(placed, *rows)))
    one, eight = found
    assert one.shape == (4, 1, 1, 24, 8) and one[:3].any() and not one[3].any()
    np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-5)


def test_an_overview_is_the_mean_then_the_places():
    part = disturbed(lambda rngs: Overview.Config(places=4).build(6, 5, features=(2, 3), rngs=rngs))
    x = array(2, 6, 6)
    got = part(x, jnp.array([6, 6]))
    row, column = part.row[...], part.column[...]
    places = [jnp.concatenate([column[j], row[i]]) + jnp.array([0, 1] * 3) for i in range(2) for j in range(3)]
    x = x + jnp.stack(places)
    np.testing.assert_allclose(got[:, 1:], part.norm(part.linear(x)), atol=1e-5)
    np.testing.assert_allclose(got[:, 0], part.norm(part.linear(x.mean(axis=1))), atol=1e-5)


@pytest.mark.parametrize(
    'build, message',
    [
        (dataclasses.replace(CONFIG, size=(16, 20)).build, '16x20 pixels is no multiple of 8'),
        (dataclasses.replace(CONFIG, heads=(2,)).build, 'of each stage one number'),
        (dataclasses.replace(CONFIG, groups=(2, 3)).build, '8 channels cannot be parted into 3 heads or groups'),
        (lambda rngs: Overview.Config(places=4).build(6, 5, features=(2, 5), rngs=rngs), '2 x 5 features'),
        (lambda rngs: Overview.Config().build(6, 5, frames=2, features=(2, 2), rngs=rngs), 'not 2 frames'),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build(rngs=nnx.Rngs(0))
