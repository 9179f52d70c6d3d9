# SPDX-License-Identifier: Apache-2.0
"""The training and the validation part of a source: the name of a document decides where it belongs.

A document is held out for validation where the SHA-256 of its name, as a number, is a multiple of `every`. The name is
its key without what stands before the first colon, which names the source. So a document stays in its part whatever is
added, reordered, or renamed around it, and other programs can draw the same line.
"""

import dataclasses
import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.data.sources.problems import Problems
from mmjax.data.sources.source import Source
from mmjax.document import BadDocument, Document

PARTS = ('train', 'validation')


@runtime_checkable
class Named(Protocol):
    """A source that knows the keys of its documents without reading them."""

    def key(self, index: int) -> str: ...


class Split:
    """One part of another source."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Which part; one document in `every` is held out."""

        source: Any  # a source's config
        part: str = 'train'  # train, validation
        every: int = 20

        def build(self) -> 'Split':
            """Opens the source and asks for the name of each of its documents."""
            if self.part not in PARTS:
                raise ValueError(f'split.part is {self.part!r}, known are {", ".join(PARTS)}')
            if self.every < 2:
                raise ValueError(f'split.every is {self.every}; at least 2 leaves something for both parts')
            return Split(self, self.source.build())

    def __init__(self, config: Config, source: Source):
        self.source, self.name = source, f'{source.name}:{config.part}'
        # What is dropped inside documents the source counts, for both of its parts.
        self.problems = getattr(source, 'problems', Problems())
        held = np.array([held_out(key_of(source, i), config.every) for i in range(len(source))], bool)
        self._chosen = np.flatnonzero(held if config.part == 'validation' else ~held)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Document:
        return self.source[int(self._chosen[index])]

    def key(self, index: int) -> str:
        """Returns the key of document `index`."""
        return key_of(self.source, int(self._chosen[index]))


def held_out(key: str, every: int) -> bool:
    """Returns whether a document of this key is one of the one in `every` for validation."""
    name = key.partition(':')[2] or key
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % every == 0


def key_of(source: Source, index: int) -> str:
    """Returns a document's key; one that cannot be read has a key too."""
    if isinstance(source, Named):
        return source.key(index)
    try:
        return source[index].key
    except BadDocument as error:
        return error.key
