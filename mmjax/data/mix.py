# SPDX-License-Identifier: Apache-2.0
"""Mixtures: which document stands at place i of the endless order that a run sees.

The order is a function of the seed alone: every source is shuffled anew each epoch, and sources alternate so that every
stretch of the order holds them in the proportions of their weights.
"""

import dataclasses
from typing import Any

import grain
import numpy as np

from mmjax.data.shots import join
from mmjax.document import BadDocument, Document


@dataclasses.dataclass(kw_only=True)
class Part:
    """One source of a mixture.

    Quality scores are those of the documents, in 0 .. 1; a document without one has 1. `by_quality` keeps a document
    with that probability, anew each epoch, so good ones are seen more often. With `shots`, that many other documents of
    the source stand before each one, drawn anew each time; their answers are learnt too.
    """

    source: Any  # a source's config
    weight: float = 1.0
    min_quality: float = 0.0
    by_quality: bool = False
    task: Any = None  # the config of a function Document -> Document
    shots: int = 0  # solved examples before each document
    separator: str = '\n'  # between two of them


class Mix:
    """An endless random-access sequence of documents; asking for one that is unfit raises BadDocument."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Sources with their weights. `window` documents at a time are packed into the rows of one stream."""

        parts: list[Part]
        window: int = 64

        def build(self, seed: int) -> 'Mix':
            """Opens the sources; raises ValueError for empty ones and for weights that are no proportions."""
            return Mix(self, seed)

    def __init__(self, c: Config, seed: int):
        if any(part.shots < 0 for part in c.parts):
            raise ValueError(
                f'shots are documents before another: {[part.shots for part in c.parts]} has less than none'
            )
        if not c.parts or any(part.weight <= 0 for part in c.parts) or c.window < 1:
            raise ValueError(
                f'a mixture needs sources with weights above 0 and a window of at least 1; '
                f'got weights {[part.weight for part in c.parts]}, window {c.window}'
            )
        self.sources = [part.source.build() for part in c.parts]
        for source in self.sources:
            if not len(source):
                raise ValueError(f'source {source.name} holds no documents; `mmjax data inspect` says what was dropped')
        members = [
            _Member(number, part, source, seed)
            for number, (part, source) in enumerate(zip(c.parts, self.sources, strict=True))
        ]
        orders = [grain.MapDataset.source(m).shuffle(seed=m.shuffle_seed).repeat() for m in members]
        self._order = grain.MapDataset.mix(orders, weights=[part.weight for part in c.parts])
        self._members = members

    def __getitem__(self, index: int) -> Document:
        """Returns the document at a place of the order; raises BadDocument where it is unreadable or unfit."""
        number, at = self._order[index]
        return self._members[number].read(at, index)


class _Member:
    """A source as grain sees it: items are names of documents, read only when their turn has come."""

    def __init__(self, number: int, part: Part, source: Any, seed: int):
        self.number, self.source, self.seed = number, source, seed
        self.shuffle_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        self.min_quality, self.by_quality = part.min_quality, part.by_quality
        self.task = part.task.build() if part.task is not None else None
        self.shots, self.separator = part.shots, part.separator
        if part.shots >= len(source):
            raise ValueError(
                f'{part.shots} examples before each document of {source.name}, which holds {len(source)}; lower shots'
            )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, at: int) -> tuple[int, int]:
        return self.number, int(at)

    def __repr__(self) -> str:
        return f'{self.source.name}[{len(self)}]'

    def read(self, at: int, index: int) -> Document:
        """Returns the document, which stands at place `index` of the mixture; raises BadDocument for an unfit one."""
        document = self._one(at)
        if self.by_quality and np.random.default_rng([self.seed, 7, index]).random() >= document.quality:
            raise BadDocument(document.key, 'not drawn by its quality', f'{document.quality}')
        if not self.shots:
            return document
        # Numbers of the others, the document's own left out.
        drawn = np.random.default_rng([self.seed, 11, index]).choice(len(self) - 1, self.shots, replace=False)
        examples = [self._one(number + (number >= at)) for number in drawn.tolist()]
        return join(examples, document, self.separator, learn_examples=True)

    def _one(self, at: int) -> Document:
        document = self.source[at]
        if document.quality < self.min_quality:
            raise BadDocument(document.key, 'quality below the least', f'{document.quality} < {self.min_quality}')
        return self.task(document) if self.task else document
