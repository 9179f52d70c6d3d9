# SPDX-License-Identifier: Apache-2.0
"""Training: one loop for every system. Stages follow each other; a killed run goes on as if it had not been."""

import json
import pathlib
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mmjax import evaluate, host, log, optim, sharding
from mmjax.checkpoint import Place, Store, global_rows
from mmjax.config import ConfigError, Run, Stage, check, check_rows
from mmjax.data.pipeline import Pipeline
from mmjax.feed import Feed, rows_of_host
from mmjax.params import Skeleton, cast
from mmjax.start import initial
from mmjax.step import State, abstract_state, build_update, compile_update, init_state
from mmjax.workdir import abstract, held, shapes


class Workshop(NamedTuple):
    """What all stages of a run share."""

    run: Run
    mesh: Mesh
    skeleton: Skeleton
    store: Store
    logger: log.Logger
    begun: Place  # where the last checkpoint stood when this process started


class Open(NamedTuple):
    """A stage with its data and its optimiser."""

    stage: Stage
    number: int
    offset: int  # steps of the stages before it
    optimizer: optim.Optimizer
    layout: Any  # mmjax.data.layout.Layout
    pipeline: Any  # mmjax.data.pipeline.Pipeline
    rows: range  # of the global batch that this process reads


class Stop:
    """Notes SIGTERM and SIGINT, so that the loop can save before it ends; a second SIGINT ends it at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> 'Stop':
        # With several processes jax's own service takes SIGTERM and agrees on one step for all of them.
        alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        ours = (signal.SIGINT, signal.SIGTERM) if alone else ()
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
    """Trains all stages from where `workdir` stands, then measures. Returns 0, or 128 + the signal that ended it."""
    check(run)
    mesh = sharding.make_mesh(*run.mesh.sizes(jax.device_count()))
    check_rows(run, tuple(mesh.shape.values()))
    log.info(log.device_line(mesh))
    if mesh.devices.flat[0].platform == 'cpu':
        host.keep_memory()
    with sharding.use(mesh), held(workdir):
        store = Store(workdir, run.checkpoint, stays=_ends(run))
        begun = Place(0, 0, 0, {}) if store.latest is None else store.place(store.latest)
        model = abstract(run)
        want = shapes(model, mesh)
        stages = open_stages(run, mesh, want, begun)
        if not stages and (not run.evals or measured_at(workdir) == begun.step):
            log.info(f'{workdir} is done: all {begun.step} steps are trained' + ' and measured' * bool(run.evals))
            return 0
        evaluate.check(run)
        if store.latest is not None:
            log.info(f'going on from {store.directory / str(begun.step)}, stage {run.stages[begun.stage].name!r}')
        params = initial(run, mesh) if store.latest is None else store.params(begun.step, want)
        logger = log.Logger(run.log, workdir, _ends(run)[-1], begun.step)
        logger.set_state(begun.log)
        shop = Workshop(run, mesh, Skeleton(model), store, logger, begun)
        try:
            with Stop() as stop:
                for stage in stages:
                    params = train_stage(shop, stage, params, stop)
                    if stop.signal is not None:
                        return 128 + stop.signal
            store.wait()
            log.info(logger.goodput.line())
            measure_end(shop, workdir, params)
        finally:
            logger.close()
            store.close()
    return 0


def open_stages(run: Run, mesh: Mesh, want: Mapping[str, jax.ShapeDtypeStruct], begun: Place) -> list[Open]:
    """Opens the data and the optimiser of every stage that is left, so that no mistake waits for a later stage."""
    stages, layout = [], run.layout.build(run.model.media_spec())
    if run.model.vocab is not None and layout.tokenizer.size > run.model.vocab:
        raise ConfigError(
            f'the tokenizer has {layout.tokenizer.size} tokens, its special ones included, '
            f'and the model {run.model.vocab}; set the vocab of its decoder to at least that'
        )
    for number, (stage, end) in enumerate(zip(run.stages, _ends(run), strict=True)):
        done = begun.step - end + stage.steps  # of this stage
        if 0 < done <= stage.steps and (number, done) != (begun.stage, begun.stage_steps):
            raise ConfigError(
                f'the checkpoint at step {begun.step} is step {begun.stage_steps} of stage {begun.stage}; by this '
                f'config it is step {done} of stage {number}: the steps of finished stages cannot be changed'
            )
        if done >= stage.steps:
            continue
        trainable, _ = optim.split(want, stage.trainable)
        optimizer = stage.optimizer.build(trainable, stage.steps)
        mine = rows_of_host(stage.rows, mesh)
        pipeline = Pipeline(stage.data, layout, stage.rows, run.seed + number, row_range=(mine.start, mine.stop))
        stages.append(Open(stage, number, end - stage.steps, optimizer, layout, pipeline, mine))
    return stages


def train_stage(shop: Workshop, opened: Open, params: dict[str, jax.Array], stop: Stop) -> dict[str, jax.Array]:
    """Trains one stage, from its beginning or from the checkpoint inside it, and returns all parameters after it."""
    stage, begun = opened.stage, shop.begun
    trainable, frozen = optim.split(params, stage.trainable)
    log.info(f'stage {stage.name!r}: {stage.steps} steps of {stage.rows} rows')
    log.info(optim.describe_split(trainable, frozen))
    first = max(begun.step - opened.offset, 0)
    if first:
        state = shop.store.optimizer(begun.step, abstract_state(opened.optimizer, trainable, stage.ema, shop.mesh))
        opened.pipeline.set_state(shop.store.data(begun.step, shop.mesh)[opened.rows.start : opened.rows.stop])
    else:
        state = init_state(opened.optimizer, trainable, stage.ema, shop.mesh)
    feed = Feed(opened.pipeline, shop.mesh)
    update = compile_stage(shop, opened, state, frozen, feed)
    saved = max(begun.step, opened.offset)  # the end of a stage is the beginning of the next

    def save(done: int) -> None:
        nonlocal saved
        if opened.offset + done != saved:
            shop.logger.flush()
            place = Place(opened.offset + done, opened.number, done, shop.logger.state())
            with shop.logger.paused('checkpoints'):
                shop.store.save(place, state, frozen, global_rows(feed.state, stage.rows, shop.mesh))
            saved = place.step

    try:
        for done in range(first, stage.steps):
            step = opened.offset + done
            if stop.asked(step):
                save(done)
                log.info(f'stopped before step {step} and saved; the same command goes on from there')
                break
            evaluate_at(shop, state, frozen, step)  # the state before this step
            if step % shop.run.checkpoint.every_steps == 0:
                save(done)  # before a batch is taken: the data's place is that of the state
            waited = feed.stalled
            fed = next(feed)
            state, metrics = update(state, frozen, fed.batch)
            shop.logger.step(step, metrics, {**fed.counts, 'stall': feed.stalled - waited})
        else:
            save(stage.steps)
    finally:
        feed.close()
    log.info(log.data_lines(opened.pipeline.stats, opened.layout.problems.lines()))
    return {**state.train, **frozen}


def evaluate_at(shop: Workshop, state: State, frozen: Mapping[str, jax.Array], step: int) -> None:
    """Measures what is due before a step and writes it among the metrics."""
    due = [e for e in shop.run.evals if step and e.every_steps and step % e.every_steps == 0]
    if not due:
        return
    shop.logger.flush()
    with shop.logger.paused('evaluation'):
        model = shop.skeleton.merge(cast({**state.train, **frozen}, shop.run.compute_dtype))
        for measured in evaluate.measure(shop.run, model, due):
            shop.logger.write(step, measured.figures)


def measure_end(shop: Workshop, workdir: pathlib.Path, params: Mapping[str, jax.Array]) -> None:
    """Measures the trained model and leaves results and the report in the work directory."""
    if not shop.run.evals:
        return
    model, step = shop.skeleton.merge(cast(params, shop.run.compute_dtype)), _ends(shop.run)[-1]
    results = evaluate.run(shop.run, model, workdir, step)
    shop.logger.write(step, {name: value for name, value in results.items() if name != 'detail'})


def measured_at(workdir: pathlib.Path) -> int | None:
    """Returns the step of the model that results.json speaks of, None where there is none."""
    path = workdir / 'results.json'
    return json.loads(path.read_text())['detail']['step'] if path.exists() else None


def compile_stage(shop: Workshop, opened: Open, state: State, frozen: Any, feed: Feed) -> Any:
    """Compiles the stage's only program, for the shapes of its first batch, and says what it costs."""
    stage = opened.stage
    update = build_update(
        shop.skeleton,
        opened.optimizer,
        stage.objective,
        accumulate=stage.accumulate,
        compute_dtype=shop.run.compute_dtype,
        ema=stage.decay,
        seed=shop.run.seed + opened.number,
    )
    with shop.logger.paused('compiling'):
        batch, start = feed.peek().batch, time.perf_counter()
        step, compiled = compile_update(update, state, frozen, batch)
    log.info(log.program_line(compiled, time.perf_counter() - start))
    return step


def _ends(run: Run) -> list[int]:
    """Returns the steps at which stages end."""
    ends, step = [], 0
    for stage in run.stages:
        step += stage.steps
        ends.append(step)
    return ends
