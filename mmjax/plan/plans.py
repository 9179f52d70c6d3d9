# SPDX-License-Identifier: Apache-2.0
"""Plans: asks a process for each, says what they mean, and searches for the best."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from mmjax.plan.bound import Bound
from mmjax.plan.child import Request
from mmjax.plan.chips import Chip, chip_of
from mmjax.plan.flops import Work
from mmjax.plan.memory import Memory, by_kind


class PlanError(Exception):
    """A step that cannot be compiled, and why."""


@dataclasses.dataclass
class Plan:
    """What is known of a step on a pod. Without `bound`, `work` and `collectives` where it does not fit."""

    request: Request
    stage: str
    steps: int
    rows: int
    tokens: int  # places of a step
    axes: dict[str, int]
    devices: int
    remat: str
    accumulate: int
    seconds: float  # that compiling took
    memory: Memory
    work: dict[str, Work] = dataclasses.field(default_factory=dict)
    bound: Bound | None = None
    collectives: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def chip(self) -> Chip:
        """Whose figures count."""
        return chip_of(self.request.topology)

    @property
    def step(self) -> float:
        """Seconds that a step takes at least; infinite where it does not fit."""
        return self.bound.seconds if self.bound else float('inf')

    @property
    def useful(self) -> float:
        """FLOPs that a step needs, on all devices."""
        return sum(work.useful for work in self.work.values())

    @property
    def mfu(self) -> float:
        """The most of the chips' peak that useful FLOPs can take."""
        return self.useful / (self.devices * self.chip.peak * self.step)

    @property
    def chip_hours(self) -> float:
        """Of the stage, at least."""
        return self.steps * self.step * self.devices / self.chip.devices / 3600

    def to_json(self) -> dict[str, Any]:
        """Returns everything, what follows from it too."""
        derived = dict(fits=self.memory.fits, by_kind=by_kind(self.memory.by_part))
        if self.bound:
            derived |= dict(step_seconds=self.step, mfu=self.mfu, useful_flops=self.useful, chip_hours=self.chip_hours)
        plain = dataclasses.asdict(self) | dict(
            memory=self.memory._asdict(),
            work={part: one._asdict() for part, one in self.work.items()},
            bound=self.bound and self.bound._asdict(),
        )
        return plain | derived


def make(request: Request) -> Plan:
    """Compiles a step in a process of its own; raises PlanError with what the compiler says."""
    with tempfile.TemporaryDirectory(prefix='plan') as folder:
        asked, told = pathlib.Path(folder) / 'request.json', pathlib.Path(folder) / 'plan.json'
        asked.write_text(json.dumps(dataclasses.asdict(request)))
        command = [sys.executable, '-m', 'mmjax.plan.child', str(asked), str(told)]
        # The TPU compiler reads XLA_FLAGS too and ends the process at one that is for CPUs or GPUs only.
        environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=request.timeout, env=environment)
        except subprocess.TimeoutExpired:
            raise PlanError(
                f'{request.topology}: compiling took more than {request.timeout:.0f} s; raise --timeout'
            ) from None
        if done.returncode or not told.exists():
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            said = next((line for line in reversed(lines) if 'Error' in line), lines[-1] if lines else 'nothing')
            raise PlanError(f'{request.config} on {request.topology}: {said}')
        answer = json.loads(told.read_text())
    memory, work = Memory(**answer.pop('memory')), {part: Work(**one) for part, one in answer.pop('work', {}).items()}
    time = Bound(**answer.pop('bound')) if 'bound' in answer else None
    return Plan(request, memory=memory, work=work, bound=time, **answer)


def ways_out(plan: Plan, most: int = 3) -> list[str]:
    """Returns changes that would make a step fit, by what it needs now: the smallest of each kind that is enough."""
    memory, kinds = plan.memory, by_kind(plan.memory.by_part)
    acts, fixed = kinds['activations'], plan.memory.total - kinds['activations']
    found = []
    if plan.remat != 'block':
        found.append(f'--config.remat=block (now {plan.remat!r}): activations of one layer in the place of all')
    shards = plan.axes['data'] * plan.axes['fsdp']
    for parts in (2, 4, 8, 16, 32):
        if plan.rows % (shards * plan.accumulate * parts) == 0 and fixed + acts / parts <= memory.limit:
            found.append(
                f'--config.stages[...].accumulate={plan.accumulate * parts}: activations of fewer rows at once'
            )
            break
    for more in (2, 4, 8, 16, 32, 64):
        if memory.total / more <= memory.limit and plan.rows % (shards * more) == 0:
            found.append(f'{more} times the chips, along fsdp: weights and rows in more parts')
            break
    for tp in (2, 4, 8):
        if plan.axes['fsdp'] % tp == 0 and fixed + acts / tp <= memory.limit:
            fsdp = plan.axes['fsdp'] // tp
            found.append(f'--mesh=fsdp={fsdp},tp={plan.axes["tp"] * tp}: activations in parts along their width')
            break
    smaller = int(plan.rows * max(memory.limit - fixed, 0) / max(acts, 1)) // shards * shards
    if smaller:
        found.append(f'--config.stages[...].rows={smaller} (now {plan.rows}): a smaller batch')
    return found[:most] or ['none of one kind: take more chips, and --config.remat=block']


def search(request: Request, tried: Callable[[Request], Plan] = make, most: int = 8) -> Iterator[Plan]:
    """Yields plans of meshes, then of remat policies and microbatches on the best of them; `most` are compiled."""
    first = tried(request)
    yield first
    plans, seen = [first], {_key(request)}

    def attempt(candidate: Request) -> Iterator[Plan]:
        if _key(candidate) in seen or len(seen) >= most:
            return
        seen.add(_key(candidate))
        try:
            plans.append(tried(candidate))
            yield plans[-1]
        except PlanError:
            pass  # heads or rows that such a mesh does not divide

    for tp in (1, 2, 4, 8):
        data = request.slices
        if first.devices % (tp * data) == 0:
            mesh = f'data={data},fsdp={first.devices // tp // data},tp={tp}'
            yield from attempt(dataclasses.replace(request, mesh=mesh))
    for policy in ('dots', 'none'):
        best = min(plans, key=lambda p: p.step)
        yield from attempt(_with(best.request, f'remat={policy}'))
    for plan in [p for p in plans if not p.memory.fits]:
        number = plan.request.stage or ''
        if number.isdigit():
            yield from attempt(_with(plan.request, f'stages[{number}].accumulate={2 * plan.accumulate}'))


def _with(request: Request, field: str) -> Request:
    return dataclasses.replace(request, overrides=[*request.overrides, field])


def _key(request: Request) -> str:
    return json.dumps([request.mesh, request.overrides])
