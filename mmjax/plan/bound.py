# SPDX-License-Identifier: Apache-2.0
"""The least time that a compiled step can take: its scheduled cycles, and what it waits for other chips.

Cycles are those of the compiler's schedule, without waiting for HBM, so that nothing runs faster; what they say was
0.75 to 0.87 of the time measured on hardware (jax issue 24633). Collectives that no other work hides are added, at the
bandwidth of the links that their axes have; hidden ones count where they take longer than everything else.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.plan.chips import Chip
from mmjax.plan.hlo import Collective, Instruction, Program
from mmjax.plan.schedule import Kernel

PARTS = ('encoder', 'connector', 'gated', 'cross', 'decoder', 'loss', 'update')
ATTENTION = 'span_attention_'  # the names of our kernels


class Bound(NamedTuple):
    """Seconds of a step."""

    compute: dict[str, float]  # part -> seconds
    waiting: float  # for collectives that nothing hides
    hidden: float  # of those that other work hides
    unknown: int  # loops whose rounds the program does not say, counted once

    @property
    def seconds(self) -> float:
        """The whole step."""
        return max(sum(self.compute.values()) + self.waiting, self.hidden)


def bound(
    program: Program, kernels: Mapping[str, Kernel], found: Sequence[Collective], chip: Chip, widths: Mapping[str, int],
    state_bytes: float,
) -> Bound:  # fmt: skip
    """Returns the bound of a compiled step.

    widths: axis -> dimensions of the torus that it runs through, 0: a network. state_bytes: what the optimiser
    reads and writes on a chip, which no cycle of its schedule waits for.
    """
    cycles: Counter[str] = Counter()
    where = {one.name: one for each in program.computations.values() for one in each}
    for one, times, hidden in program.executed():
        if hidden or one.name not in kernels:
            continue
        kernel, scope = kernels[one.name], part(one.scope)
        once = kernel.cycles
        if kernel.round:
            met, blocks = tiles(one, where, causal=scope != 'encoder')
            once += met * kernel.round + blocks * kernel.end
        cycles[scope] += times * once
    compute = {name: count / chip.clock for name, count in cycles.items()}
    compute['update'] = max(compute.get('update', 0.0), state_bytes / chip.bandwidth)
    spent = {True: 0.0, False: 0.0}
    for each in found:
        spent[each.hidden] += each.times * each.sent / bandwidth(each.axes, chip, widths)
    return Bound(compute, spent[False], spent[True], len(set(program.unknown)))


def part(scope: str) -> str:
    """Returns the part of the model that a scope names: the innermost that is one."""
    words = re.findall(r'\w+', re.sub(r'^jit\(\w+\)', '', scope))
    return next((word for word in reversed(words) if word in PARTS), 'rest')


def tiles(kernel: Instruction, where: Mapping[str, Instruction], *, causal: bool) -> tuple[float, float]:
    """Returns how many tiles and blocks of queries an attention kernel meets if each row is one document.

    Rows stand in [B, K, G, L, H], what is kept of their sums in [B, K, lines of tiles, queries of a line / 128, 128].
    """
    if not kernel.name.startswith(ATTENTION):
        return 0.0, 0.0
    types = [kernel.result, *(where[n].result for n in re.findall(r'%([^ ,)]+)', kernel.rest) if n in where)]
    shapes = [tuple(int(n) for n in dims.split(',')) for text in types for dims in re.findall(r'\[([\d,]+)\]', text)]
    rows = next((s for s in shapes if len(s) == 5), None)
    kept = [s for s in shapes if len(s) == 5 and s[4] == 128 and rows and math.prod(s[2:]) == math.prod(rows[2:4])]
    if not kept:
        return 0.0, 0.0
    heads, lines = math.prod(rows[:2]), kept[0][2]
    met = lines * (lines + 1) / 2 if causal else lines**2
    return float(heads * met), float(heads * lines)


def bandwidth(axes: Sequence[str], chip: Chip, widths: Mapping[str, int]) -> float:
    """Returns the bytes/s that a chip sends to others along axes of the mesh: a ring in each dimension, both ways."""
    if any(widths[axis] == 0 for axis in axes):
        return chip.network
    return 2 * chip.link * min(sum(widths[axis] for axis in axes), chip.torus)


def torus_widths(devices: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Returns for each axis of a mesh through how many dimensions of the torus it runs; 0 where it leaves a slice."""
    found = {}
    for i, name in enumerate(names):
        line = np.moveaxis(devices, i, 0).reshape(devices.shape[i], -1)[:, 0]
        crosses = len({getattr(d, 'slice_index', 0) for d in line}) > 1
        coordinates = np.array([d.coords for d in line])
        found[name] = 0 if crosses else max(int((coordinates != coordinates[0]).any(axis=0).sum()), 1)
    return found
