# SPDX-License-Identifier: Apache-2.0
"""Training: one loop for every system. Stages follow each other; a killed run goes on as if it had not been."""

import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from mmjax import log, optim, sharding
from mmjax.checkpoint import Place, Store, global_rows, start_from, write_json
from mmjax.config import MAY_CHANGE, ConfigError, Run, Stage, check, check_rows
from mmjax.config_io import differences, to_json
from mmjax.data.pipeline import Pipeline
from mmjax.feed import Feed, rows_of_host
from mmjax.objectives.next_token import next_token
from mmjax.params import Skeleton, flatten
from mmjax.step import State, abstract_state, build_update, compile_update, init_state


class Workshop(NamedTuple):
    """What all stages of a run share."""

    run: Run
    mesh: Mesh
    skeleton: Skeleton
    store: Store
    logger: log.Logger
    begun: Place  # where the last checkpoint stood when this process started


class Stop:
    """Notes SIGTERM and SIGINT, so that the loop can save before it ends; a second SIGINT ends it at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> 'Stop':
        # With several processes jax's own service takes SIGTERM and agrees on one step for all of them.
        ours = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        self._before = {s: signal.signal(s, self._note) for s in ours}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def asked(self, step: int) -> bool:
        """Returns whether the run is to end before this step, alike on all processes."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal is not None


def train(run: Run, workdir: pathlib.Path) -> int:
    """Trains all stages from where `workdir` stands. Returns 0, or 128 + the signal that ended it, as a shell does."""
    check(run)
    mesh = sharding.make_mesh(*run.mesh.sizes(jax.device_count()))
    check_rows(run, tuple(mesh.shape.values()))
    log.info(log.device_line(mesh))
    total = sum(stage.steps for stage in run.stages)
    store = Store(workdir, run.checkpoint, stays=_ends(run))
    with sharding.use(mesh), Stop() as stop:
        abstract = nnx.eval_shape(lambda: build(run, rngs=nnx.Rngs(0)))
        if store.latest is None:
            begun, params = Place(0, 0, 0, {}), initial(run, mesh)
        else:
            begun = store.place(store.latest)
            log.info(f'going on from {store.directory / str(begun.step)}: stage {run.stages[begun.stage].name!r}')
            params = store.params(begun.step, shapes(abstract, mesh))
        logger = log.Logger(run.log, workdir, total, begun.step)
        logger.set_state(begun.log)
        shop = Workshop(run, mesh, Skeleton(abstract), store, logger, begun)
        try:
            for number, stage in enumerate(run.stages):
                if (number, stage.steps) > (begun.stage, begun.stage_steps):
                    params = train_stage(shop, number, params, stop)
                if stop.signal is not None:
                    break
        finally:
            logger.close()
            store.close()
    return 0 if stop.signal is None else 128 + stop.signal


def train_stage(shop: Workshop, number: int, params: dict[str, jax.Array], stop: Stop) -> dict[str, jax.Array]:
    """Trains one stage, from its beginning or from the checkpoint inside it, and returns all parameters after it."""
    run, stage, begun = shop.run, shop.run.stages[number], shop.begun
    trainable, frozen = optim.split(params, stage.trainable)
    log.info(
        f'stage {stage.name!r}: {stage.steps} steps of {stage.rows} rows\n{optim.describe_split(trainable, frozen)}'
    )
    optimizer = stage.optimizer.build(trainable, stage.steps)
    mine = rows_of_host(stage.rows, shop.mesh)
    layout = run.layout.build(run.model.media_spec())
    pipeline = Pipeline(stage.data, layout, stage.rows, run.seed + number, row_range=(mine.start, mine.stop))
    offset, first = sum(s.steps for s in run.stages[:number]), 0
    if begun.stage == number and begun.stage_steps:
        first = begun.stage_steps
        state = shop.store.optimizer(begun.step, abstract_state(optimizer, trainable, stage.ema, shop.mesh))
        pipeline.set_state(shop.store.data(begun.step, shop.mesh)[mine.start : mine.stop])
    else:
        state = init_state(optimizer, trainable, stage.ema)
    feed = Feed(pipeline, shop.mesh)
    update = compile_stage(shop, stage, optimizer, state, frozen, feed)
    saved = max(begun.step, offset)  # the end of a stage is the beginning of the next

    def save(done: int) -> None:
        nonlocal saved
        if offset + done != saved:
            shop.logger.flush()
            place = Place(offset + done, number, done, shop.logger.state())
            with shop.logger.paused():
                shop.store.save(place, state, frozen, global_rows(feed.state, stage.rows, shop.mesh))
            saved = place.step

    try:
        for done in range(first, stage.steps):
            step = offset + done
            if stop.asked(step):
                save(done)
                log.info(f'stopped before step {step} and saved; the same command goes on from there')
                break
            if step % run.checkpoint.every_steps == 0:
                save(done)  # before a batch is taken: the data's place is that of the state
            waited = feed.stalled
            fed = next(feed)
            state, metrics = update(state, frozen, fed.batch)
            shop.logger.step(step, metrics, {**fed.counts, 'stall': feed.stalled - waited})
        else:
            save(stage.steps)
    finally:
        feed.close()
    log.info(log.data_line(pipeline.stats))
    return {p: w for p, w in {**state.train, **frozen}.items()}


def compile_stage(
    shop: Workshop, stage: Stage, optimizer: optim.Optimizer, state: State, frozen: Any, feed: Feed
) -> Any:
    """Compiles the stage's only program, for the shapes of its first batch, and says what it costs."""
    update = build_update(
        shop.skeleton,
        optimizer,
        next_token,
        accumulate=stage.accumulate,
        compute_dtype=shop.run.compute_dtype,
        z_loss=stage.z_loss,
        ema=stage.ema,
    )
    with shop.logger.paused():
        batch, start = feed.peek().batch, time.perf_counter()
        step, compiled = compile_update(update, state, frozen, batch)
    log.info(log.program_line(compiled, time.perf_counter() - start))
    return step


def build(run: Run, *, rngs: nnx.Rngs) -> Any:
    """Builds the run's model."""
    model = run.model
    if run.remat:
        parts = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
        remat = {k: dataclasses.replace(v, remat=run.remat) for k, v in parts.items() if hasattr(v, 'remat')}
        model = dataclasses.replace(model, **remat)
    return model.build(rngs=rngs)


def initial(run: Run, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the parameters before the first step: drawn from the seed, then loaded over as the config says."""
    model = sharding.init_sharded(lambda rngs: build(run, rngs=rngs), jax.random.key(run.seed), mesh)
    return start_from(flatten(model), run.load, run.fresh)


def shapes(abstract: nnx.Module, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and sharding of every parameter of a model that was never made."""
    specs = sharding.param_specs(abstract, mesh)
    return {
        p: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=NamedSharding(mesh, specs[p]))
        for p, w in flatten(abstract).items()
    }


def claim(
    workdir: pathlib.Path, run: Run, spec: str, overrides: Sequence[str], *, accept_changes: bool = False
) -> None:
    """Writes the config into the work directory; refuses a directory that was begun with another one."""
    path, new = workdir / 'config.json', to_json(run)
    if path.exists() and not accept_changes:
        changed = [d for d in differences(json.loads(path.read_text())['run'], new) if _matters(d[0])]
        if changed:
            shown = '\n'.join(f'  {field}: {old!r} -> {now!r}' for field, old, now in changed[:12])
            raise ConfigError(
                f'{workdir} was begun with another config; {len(changed)} fields differ:\n{shown}\n'
                'choose another --workdir, or go on with the new values by --accept-changes'
            )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        versions = {'jax': jax.__version__, 'devices': jax.devices()[0].device_kind}
        write_json(path, {'config': spec, 'overrides': list(overrides), 'versions': versions, 'run': new})


def _matters(field: str) -> bool:
    return field.split('.')[0].split('[')[0] not in MAY_CHANGE


def _ends(run: Run) -> list[int]:
    """Returns the steps at which stages end."""
    ends, step = [], 0
    for stage in run.stages:
        step += stage.steps
        ends.append(step)
    return ends
