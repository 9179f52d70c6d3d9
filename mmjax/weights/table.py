# SPDX-License-Identifier: Apache-2.0
"""Name tables: which public tensor is which parameter, and how its numbers are laid out.

A `Table` is used in both directions. `to_ours` reads a public checkpoint and accounts for every name: a parameter
without a tensor and a tensor without a parameter are errors that list the names. `to_public` gives the same tensors
again.

Public checkpoints are PyTorch's: a Linear's matrix is [out, in], a convolution's [out, channel, row, column]. Ours are
[in..., out...], and the blocks of a stack share one array with a leading depth axis.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from mmjax.params import flatten
from mmjax.weights.rules import Rule, Vector

VECTOR = Vector()
# The public numbers of the members of a stacked axis; None: the entry stands alone.
Layers = Sequence[int] | None


@dataclasses.dataclass(frozen=True)
class Entry:
    """Ties parameters to public tensors.

    `ours` and `public` are one name or several (a fused tensor, a split one). `{layer}` in a public name stands for the
    block's number; then `layers` gives the public number of every member of the stacked axis.
    """

    ours: str | tuple[str, ...]
    public: str | tuple[str, ...]
    rule: Rule = VECTOR
    layers: Layers = None
    also: tuple[str, ...] = ()  # further public names of the same tensor, which a checkpoint may hold or not

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns the parameters' paths."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def keys(self) -> tuple[str, ...]:
        """Returns the public names, `{layer}` not filled in."""
        return (self.public,) if isinstance(self.public, str) else self.public

    def under(self, ours: str, public: str) -> 'Entry':
        """Returns the entry with prefixes put before both sides' names."""
        return dataclasses.replace(
            self,
            ours=tuple(ours + path for path in self.paths),
            public=tuple(public + key for key in self.keys),
            also=tuple(public + key for key in self.also),
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """The names of one public checkpoint layout."""

    entries: tuple[Entry, ...]
    ignored: tuple[tuple[str, str], ...] = ()  # (regular expression of public names, why they are not read)

    def under(self, ours: str, public: str) -> 'Table':
        """Returns the table with prefixes put before both sides' names."""
        return Table(
            tuple(entry.under(ours, public) for entry in self.entries),
            tuple((re.escape(public) + pattern, reason) for pattern, reason in self.ignored),
        )

    def __add__(self, other: 'Table') -> 'Table':
        return Table(self.entries + other.entries, self.ignored + other.ignored)


@dataclasses.dataclass
class Account:
    """Says what became of every public name."""

    used: list[str] = dataclasses.field(default_factory=list)
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> reason


class Job(NamedTuple):
    """Reads parameters of `paths`, `count` numbers, as (path, member of its stacked axis or None, array)."""

    paths: tuple[str, ...]
    count: int
    read: Callable[[], list[tuple[str, int | None, np.ndarray]]]


class WeightsError(ValueError):
    """Names and tensors that do not fit the table."""


def shapes(build: Callable[..., nnx.Module]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a module's parameters by path, without making them; `build` is called with rngs."""
    abstract = jax.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    return {path: value.shape for path, value in flatten(abstract).items()}


def to_ours(
    table: Table, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], Account]:
    """Reads public `tensors` into parameters of `shapes`; raises WeightsError unless both sides are used up."""
    account = check_names(table, tensors, shapes)
    params, stacks = {}, {}
    for path, member, array in read(table, tensors, shapes):
        if member is None:
            params[path] = array
        else:
            stacks.setdefault(path, []).append(array)
    for path in list(stacks):
        params[path] = np.stack(stacks.pop(path))
    return params, account


def check_names(
    table: Table, names: Collection[str], shapes: Mapping[str, tuple[int, ...]], describe: Callable[[str], str] = str
) -> Account:
    """Says what becomes of every public name; raises WeightsError unless both sides are used up.

    `describe` gives what a message says of a public name.
    """
    unread = ignored(table, names)
    expected = [key for entry in table.entries for key in _filled(entry, entry.keys)]
    optional = [key for entry in table.entries for key in _filled(entry, entry.also)]
    _refuse('tensors that the checkpoint lacks', [key for key in expected if key not in names], describe)
    known = {*expected, *optional, *unread}
    _refuse('tensors that no parameter takes', [key for key in names if key not in known], describe)
    paths = [path for entry in table.entries for path in entry.paths]
    _refuse('parameters that no tensor gives', [path for path in shapes if path not in set(paths)])
    _refuse('parameters of the table that the model lacks', [path for path in paths if path not in shapes])
    return Account([key for key in (*expected, *optional) if key in names], unread)


def read(
    table: Table, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """Yields (path, member of its stacked axis, array) block by block; what is not asked for has not been read."""
    for job in jobs(table, tensors, shapes):
        yield from job.read()


def jobs(table: Table, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Job]:
    """Yields what reads one block each, or what stands alone; they may run in any order, or at once."""
    for entry in table.entries:
        wanted = [tuple(shapes[path]) for path in entry.paths]
        _check_depth(entry, wanted)
        own = [shape[entry.layers is not None :] for shape in wanted]
        count = sum(map(math.prod, own))
        for member, layer in enumerate(entry.layers) if entry.layers is not None else [(None, None)]:
            read = functools.partial(_read_one, entry, member, layer, tensors, own)
            yield Job(entry.paths, count, read)


def public_shapes(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns public name -> the shape that it has where our parameters have `shapes`."""
    found = {}
    for entry in table.entries:
        _check_depth(entry, [shapes[path] for path in entry.paths])
        own = [shapes[path][entry.layers is not None :] for path in entry.paths]
        # Memory that is never written to costs nothing; most rules look at it without a copy.
        written = [tensor.shape for tensor in entry.rule.write([np.empty(shape, np.int8) for shape in own])]
        for layer in entry.layers if entry.layers is not None else [None]:
            found |= {_fill(key, layer): shape for key, shape in zip(entry.keys, written, strict=True)}
            found |= {_fill(key, layer): written[0] for key in entry.also}
    return found


def keys_of(table: Table, begins: str) -> list[str]:
    """Returns the public names of the tensors that give parameters whose paths begin like this."""
    entries = [entry for entry in table.entries if all(path.startswith(begins) for path in entry.paths)]
    return [key for entry in entries for key in _filled(entry, entry.keys)]


def dtypes(table: Table, of: Callable[[str], np.dtype]) -> dict[str, np.dtype]:
    """Returns path -> the dtype that holds the numbers of all its tensors, whose own are those that `of` gives."""
    found = {}
    for entry in table.entries:
        found |= dict.fromkeys(entry.paths, np.result_type(*(of(key) for key in _filled(entry, entry.keys))))
    return found


def stacked(table: Table) -> set[str]:
    """Returns the paths that are read member by member."""
    return {path for entry in table.entries if entry.layers is not None for path in entry.paths}


def to_public(table: Table, params: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Writes parameters as named public tensors, layer by layer; the exact inverse of `to_ours`."""
    paths = {path for entry in table.entries for path in entry.paths}
    _refuse('parameters that the table does not name', [path for path in params if path not in paths])
    _refuse('parameters of the table that the model lacks', [path for path in paths if path not in params])
    for entry in table.entries:
        stacks = [params[path] for path in entry.paths]
        for i, layer in enumerate(entry.layers if entry.layers is not None else [None]):
            found = entry.rule.write([np.asarray(stack if layer is None else stack[i]) for stack in stacks])
            for key, tensor in zip(entry.keys, found, strict=True):
                yield _fill(key, layer), tensor
            for key in entry.also:
                yield _fill(key, layer), found[0]


def _check_depth(entry: Entry, shapes: Sequence[tuple[int, ...]]) -> None:
    for path, shape in zip(entry.paths, shapes, strict=True):
        if entry.layers is not None and shape[0] != len(entry.layers):
            raise WeightsError(f'{path}: {shape[0]} blocks in the model, {len(entry.layers)} in the table')


def _read_one(
    entry: Entry,
    member: int | None,
    layer: int | None,
    tensors: Mapping[str, np.ndarray],
    shapes: list[tuple[int, ...]],
) -> list[tuple[str, int | None, np.ndarray]]:
    keys = [_fill(key, layer) for key in entry.keys]
    public = [tensors[key] for key in keys]
    described = ', '.join(f'{key} {tensor.shape}' for key, tensor in zip(keys, public, strict=True))
    sizes = sum(tensor.size for tensor in public), sum(math.prod(shape) for shape in shapes)
    try:
        found = entry.rule.read(public, shapes)
    except ValueError as error:
        raise WeightsError(
            f'{described} ({sizes[0]} numbers) do not fit {entry.paths} {shapes} ({sizes[1]}): {error}'
        ) from error
    for path, array, shape in zip(entry.paths, found, shapes, strict=True):
        if array.shape != tuple(shape):
            raise WeightsError(f'{described} gives {path} the shape {array.shape}, the model has {tuple(shape)}')
    for key in entry.also:
        key = _fill(key, layer)
        if key in tensors and not np.array_equal(tensors[key], public[0]):
            raise WeightsError(f'{key} and {keys[0]} should be one tensor but differ')
    return [(path, member, array) for path, array in zip(entry.paths, found, strict=True)]


def ignored(table: Table, names: Collection[str]) -> dict[str, str]:
    """Returns name -> reason of those names that are not read."""
    rules = [(re.compile(pattern), reason) for pattern, reason in table.ignored]
    return {key: reason for key in names for pattern, reason in rules if pattern.fullmatch(key)}


def _filled(entry: Entry, keys: tuple[str, ...]) -> list[str]:
    return [_fill(key, layer) for layer in (entry.layers if entry.layers is not None else [None]) for key in keys]


def _fill(key: str, layer: int | None) -> str:
    return key if layer is None else key.replace('{layer}', str(layer))


def _refuse(what: str, names: list[str], describe: Callable[[str], str] = str) -> None:
    if names:
        shown = ', '.join(map(describe, names[:20])) + (f' and {len(names) - 20} more' if len(names) > 20 else '')
        raise WeightsError(f'{len(names)} {what}: {shown}')
