# SPDX-License-Identifier: Apache-2.0
"""Rules: how the numbers of public tensors lie in ours. Each is read forwards (import) and backwards (export).

`read(public, shapes)` takes the public arrays of one entry and the shapes that our parameters have; `write(ours)` is
its inverse. Both take and give lists: one public tensor may hold several of our parameters, or one of ours several of
them.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import numpy as np

Shape = tuple[int, ...]


@runtime_checkable
class Rule(Protocol):
    """Converts between public tensors and our parameters."""

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]: ...

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Vector:
    """A tensor whose numbers lie in the same order; `public` is its public shape, -1 for the rest."""

    public: Shape = (-1,)

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [public[0].reshape(shapes[0])]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [ours[0].reshape(self.public)]


@dataclasses.dataclass(frozen=True)
class Same:
    """A tensor that is the same on both sides, shape and all."""

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [public[0]]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [ours[0]]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A Linear: public [out, in], ours [in..., out...] with `inputs` leading axes that are summed over."""

    inputs: int = 1

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [public[0].T.reshape(shapes[0])]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        rows = math.prod(ours[0].shape[: self.inputs])
        return [ours[0].reshape(rows, -1).T]


@dataclasses.dataclass(frozen=True)
class Transposed:
    """One public matrix that is stored [in, out]; its transpose follows `rule`."""

    rule: Rule

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return self.rule.read([public[0].T], shapes)

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [self.rule.write(ours)[0].T]


@dataclasses.dataclass(frozen=True)
class Patch:
    """The convolution that cuts patches: public [D, channel, row, column], ours [row column channel, D]."""

    channels: int = 3

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [public[0].transpose(2, 3, 1, 0).reshape(shapes[0])]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        side = math.isqrt(ours[0].shape[0] // self.channels)
        return [ours[0].reshape(side, side, self.channels, -1).transpose(3, 2, 0, 1)]


@dataclasses.dataclass(frozen=True)
class Film:
    """The convolution that cuts films: public [D, channel, t, row, column], ours [t row column channel, D]."""

    frames: int
    channels: int = 3

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [public[0].transpose(2, 3, 4, 1, 0).reshape(shapes[0])]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        side = math.isqrt(ours[0].shape[0] // self.channels // self.frames)
        return [ours[0].reshape(self.frames, side, side, self.channels, -1).transpose(4, 3, 0, 1, 2)]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A convolution: public [out, in, row, column], ours [row, column, in, out]."""

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [public[0].transpose(2, 3, 1, 0)]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [ours[0].transpose(3, 2, 0, 1)]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tables of words, public [words, D] each, that stand one after the other in ours, padded at the end with zeros.

    A bias of words is a table without D. `words` are the public tables' lengths; `transposed` says that ours is a
    head [D, V] and not a table [V, D].
    """

    words: tuple[int, ...]
    transposed: bool = False

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        lengths = tuple(table.shape[0] for table in public)
        if lengths != self.words:
            raise ValueError(f'tables of {lengths} words, expected {self.words}')
        rows = shapes[0][1 if self.transposed else 0]
        padded = public[0]
        if lengths != (rows,):
            padded = np.zeros((rows, *public[0].shape[1:]), public[0].dtype)
            for end, table in zip(np.cumsum(lengths), public, strict=True):
                padded[end - len(table) : end] = table
        return [padded.T if self.transposed else padded]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        table = ours[0].T if self.transposed else ours[0]
        ends = np.cumsum(self.words)
        return [table[end - length : end] for end, length in zip(ends, self.words, strict=True)]


@dataclasses.dataclass(frozen=True)
class Joined:
    """One public tensor whose first axis (outputs) holds several of ours, one after the other; each follows `rule`."""

    rule: Rule = Matrix()

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        # All parts have the same inputs, so their shares of the output axis are as their sizes.
        sizes = [math.prod(shape) for shape in shapes]
        rows = [len(public[0]) * size // sum(sizes) for size in sizes]
        parts = np.split(public[0], np.cumsum(rows)[:-1])
        return [self.rule.read([part], [shape])[0] for part, shape in zip(parts, shapes, strict=True)]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate([self.rule.write([part])[0] for part in ours])]


@dataclasses.dataclass(frozen=True)
class JoinedByHead:
    """One public tensor whose first axis is (head, part, H): queries, keys and values fused inside each head."""

    heads: int
    rule: Rule = Matrix()

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        rest = public[0].shape[1:]
        split = public[0].reshape(self.heads, len(shapes), -1, *rest)
        return [self.rule.read([split[:, i].reshape(-1, *rest)], [shape])[0] for i, shape in enumerate(shapes)]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        parts = [self.rule.write([part])[0] for part in ours]
        rest = parts[0].shape[1:]
        split = np.stack([part.reshape(self.heads, -1, *rest) for part in parts], axis=1)
        return [split.reshape(-1, *rest)]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Public tensors of shape `public`, each of which is one row of ours."""

    public: Shape = (-1,)

    def read(self, public: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        return [np.stack([row.reshape(shapes[0][1:]) for row in public])]

    def write(self, ours: list[np.ndarray]) -> list[np.ndarray]:
        return [row.reshape(self.public) for row in ours[0]]
