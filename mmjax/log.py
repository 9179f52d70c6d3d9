# SPDX-License-Identifier: Apache-2.0
"""What a run says: lines on the terminal, a progress bar, `metrics.jsonl`, TensorBoard's event files.

Metrics of step n are fetched when step n + 1 has been given to the devices, so they never wait for the host. A line
covers `every_steps` steps: sums of losses over sums of weights, exactly as if it had been one batch.
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mmjax.config import Log
from mmjax.watch import Goodput, Watchdog, clock

# Not sums over tokens: the last step's value is what a line says.
LAST = ('lr',)
MEANS = ('grad_norm',)
RATES = ('tokens_per_s', 'images_per_s', 'step_s', 'data_stall', 'filled')


def info(message: str) -> None:
    """Prints a message, on the first process only, above a progress bar if there is one."""
    if jax.process_index() == 0:
        tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()


class NonFinite(Exception):
    """Too many steps in a row had no finite loss or gradient."""


class Logger:
    """Collects the metrics of steps and writes a line every so many of them."""

    def __init__(self, c: Log, workdir: pathlib.Path, total_steps: int, step: int = 0):
        self.c, self.path = c, workdir / 'metrics.jsonl'
        self._sums: Counter[str] = Counter()  # since the last line
        self._skipped = 0  # in a row
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._time, self._timed = time.perf_counter(), Counter()
        self._rates: dict[str, float] = dict.fromkeys(RATES, 0.0)
        self._first, self.goodput = jax.process_index() == 0, Goodput()
        self._dog = Watchdog(c.hang_seconds, workdir / f'stacks-{jax.process_index()}.txt')
        self._board = self._bar = None
        if self._first:
            _forget_after(self.path, step)
            self._file = open(self.path, 'a', buffering=1)  # noqa: SIM115  (kept open for the whole run)
            if c.tensorboard:
                from tensorboardX import SummaryWriter  # 0.5 s to import: only where it is wanted

                self._board = SummaryWriter(str(workdir / 'tensorboard'), purge_step=step)
            if sys.stderr.isatty():
                self._bar = tqdm(total=total_steps, initial=step, dynamic_ncols=True, unit='step')
        self._total = total_steps

    def step(self, step: int, metrics: Mapping[str, Any], host: Mapping[str, float | int]) -> None:
        """Takes the metrics of a step just given to the devices; `host` has tokens, images and stall seconds of it."""
        before, self._pending = self._pending, (step, metrics)
        self.goodput.count('steps', host.get('stall', 0.0))
        self._dog.alive()
        self._timed.update({**host, 'steps': 1})  # with the clock, one step ahead of the metrics
        if before is not None:
            self._take(*before)

    def flush(self) -> None:
        """Takes what is still under way; the devices have then finished every step so far."""
        before, self._pending = self._pending, None
        if before is not None:
            self._take(*before)

    def state(self) -> dict[str, float | int]:
        """Returns the sums of an unfinished line, for the checkpoint: the line comes out the same after a resume."""
        assert self._pending is None, 'flush first'
        return {**self._sums, **self.goodput.state(), '_skipped': self._skipped}

    def set_state(self, state: Mapping[str, float | int]) -> None:
        """Goes on with the sums that a checkpoint kept."""
        self._sums = Counter({k: v for k, v in state.items() if not k.startswith('_')})
        self.goodput.set_state(state)
        self._skipped = int(state.get('_skipped', 0))

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Stops the clock: compiling, evaluating and saving are no training time."""
        start = time.perf_counter()
        self.goodput.count('steps')
        self._dog.rest()
        yield
        self._time += time.perf_counter() - start
        self.goodput.count(what)

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Writes one line of values at a step."""
        if not self._first:
            return
        try:
            self._file.write(json.dumps({'step': step, **values}) + '\n')
        except OSError as e:
            raise OSError(e.errno, f'the log could not be written ({e.strerror})', str(self.path)) from e
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files; steps not yet fetched are forgotten, `flush` first to keep them."""
        self._dog.close()
        if self._first:
            with contextlib.suppress(OSError):  # what could not be written was reported already
                self._file.close()
            if self._board is not None:
                self._board.close()
            if self._bar is not None:
                self._bar.close()

    def _take(self, step: int, metrics: Mapping[str, Any]) -> None:
        values = {k: float(v) for k, v in jax.device_get(dict(metrics)).items()}
        self._skipped = self._skipped + 1 if values['skipped'] else 0
        if self._skipped >= self.c.max_skipped:
            raise NonFinite(
                f'step {step}: {self._skipped} steps in a row without a finite loss and gradient; '
                'lower optimizer.peak_lr, raise warmup, or look at the data (log.max_skipped says how many are borne)'
            )
        last = {k: values.pop(k) for k in LAST}
        if values['skipped']:
            values = {'skipped': 1.0}  # a loss that is not finite would swallow the whole line
        else:
            values['steps'] = 1.0
        self._sums.update(values)
        if self._bar is not None:
            self._bar.update(1)
        if (step + 1) % self.c.every_steps == 0:
            self._line(step + 1, last)

    def _line(self, step: int, last: Mapping[str, float | int]) -> None:
        sums, self._sums = self._sums, Counter()
        seconds, timed = max(time.perf_counter() - self._time, 1e-9), self._timed
        self._time, self._timed = time.perf_counter(), Counter()
        weight, steps = sums.pop('weight', 0.0), sums.pop('steps', 0.0)
        line = {'skipped': sums.pop('skipped', 0.0)}
        line.update({k: sums.pop(k, 0.0) / steps if steps else None for k in MEANS})
        line.update({k: v / weight if weight else None for k, v in sums.items()})
        line['loss'] = line.get('loss')
        hosts = jax.process_count()  # each counts its own rows
        line.update(last, weight=weight)
        if timed['steps']:
            rates = {f'{k}_per_s': timed[k] * hosts / seconds for k in ('tokens', 'images')}
            self._rates = {**rates, 'step_s': seconds / timed['steps'], 'data_stall': timed['stall'] / seconds}
            self._rates['filled'] = timed['tokens'] / max(timed['places'], 1)
        line.update(self._rates)
        self.write(step, {k: v for k, v in line.items() if v is not None})
        if self._first:
            self._show(step, line)

    def _show(self, step: int, line: Mapping[str, Any]) -> None:
        loss = 'none' if line['loss'] is None else f'{line["loss"]:.4f}'
        stall = f'stall {100 * line["data_stall"]:.1f}%' + (
            f', {line["skipped"]:.0f} skipped' if line['skipped'] else ''
        )
        rates = f'{line["tokens_per_s"]:,.0f} tokens/s, {line["images_per_s"]:,.1f} images/s, {stall}'
        if self._bar is not None:
            self._bar.set_postfix_str(f'loss {loss}, {rates}', refresh=True)
        else:
            left = (self._total - step) * line['step_s']
            info(f'step {step}/{self._total}  loss {loss}  {rates}, {clock(left)} left')


def device_line(mesh: jax.sharding.Mesh) -> str:
    """Returns one line on the devices and how they are arranged."""
    kind = mesh.devices.flat[0].device_kind
    shape = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
    return f'devices: {mesh.devices.size} x {kind} as {shape}; {jax.process_count()} process(es)'


def data_lines(stats: Any, problems: Sequence[str]) -> str:
    """Returns lines on what went through a pipeline: documents, how full the rows were, what was dropped and why."""
    dropped = ', '.join(f'{count} {reason}' for reason, count in stats.dropped.most_common()) or 'nothing'
    line = f'data: {stats.documents} documents, {stats.efficiency:.1%} of the token places filled; dropped: {dropped}'
    return '\n  '.join([line, *(f'for example {example}' for example in list(stats.examples.values())[:4]), *problems])


def program_line(compiled: Any, seconds: float) -> str:
    """Returns one line on a compiled step: how long it took, what it keeps in memory, what it computes."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    parts = [f'compiled in {seconds:.1f} s']
    if memory is not None:
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = held + memory.temp_size_in_bytes
        parts.append(f'{peak / 2**30:.2f} GiB a device ({memory.temp_size_in_bytes / 2**30:.2f} of it activations)')
    if flops := cost.get('flops', 0):
        parts.append(f'{flops:.3g} FLOPs a step and device, as the compiler counts (a loop body once)')
    return 'step: ' + ', '.join(parts)


def _forget_after(path: pathlib.Path, step: int) -> None:
    """Drops lines after a step: what a killed run wrote past its last checkpoint is written again.

    A line of steps counts those before it; a line of measures comes before its step, hence is made again too.
    """
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _steps_of(line) <= step]
    beside = path.with_suffix('.new')
    beside.write_text(''.join(line + '\n' for line in kept))
    os.replace(beside, path)


def _steps_of(line: str) -> int | float:
    """Returns how many steps a run must have made for the line to be final."""
    try:
        values = json.loads(line)
        return values['step'] + ('skipped' not in values)
    except (json.JSONDecodeError, KeyError):
        return np.inf  # cut off in the middle when the run was killed
