# SPDX-License-Identifier: Apache-2.0
"""The train step of a run, lowered and compiled for a pod that is not there: no weights, no data, no chips."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from mmjax import optim, sharding
from mmjax.batch import Batch
from mmjax.config import ConfigError, Run, Stage, check, check_rows
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece
from mmjax.params import Skeleton, cast
from mmjax.plan.flops import Work, count
from mmjax.sharding import ROWS, P
from mmjax.step import State, abstract_state, build_update
from mmjax.workdir import abstract, shapes


class Step(NamedTuple):
    """A train step as shapes: all that `train` would compile, and what it would give to it."""

    run: Run
    stage: Stage
    skeleton: Skeleton
    state: State
    frozen: dict[str, jax.ShapeDtypeStruct]
    batch: Batch
    update: Any  # (state, frozen, batch) -> (state, metrics)


def describe(run: Run, stage: Stage, mesh: Mesh) -> Step:
    """Returns the step of a stage on a mesh, which must be in use; raises ConfigError for one that is refused."""
    check(run)
    check_rows(run, tuple(mesh.shape.values()))
    model = abstract(run)
    trainable, frozen = optim.split(shapes(model, mesh), stage.trainable)
    optimizer = stage.optimizer.build(trainable, stage.steps)
    update = build_update(
        Skeleton(model),
        optimizer,
        stage.objective,
        accumulate=stage.accumulate,
        compute_dtype=run.compute_dtype,
        ema=stage.decay,
        seed=run.seed,
    )
    state = abstract_state(optimizer, trainable, stage.ema, mesh)
    return Step(run, stage, Skeleton(model), state, frozen, batch(run, stage, mesh), update)


def batch(run: Run, stage: Stage, mesh: Mesh) -> Batch:
    """Returns the shapes of a stage's batch, which follow from the layout alone."""
    config = without_files(run.layout)
    special = run.layout.special_tokens()
    layout = dataclasses.replace(config, tokenizer=Bytes.Config(special=special)).build(run.model.media_spec())
    place = NamedSharding(mesh, P(ROWS))
    row = stack([render_row([], layout)])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((stage.rows, *a.shape[1:]), a.dtype, sharding=place), row)


def without_files(config: Any) -> Any:
    """Returns a config whose tokenizers, at any depth, read no files: shapes do not depend on words."""
    if isinstance(config, HuggingFace.Config | SentencePiece.Config):
        return Bytes.Config(special=getattr(config, 'special', ()))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
    changed = {name: new for name, old in fields.items() if (new := without_files(old)) is not old}
    return dataclasses.replace(config, **changed) if changed else config


def lower(step: Step) -> Any:
    """Returns the step, traced and lowered for the mesh in use."""
    return jax.jit(step.update, donate_argnums=0).lower(step.state, step.frozen, step.batch)


def work(step: Step) -> dict[str, Work]:
    """Returns scope -> work of a step over all devices, counted on the objective without a mesh."""
    plain = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    light = lambda params: jax.eval_shape(lambda p: cast(p, step.run.compute_dtype), plain(dict(params)))

    def loss(trained: Any, frozen: Any, average: Any, batch: Batch) -> jax.Array:
        teacher = step.skeleton.merge({**average, **frozen}) if average else None
        model = step.skeleton.merge({**trained, **frozen})
        return step.stage.objective(model, batch, key=jax.random.key(0), teacher=teacher)[0]

    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        arguments = light(step.state.train), light(step.frozen), light(step.state.ema), plain(step.batch)
        return count(loss, *arguments)


def stage_of(run: Run, name: str) -> Stage:
    """Returns a stage by its name or number; the last one where nothing is said."""
    names = [stage.name for stage in run.stages]
    if not name:
        return run.stages[-1]
    if name in names:
        return run.stages[names.index(name)]
    if name.isdigit() and int(name) < len(names):
        return run.stages[int(name)]
    raise ConfigError(f'--stage={name}: the config has {", ".join(names) or "none"}')


def mesh_on(devices: list[jax.Device], run: Run, said: str = '') -> Mesh:
    """Returns the run's mesh over devices, or the one that is said: 'fsdp=128,tp=4', the other axes being 1."""
    axes = run.mesh
    if said:
        sizes = dict.fromkeys(sharding.AXES, 1)
        for part in said.split(','):
            name, _, size = part.partition('=')
            if name not in sizes or not size.lstrip('-').isdigit():
                raise ConfigError(f'--mesh={said}: write axes of {", ".join(sizes)} with sizes, e.g. fsdp=128,tp=4')
            sizes[name] = int(size)
        axes = type(run.mesh)(**sizes)
    return sharding.make_mesh(*axes.sizes(len(devices)), devices=devices)
