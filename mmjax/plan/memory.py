# SPDX-License-Identifier: Apache-2.0
"""Bytes of HBM that a step needs on one chip, by module and kind.

Parameters, optimiser state and media are known before anything is compiled; what the compiled program needs besides is
gradients and, the rest, activations that the backward pass reads and scratch.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.plan.program import Step

KINDS = ('parameters', 'optimizer', 'average', 'compute copy', 'gradients', 'media and text', 'activations')
GIVEN = ('parameters', 'optimizer', 'average', 'media and text')  # to the program, the rest it makes
UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40, '': 1}


class Memory(NamedTuple):
    """Bytes on a chip."""

    by_part: dict[str, dict[str, float]]  # module -> kind -> bytes; '' for what belongs to no module
    total: float
    limit: float

    @property
    def fits(self) -> bool:
        """Says whether the program may have that much."""
        return self.total <= self.limit


def on_chip(array: jax.ShapeDtypeStruct, dtype: Any = None) -> float:
    """Returns the bytes of an array on each device, in its own or another dtype."""
    shape = array.sharding.shard_shape(array.shape) if array.sharding is not None else array.shape
    return float(math.prod(shape) * jnp.dtype(dtype or array.dtype).itemsize)


def known(step: Step) -> dict[str, dict[str, float]]:
    """Returns module -> kind -> bytes on a chip of all that is known without compiling."""
    found: dict[str, Counter[str]] = defaultdict(Counter)

    def add(kind: str, arrays: Mapping[str, jax.ShapeDtypeStruct], dtype: Any = None) -> None:
        for path, array in arrays.items():
            found[path.split('/')[0]][kind] += on_chip(array, dtype)

    trained, everything = step.state.train, {**step.state.train, **step.frozen}
    add('parameters', everything)
    add('average', step.state.ema)
    add('gradients', trained, jnp.float32 if step.stage.accumulate > 1 else step.run.compute_dtype)
    add('compute copy', everything, step.run.compute_dtype)
    for path, leaf in jax.tree_util.tree_flatten_with_path(step.state.opt)[0]:
        names = [str(getattr(p, 'key', '')) for p in path]
        add('optimizer', {next((n for n in reversed(names) if '/' in n), ''): leaf})
    found['']['media and text'] = sum(on_chip(array) for array in jax.tree.leaves(step.batch))
    return {module: {kind: float(size) for kind, size in kinds.items()} for module, kinds in found.items()}


def compiled(step: Step, stats: Any, limit: float) -> Memory:
    """Returns what the compiled program needs: what it is given, what it makes, and no array twice."""
    parts = known(step)
    held = sum(parts[m].get(kind, 0) for m in parts for kind in ('gradients', 'compute copy'))
    scratch = stats.temp_size_in_bytes
    # The compiler may free gradients and copies one by one, so that they never stand together.
    share = min(1.0, scratch / held) if held else 1.0
    for kinds in parts.values():
        for kind in ('gradients', 'compute copy'):
            kinds[kind] = kinds.get(kind, 0) * share
    parts.setdefault('', {})['activations'] = float(max(scratch - held, 0))
    total = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes + scratch
    return Memory(parts, float(total + stats.generated_code_size_in_bytes), limit)


def refused(step: Step, error: str, limit: float) -> Memory | None:
    """Returns the memory of a program that the compiler refused for its size, None if it says something else."""
    found = re.search(r'([\d.]+)([KMGT]?)(?:i?B)?\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT]?)', error)
    if not found:
        return None
    parts, total = known(step), float(found[1]) * UNITS[found[2]]
    given = sum(kinds.get(kind, 0.0) for kinds in parts.values() for kind in GIVEN)
    if 'temporaries' in error:
        total += given
    made = sum(kinds.get(kind, 0.0) for kinds in parts.values() for kind in ('gradients', 'compute copy'))
    parts.setdefault('', {})['activations'] = max(total - given - made, 0.0)
    return Memory(parts, total, float(found[3]) * UNITS[found[4]] or limit)


def by_kind(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns kind -> bytes."""
    return {kind: sum(kinds.get(kind, 0.0) for kinds in parts.values()) for kind in KINDS}
