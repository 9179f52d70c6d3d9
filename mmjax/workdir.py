# SPDX-License-Identifier: Apache-2.0
"""A work directory: the config that it was begun with, and the model in it."""

import dataclasses
import fcntl
import json
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from mmjax import sharding
from mmjax.checkpoint import CheckpointError, Store, write_json
from mmjax.config import MAY_CHANGE, ConfigError, Run
from mmjax.config_io import differences, from_json, to_json
from mmjax.nn import lora
from mmjax.params import Skeleton, cast, flatten

SHOWN = 12  # fields of a difference


def claim(
    workdir: pathlib.Path, run: Run, spec: str, overrides: Sequence[str], *, accept_changes: bool = False
) -> None:
    """Writes the config into the work directory; refuses a directory that was begun with another one."""
    path, new = workdir / 'config.json', to_json(run)
    if path.exists() and not accept_changes:
        changed = [d for d in differences(json.loads(path.read_text())['run'], new) if _matters(d[0])]
        if changed:
            shown = '\n'.join(f'  {field}: {old!r} -> {now!r}' for field, old, now in changed[:SHOWN])
            raise ConfigError(
                f'{workdir} was begun with another config; {len(changed)} fields differ:\n{shown}\n'
                'choose another --workdir, or go on with the new values by --accept-changes'
            )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        versions = {'jax': jax.__version__, 'devices': jax.devices()[0].device_kind}
        write_json(path, {'config': spec, 'overrides': list(overrides), 'versions': versions, 'run': new})


def read_run(workdir: pathlib.Path) -> Run:
    """Returns the config that a work directory was begun with; no config file is needed."""
    path = workdir / 'config.json'
    if not path.is_file():
        raise ConfigError(f'{workdir} holds no config.json; is it the --workdir of a training run?')
    return from_json(json.loads(path.read_text())['run'])


@contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Holds a work directory; a second process that would train in it is refused. The lock ends with the process."""
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f'another process is training in {workdir}; choose another --workdir, or end it'
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def build(run: Run, *, rngs: nnx.Rngs) -> Any:
    """Builds the run's model, with its low-rank additions."""
    config = run.model
    if run.remat:
        parts = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        remat = {k: dataclasses.replace(v, remat=run.remat) for k, v in parts.items() if hasattr(v, 'remat')}
        config = dataclasses.replace(config, **remat)
    model = config.build(rngs=rngs)
    if run.lora is not None:
        lora.add(model, run.lora.paths, rank=run.lora.rank, alpha=run.lora.alpha, rngs=rngs)
    return model


def abstract(run: Run) -> Any:
    """Returns the run's model with shapes in the place of arrays."""
    return nnx.eval_shape(lambda: build(run, rngs=nnx.Rngs(0)))


def shapes(model: nnx.Module, mesh: Mesh | None) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and place of every parameter of a model that was never made."""
    specs = sharding.param_specs(model, mesh)
    place = lambda path: NamedSharding(mesh, specs[path]) if mesh else SingleDeviceSharding(jax.devices()[0])
    return {p: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=place(p)) for p, w in flatten(model).items()}


def restore(
    workdir: pathlib.Path, mesh: Mesh | None = None, *, step: int | None = None, ema: bool = False, dtype: Any = None
) -> tuple[Run, Any, int]:
    """Returns (the config, the trained model, its step) of a work directory.

    `ema` takes the averaged weights where there are some; `dtype` None: the run's compute dtype.
    """
    run, store = read_run(workdir), Store(workdir)
    model = abstract(run)
    step = store.latest if step is None else step
    if step is None:
        raise CheckpointError(f'{workdir} holds no whole checkpoint yet')
    want = shapes(model, mesh)
    params = store.params(step, want)
    if ema:
        average = store.shapes(step, 'ema')
        params |= store.params(step, {p: want[p] for p in average}, 'ema')
    return run, Skeleton(model).merge(cast(params, dtype or run.compute_dtype)), step


def _matters(field: str) -> bool:
    return field.split('.')[0].split('[')[0] not in MAY_CHANGE
