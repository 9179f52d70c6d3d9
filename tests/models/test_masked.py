# SPDX-License-Identifier: Apache-2.0
"""Predicting a teacher's features: the error, what makes the targets, and who learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from flax import nnx

from mmjax.batch import Batch
from mmjax.config import Stage
from mmjax.models.masked import Masked
from mmjax.models.vision import plain_norm
from mmjax.objectives.latents import Latents, errors
from mmjax.objectives.masking import Blocks
from mmjax.params import Skeleton, flatten

TOWER = dataclasses.replace(systems.VIT, size=(12, 12), depth=3, pre_norm=None, mask=True, relative='shared')
CONFIG = Masked.Config(encoder=TOWER)
OBJECTIVE = Latents(mask=Blocks(count=4, least=1), last=2)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3)).astype(np.uint8)
BATCH = Batch(
    *(None,) * 4,
    pixels=PIXELS[:, None, None],
    media_size=np.array([[[1, 3, 3]]] * 2 + [[[0, 0, 0]]], np.int32),
)


def build():
    model = CONFIG.build(rngs=nnx.Rngs(0))
    model.encoder.relative.table.set_value(jax.random.normal(jax.random.key(1), (28, 2)))
    return model


def test_errors():
    found, target = jnp.array([[[0.0, 1.0, -4.0]]]), jnp.zeros((1, 1, 3))
    np.testing.assert_allclose(errors(found, target, 2.0), [[(0 + 0.25 + 3) / 3]], rtol=1e-6)
    np.testing.assert_allclose(errors(found, target, 0.0), [[17 / 3]], rtol=1e-6)


def test_targets_are_the_normed_mean_of_normed_blocks():
    model = build()
    tower = model.encoder

    @jax.jit
    def both(pixels):
        x = tower.enter(pixels)
        layers = [plain_norm(tower.encode(x, n)) for n in (2, 3)]
        return model.targets(pixels, 2), plain_norm((layers[0] + layers[1]) / 2)[:, 1:]

    found, expected = both(jnp.asarray(PIXELS))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(-1), 1, rtol=1e-3)


def test_hidden_patches_are_not_seen():
    paint = jax.jit(lambda pixels: build()(pixels, jnp.zeros((2, 9), bool).at[0, 4].set(True)))
    changed = PIXELS[:2].copy()
    changed[:, 4:8, 4:8] += 77
    before, after = paint(jnp.asarray(PIXELS[:2])), paint(jnp.asarray(changed))
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any(axis=-1).all()


def test_the_teacher_is_no_student():
    """Gradients reach the student alone; pictures that are not there count nothing; the patches hidden are learnt."""
    model = build()
    skeleton, params = Skeleton(model), flatten(model)

    def loss(student, teacher):
        parts = skeleton.merge(student), skeleton.merge(teacher)
        batch = jax.tree.map(jnp.asarray, BATCH)
        total, weight, sums = OBJECTIVE(parts[0], batch, key=jax.random.key(0), teacher=parts[1])
        return total, (weight, sums['spread'] / weight, sums['blind'])

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (total, (weight, spread, blind)), (own, teachers) = grad(params, params)
    assert 0 < blind < total and 2 <= weight <= 8 and 0.1 < spread < 1
    assert not any(np.any(g) for g in teachers.values())
    assert all(np.any(own[path]) for path in ('encoder/mask', 'encoder/relative/table', 'head/kernel'))


def test_a_teacher_is_asked_for():
    with pytest.raises(ValueError, match=r'Stage\.ema'):
        OBJECTIVE(None, BATCH, key=jax.random.key(0), teacher=None)


def test_the_decay_rises():
    stage = Stage('s', None, rows=1, steps=10, ema=0.9, ema_start=0.5)
    assert [stage.decay(step) for step in (0, 5, 10)] == pytest.approx([0.5, 0.7, 0.9])
    assert dataclasses.replace(stage, ema_start=0.0).decay(3) == 0.9
