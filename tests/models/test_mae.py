# SPDX-License-Identifier: Apache-2.0
"""A masked autoencoder sees what it may see, and paints the same wherever its rows lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from flax import nnx
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.models.mae import Mae
from mmjax.models.vision import sincos
from mmjax.objectives.pixels import MaskedPixels
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P

CONFIG = Mae.Config(encoder=systems.VIT, width=8, depth=1, block=systems.BLOCK)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 12, 3)).astype(np.uint8)
SIZE = np.array([[[1, 2, 3]]] * 7 + [[[0, 0, 0]]], np.int32)


def build():
    return CONFIG.build(rngs=nnx.Rngs(0))


def test_hidden_patches_are_not_seen():
    order = jnp.array([[4, 0, 1, 2, 3, 5], [1, 2, 0, 3, 4, 5]])
    paint = jax.jit(lambda pixels: build()(pixels, order, 2))
    before = paint(jnp.asarray(PIXELS[:2]))
    assert before.shape == (2, 6, 48)
    changed = PIXELS[:2].copy()
    changed[0, :4, 4:] += 99  # patches 1 and 2, which only the second picture shows
    np.testing.assert_array_equal(paint(jnp.asarray(changed)), before)
    changed[1, :4, 4:] += 99
    after = paint(jnp.asarray(changed))
    assert (after[0] == before[0]).all() and (after[1] != before[1]).any(axis=-1).all()


def test_every_mesh_computes_the_same():
    """Loss and gradients of the objective; an absent picture counts nothing."""
    objective, losses = MaskedPixels(hidden=0.5), []
    model = build()
    skeleton, params = Skeleton(model), flatten(model)
    batch = Batch(None, None, None, None, pixels=PIXELS[:, None, None], media_size=SIZE)

    def loss(params, batch):
        total, weight, sums = objective(skeleton.merge(params), batch, key=jax.random.key(3))
        return total, (weight, sums['blind'])

    for mesh in (None, sharding.make_mesh(2, 2, 2)):
        rows = lambda x, mesh=mesh: jax.device_put(x, NamedSharding(mesh, P(ROWS))) if mesh else jnp.asarray(x)
        with sharding.use(mesh):
            specs = sharding.param_specs(jax.eval_shape(build), mesh)
            placed = (
                {p: jax.device_put(w, NamedSharding(mesh, specs[p])) for p, w in params.items()} if mesh else params
            )
            found = jax.jit(jax.value_and_grad(loss, has_aux=True))(placed, jax.tree.map(rows, batch))
        losses.append(jax.tree.map(np.asarray, found))
    (alone, (weight, blind)), gradients = losses[0]
    assert weight == 7 * 3 and 0 < blind < alone  # nothing has been learnt yet
    np.testing.assert_allclose(losses[1][0][0], alone, rtol=1e-5)
    np.testing.assert_allclose(losses[1][0][1][1], blind, rtol=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(losses[1][1][path], gradient, rtol=1e-3, atol=1e-4, err_msg=path)


def test_fixed_positions():
    table = np.asarray(sincos((2, 3), 8, extra=1))
    assert table.shape == (7, 8) and not table[0].any()
    wave = lambda place: [f(place * rate) for f in (np.sin, np.cos) for rate in (1, 0.01)]
    np.testing.assert_allclose(table[1 + 3 + 2], [*wave(2), *wave(1)], rtol=1e-5)  # row 1, column 2
    with pytest.raises(ValueError, match='multiple of 4'):
        sincos((2, 2), 6)


def test_nothing_to_see_or_nothing_to_paint_is_refused():
    with pytest.raises(ValueError, match='6 visible patches of 6'):
        build()(jnp.asarray(PIXELS[:1]), jnp.arange(6)[None], 6)
