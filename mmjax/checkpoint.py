# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: parameters, optimiser, the data's place and the log's sums, written in the background, whole or not.

A checkpoint is a folder `checkpoints/STEP`; one without its commit mark is never read. This is the only file that knows
orbax.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from orbax.checkpoint import v1 as ocp

from mmjax import arrays
from mmjax.config import Checkpoints
from mmjax.sharding import P
from mmjax.step import State

Shapes = Mapping[str, jax.ShapeDtypeStruct]
# (path, member of its stacked axis or None, numbers)
Part = tuple[str, int | None, np.ndarray]


class CheckpointError(Exception):
    """A checkpoint that cannot be written, or that does not fit; the message says which and what to do."""


class Place(NamedTuple):
    """Where a checkpoint stands in its run."""

    step: int  # of the whole run
    stage: int  # number of the stage that made it
    stage_steps: int  # steps of that stage so far
    log: dict[str, float | int]  # sums of the unfinished line of metrics


class Store:
    """The checkpoints of one work directory."""

    def __init__(self, workdir: pathlib.Path, c: Checkpoints | None = None, stays: Sequence[int] = ()):
        """Opens them for reading, or with policies `c` for writing too; checkpoints at steps `stays` stay for good."""
        self.directory = workdir.absolute() / 'checkpoints'
        self.writable = c is not None
        if c is None and not self.directory.is_dir():
            raise CheckpointError(f'{workdir} holds no checkpoints; is it the --workdir of a training run?')
        policies = ocp.training.preservation_policies
        c = c or Checkpoints()
        keep = [policies.LatestN(c.keep_last), policies.CustomSteps(list(stays))]
        keep += [policies.EveryNSteps(c.keep_every)] if c.keep_every else []
        self._orbax = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(keep) if self.writable else policies.PreserveAll(),
            # What a killed run left half written; nobody else writes here while we hold the directory.
            cleanup_tmp_directories=self.writable,
        )

    @property
    def latest(self) -> int | None:
        """The step of the last whole checkpoint, None where there is none."""
        return self._orbax.latest.step if self._orbax.latest else None

    def save(self, place: Place, state: State, frozen: Mapping[str, jax.Array], data: jax.Array) -> None:
        """Copies everything to the host and writes it in the background; returns when the copy is made.

        A failure to write is raised by the next `save` or `wait`.
        """
        self.wait()
        parts = {
            'params': {**state.train, **frozen},
            'optimizer': {'state': state.opt, 'step': state.step},
            'data': {'rows': data},
        }
        if state.ema:
            parts['ema'] = state.ema
        try:
            self._orbax.save_checkpointables_async(place.step, parts, force=True, custom_metadata=place._asdict())
        except Exception as e:
            raise self._failure(e) from e

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises CheckpointError if it failed."""
        try:
            self._orbax.wait()
        except Exception as e:
            raise self._failure(e) from e

    def close(self) -> None:
        """Waits for the last save and lets go of the directory."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def place(self, step: int) -> Place:
        """Returns where a checkpoint stands in its run."""
        return Place(**self._orbax.checkpointables_metadata(step).custom_metadata)

    def shapes(self, step: int, part: str = 'params') -> dict[str, tuple[int, ...]]:
        """Returns path -> shape of the parameters (or of the `ema`) in a checkpoint."""
        saved = self._orbax.checkpointables_metadata(step).metadata
        if saved.get(part) is None:
            raise CheckpointError(f'{self.directory / str(step)} holds no {part}; it holds {", ".join(sorted(saved))}')
        return {path: tuple(meta.shape) for path, meta in saved[part].items()}

    def params(self, step: int, want: Shapes, part: str = 'params', *, some: bool = False) -> dict[str, jax.Array]:
        """Returns the parameters `want` asks for, on its shardings; with `some`, the checkpoint may hold others too."""
        require_fit(self.shapes(step, part), want, self.directory / str(step), some=some)
        return self._load(step, {part: dict(want)}, partial=some)[part]

    def optimizer(self, step: int, want: State) -> State:
        """Returns the state that `want` describes, but for its parameters, which stay as they are."""
        parts: dict[str, Any] = {'optimizer': {'state': want.opt, 'step': want.step}}
        if want.ema:
            parts['ema'] = want.ema
        found = self._load(step, parts)
        return want._replace(opt=found['optimizer']['state'], step=found['optimizer']['step'], ema=found.get('ema', {}))

    def data(self, step: int, mesh: Mesh) -> np.ndarray:
        """Returns the data's place, [rows, 2], of all hosts."""
        meta = self._orbax.checkpointables_metadata(step).metadata['data']['rows']
        want = jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=NamedSharding(mesh, P()))
        return np.asarray(self._load(step, {'data': {'rows': want}})['data']['rows'])

    def _load(self, step: int, parts: dict[str, Any], *, partial: bool = False) -> dict[str, Any]:
        context = ocp.Context()
        context.pytree.loading.partial_load = partial
        with context:
            return ocp.load_checkpointables(self.directory / str(step), parts)

    def _failure(self, error: Exception) -> CheckpointError:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        self._orbax.reload()
        good = [c.step for c in self._orbax.checkpoints]
        last = f'the last good one is step {good[-1]}' if good else 'there is none yet'
        return CheckpointError(
            f'{self.directory}: the checkpoint could not be written ({reason}); {last}. '
            'Make room, or lower checkpoint.keep_last, and start the same command again'
        )


def write_params(
    workdir: pathlib.Path,
    place: Place,
    want: Mapping[str, jax.ShapeDtypeStruct],
    stacked: Collection[str],
    jobs: Iterable[tuple[int, Callable[[], Sequence[Part]]]],
) -> None:
    """Writes a checkpoint of parameters alone; `jobs` give (bytes, function) of its parts, which run in threads.

    Orbax writes it with single numbers in the place of parameters, and each is then given its shape and its chunks:
    the whole model is never in memory. `stacked` are the paths that come member by member.
    """
    context = ocp.Context()
    context.array_options.saving.use_ocdbt = False  # a folder for each parameter
    folder = workdir.absolute() / 'checkpoints'
    with context:
        orbax = ocp.training.Checkpointer(folder)
        single = {path: np.zeros((), w.dtype) for path, w in want.items()}
        orbax.save_checkpointables(place.step, {'params': single}, custom_metadata=place._asdict())
        orbax.close()
    params = folder / str(place.step) / 'params'
    for path, w in want.items():
        (params / path / 'c').unlink()
        arrays.create(params / path, w.shape, w.dtype, stacked=path in stacked)

    def run(job: Callable[[], Sequence[Part]]) -> None:
        for path, member, array in job():
            try:
                arrays.write(params / path, want[path].shape, want[path].dtype, member, array)
            except OSError as e:
                raise CheckpointError(f'{workdir}: the checkpoint could not be written ({e}); make room') from e

    arrays.at_once((size, functools.partial(run, job)) for size, job in jobs)


def require_fit(found: Mapping[str, tuple[int, ...]], want: Shapes, where: Any, *, some: bool = False) -> None:
    """Raises CheckpointError naming every parameter that is missing, left over, or of another shape."""
    problems = [f'{p} is not in it' for p in want if p not in found]
    problems += [
        f'{p} is {found[p]} there and {tuple(w.shape)} in the model'
        for p, w in want.items()
        if p in found and tuple(found[p]) != tuple(w.shape)
    ]
    problems += [] if some else [f'{p} is in it but not in the model' for p in found if p not in want]
    if problems:
        shown = '; '.join(problems[:8]) + (f'; and {len(problems) - 8} more' if len(problems) > 8 else '')
        raise CheckpointError(f'{where} does not fit the model: {shown}')


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    beside = path.with_suffix('.new')
    beside.write_text(json.dumps(value, indent=2) + '\n')
    beside.replace(path)


def global_rows(state: np.ndarray, rows: int, mesh: Mesh) -> jax.Array:
    """Returns the data's place of all hosts, [rows, 2], from this host's part."""
    sharding = NamedSharding(mesh, P(('data', 'fsdp')))
    return jax.make_array_from_process_local_data(sharding, np.asarray(state, jnp.int32), (rows, 2))
