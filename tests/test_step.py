# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax.sharding import NamedSharding

from mmjax import optim, sharding
from mmjax.optim import Adamw
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P
from mmjax.step import build_update, compile_update, init_state


class Trainer:
    """A compiled step of the tiny model with its state, on a mesh."""

    def __init__(self, mesh=None, trainable=('.*',), accumulate=1, rows=8, objective=tiny.objective, ema=0.0):
        self.mesh = mesh
        with sharding.use(mesh):
            model = sharding.init_sharded(tiny.Tiny.Config().build, jax.random.key(0), mesh)
            train, self.frozen = optim.split(flatten(model), trainable)
            optimizer = Adamw(peak_lr=1e-2, schedule='constant', weight_decay=0.1).build(train, 10)
            self.state = init_state(optimizer, train, ema)
            update = build_update(
                Skeleton(model),
                optimizer,
                objective,
                accumulate=accumulate,
                compute_dtype=jnp.float32,
                ema=ema,
            )
            batch = self.place(tiny.make_batch(rows))
            self.step, self.compiled = compile_update(update, self.state, self.frozen, batch)

    def place(self, batch):
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, batch)
        return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(self.mesh, P(ROWS))), batch)

    def __call__(self, batch):
        self.state, metrics = self.step(self.state, self.frozen, self.place(batch))
        return {k: float(v) for k, v in metrics.items()}


def values(params):
    return {p: np.asarray(w) for p, w in params.items()}


def run(trainer, steps=3, rows=8):
    metrics = [trainer(tiny.make_batch(rows, seed=s)) for s in range(steps)]
    return metrics, values(trainer.state.train)


def assert_equal_runs(a, b, tolerance=1e-6):
    for x, y in zip(a[0], b[0], strict=True):
        np.testing.assert_allclose([x[k] for k in x], [y[k] for k in x], rtol=tolerance, atol=tolerance)
    for path in a[1]:
        np.testing.assert_allclose(a[1][path], b[1][path], rtol=tolerance, atol=tolerance, err_msg=path)


def test_learns():
    trainer = Trainer()
    losses = [trainer(tiny.make_batch(8)) for _ in range(30)]
    first, last = (m['loss'] / m['weight'] for m in (losses[0], losses[-1]))
    assert last < 0.6 * first


@pytest.mark.parametrize('accumulate', [2, 4])
@pytest.mark.parametrize('shape', [None, (2, 1, 2)])
def test_one_step_of_4n_rows_is_microsteps_of_n(accumulate, shape):
    mesh = sharding.make_mesh(*shape) if shape else None
    assert_equal_runs(run(Trainer(mesh)), run(Trainer(mesh, accumulate=accumulate)))


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 2, 2), (1, 4, 2), (8, 1, 1)])
def test_every_mesh_computes_the_same(shape):
    assert_equal_runs(run(Trainer()), run(Trainer(sharding.make_mesh(*shape))), tolerance=1e-5)


def test_frozen_parameters_have_no_state_and_keep_every_bit():
    trainer = Trainer(trainable=('up/.*',), ema=0.9)
    before = values(trainer.frozen)
    run(trainer)
    assert list(trainer.state.train) == ['up/bias', 'up/kernel'] == list(trainer.state.ema)
    shapes = {a.shape for a in jax.tree.leaves(trainer.state.opt)}
    assert shapes <= {(), (32,), (8, 32)}, 'the optimiser holds state of a parameter that does not learn'
    assert all(np.array_equal(before[p], w) for p, w in values(trainer.frozen).items())


def test_frozen_parameters_cost_no_backward_flops():
    flops = {t: Trainer(trainable=(t,)).compiled.cost_analysis()['flops'] for t in ('.*', 'down/.*')}
    assert flops['down/.*'] < 0.75 * flops['.*']


@pytest.mark.parametrize('poison', ['loss', 'gradient'])
def test_a_step_without_finite_numbers_changes_nothing_and_is_counted(poison):
    def objective(model, batch, **aside):
        loss, weight, sums = tiny.objective(model, batch, **aside)
        bad = batch.tokens[0, 0] == tiny.VOCAB - 1
        # The second is 0 with a slope that is not a number: sqrt at 0.
        root = jnp.sqrt(jnp.where(bad, 0.0, 1.0) * loss)
        broken = jnp.where(bad, jnp.nan, 0.0) if poison == 'loss' else root - root
        return loss + broken, weight, sums

    trainer = Trainer(objective=objective, ema=0.9)
    batch = tiny.make_batch(8)
    good, bad = batch.tokens.copy(), batch.tokens.copy()
    good[0, 0], bad[0, 0] = 0, tiny.VOCAB - 1
    assert trainer(batch._replace(tokens=good))['skipped'] == 0
    before = jax.tree.map(np.asarray, trainer.state)
    assert trainer(batch._replace(tokens=bad))['skipped'] == 1
    after = jax.tree.map(np.asarray, trainer.state)
    assert after.step == before.step + 1
    for a, b in zip(jax.tree.leaves(before[:3]), jax.tree.leaves(after[:3]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainer(batch._replace(tokens=good))['skipped'] == 0


def test_a_batch_without_weight_is_no_division_by_zero():
    trainer = Trainer()
    metrics = trainer(tiny.make_batch(8)._replace(weight=np.zeros((8, 6), np.float32)))
    assert (metrics['loss'], metrics['grad_norm'], metrics['skipped']) == (0, 0, 0)


def test_the_average_follows():
    trainer = Trainer(ema=0.75)
    start = values(trainer.state.train)
    trainer(tiny.make_batch(8))
    for path, w in values(trainer.state.ema).items():
        np.testing.assert_allclose(w, 0.75 * start[path] + 0.25 * np.asarray(trainer.state.train[path]), rtol=1e-6)


def test_other_shapes_are_refused_instead_of_compiled():
    trainer = Trainer()
    with pytest.raises(ValueError, match=r"tokens: \(\(16, 6\), 'int32'\), compiled for \(\(8, 6\), 'int32'\)"):
        trainer(tiny.make_batch(16))


def test_merge_refuses_other_parameters():
    model = tiny.Tiny.Config().build(rngs=nnx.Rngs(0))
    params = flatten(model)
    w = params.pop('up/bias')
    with pytest.raises(ValueError, match=r"missing \['up/bias'\], unknown \['up/bais'\]"):
        Skeleton(model).merge({**params, 'up/bais': w})
