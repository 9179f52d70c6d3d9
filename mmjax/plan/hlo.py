# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled TPU program, as the compiler writes it down (`*TLP-hlo.txt`): what runs how often, who sends what.

Text is read since `compiled.as_text()` refuses the asynchronous operations of TPU programs (jax 0.10.2).
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

COMPUTATION = re.compile(r'^(ENTRY )?%([^ ]+) \(.*\) -> .* \{$')
INSTRUCTION = re.compile(r'^ +(?:ROOT )?%([^ ]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$')
CALLED = re.compile(
    r'\b(?:calls|to_apply|body|condition|async_execution)=%([^ ,)}]+)|(?:branch|called)_computations=\{([^}]*)\}'
)
ARRAY = re.compile(r'\b(pred|[suf]\d+|bf16|f8\w*|u4|s4)\[([\d,]*)\]')
KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute', 'ragged-all-to-all')


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    result: str  # its type
    opcode: str
    rest: str  # operands and attributes

    @property
    def scope(self) -> str:
        """The named scopes in which the model asked for it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ''


class Executed(NamedTuple):
    """An instruction and how often a step runs it."""

    instruction: Instruction
    times: float
    hidden: bool  # it runs beside other work


class Collective(NamedTuple):
    """What chips send to each other, one instruction of a step."""

    kind: str
    axes: tuple[str, ...]  # of the mesh; chips that differ in these exchange
    sent: float  # bytes that a chip sends, each time
    times: float
    hidden: bool  # other work goes on meanwhile
    scope: str


class Program:
    """The computations of a program."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, self.unknown = '', []  # loops whose rounds cannot be told
        for line in text.splitlines():
            if found := COMPUTATION.match(line):
                current = self.computations[found[2]] = []
                self.entry = found[2] if found[1] else self.entry
            elif self.computations and (found := INSTRUCTION.match(line)):
                current.append(Instruction(*found.groups()))
        if not self.entry:
            raise ValueError('the compiler wrote no program that can be read; is libtpu another version than 0.0.52?')

    def executed(self) -> Iterator[Executed]:
        """Yields every instruction that a step runs, those inside of fusions left out."""
        yield from self._run(self.entry, 1.0, hidden=False)

    def _run(self, name: str, times: float, *, hidden: bool) -> Iterator[Executed]:
        for one in self.computations.get(name, []):
            beside = hidden or one.opcode.endswith('-start')
            yield Executed(one, times, beside)
            if one.opcode == 'while':
                body = re.search(r'body=%([^ ,)}]+)', one.rest)[1]
                yield from self._run(body, times * self._rounds(one, name), hidden=hidden)
            elif one.opcode in ('call', 'conditional') or one.opcode.endswith('-start'):
                for called in self._called(one):
                    yield from self._run(called, times, hidden=beside)

    def _called(self, one: Instruction) -> list[str]:
        names = []
        for single, several in CALLED.findall(one.rest):
            names += [single] if single else re.findall(r'%([^ ,]+)', several)
        return names

    def _rounds(self, loop: Instruction, where: str) -> float:
        """Returns how often a loop runs: its condition compares a counter that begins at a constant with another."""
        condition = self.computations[re.search(r'condition=%([^ ,)}]+)', loop.rest)[1]]
        by_name = {one.name: one for one in condition}
        compare = next((one for one in condition if one.opcode == 'compare'), None)
        sides = re.findall(r'%([^ ,)]+)', compare.rest)[:2] if compare else []
        limit = next((_constant(by_name[s]) for s in sides if s in by_name and _constant(by_name[s]) is not None), None)
        counter = next((by_name[s] for s in sides if s in by_name and by_name[s].opcode == 'get-tuple-element'), None)
        if limit is None or counter is None:
            self.unknown.append(loop.name)
            return 1.0
        index = int(re.search(r'index=(\d+)', counter.rest)[1])
        return float(max(limit - (self._start(loop, index, where) or 0), 0))

    def _start(self, loop: Instruction, index: int, where: str) -> int | None:
        by_name = {one.name: one for one in self.computations[where]}
        init = by_name.get(re.search(r'%([^ ,)]+)', loop.rest)[1])
        if init is None or init.opcode != 'tuple':
            return None
        operands = re.findall(r'%([^ ,)]+)', init.rest.split('), ')[0])
        start = by_name.get(operands[index]) if index < len(operands) else None
        return _constant(start) if start else None


def collectives(program: Program, shape: dict[str, int]) -> list[Collective]:
    """Returns what a step sends over a mesh of axis -> size, in the order of the program."""
    found = []
    for one, times, hidden in program.executed():
        kind = one.opcode.removesuffix('-start')
        if kind not in KINDS:
            continue
        groups, sizes = members(one.rest, tuple(shape.values())), arrays(one.result)
        # What is begun gives (what goes in, what comes out, ...): the larger of the two is what is gathered.
        size = max(sizes) if one.opcode.endswith('-start') else sum(sizes)
        coordinates = np.array(np.unravel_index(groups, tuple(shape.values())))
        axes = tuple(a for a, c in zip(shape, coordinates, strict=True) if len(set(c)) > 1)
        if not axes:
            continue
        n = len(groups)
        sent = {'all-reduce': 2 * size * (n - 1) / n, 'reduce-scatter': size * (n - 1), 'collective-permute': size}
        found.append(Collective(kind, axes, sent.get(kind, size * (n - 1) / n), times, hidden, one.scope))
    return found


def members(rest: str, shape: Sequence[int]) -> list[int]:
    """Returns the devices of the first group that exchanges something, as places in the mesh."""
    count = math.prod(shape)
    if found := re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', rest):
        return [int(found[1]), int(found[2])]
    if found := re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', rest):
        axes = re.findall(r"'(\w+)'=(\d+)", found[1])
        names, grid = [a for a, _ in axes], np.arange(count).reshape([int(n) for _, n in axes])
        grouped = re.findall(r"'(\w+)'", found[2])
        return grid[tuple(slice(None) if a in grouped else 0 for a in names)].ravel().tolist()
    if found := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', rest):
        to, of = ([int(n) for n in part.split(',')] for part in found.groups()[:2])
        ids = np.arange(math.prod(of)).reshape(of)
        ids = ids.transpose([int(n) for n in found[3].split(',')]) if found[3] else ids
        return ids.reshape(-1, to[-1])[0].tolist()
    if found := re.search(r'replica_groups=\{\{([\d,]+)\}', rest):
        return [int(n) for n in found[1].split(',')]
    return list(range(count))


@functools.cache
def arrays(result: str) -> list[int]:
    """Returns the bytes of each array of a type, e.g. of (bf16[4,8], u32[])."""
    width = lambda kind: 1 if kind in ('pred', 'u4', 's4') else int(re.search(r'\d+', kind)[0]) / 8
    found = ARRAY.findall(result)
    return [int(width(kind) * math.prod(int(n) for n in dims.split(',') if n)) for kind, dims in found] or [0]


def totals(found: Sequence[Collective]) -> dict[tuple[str, tuple[str, ...], bool], tuple[float, float]]:
    """Returns (kind, axes, hidden) -> (how many a step, bytes that a chip sends)."""
    summed: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in found:
        entry = summed[one.kind, one.axes, one.hidden]
        entry[0] += one.times
        entry[1] += one.times * one.sent
    return {key: (count, sent) for key, (count, sent) in summed.items()}


def _constant(one: Instruction) -> int | None:
    found = re.match(r'(-?\d+)\)', one.rest) if one.opcode == 'constant' else None
    return int(found[1]) if found else None
