# SPDX-License-Identifier: Apache-2.0
"""A source whose pictures have changed places between its documents: what a model loses by it, it had seen.

Words, and so the tokens that are learnt, stay the same; each picture comes from another document. For models that fit
all pictures to one size; otherwise the numbers of tokens would change with them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data.sources.problems import Problems
from mmjax.data.sources.source import Source
from mmjax.document import BadDocument, Document, Features, Image


class Exchanged:
    """Another source with its pictures exchanged. All documents are read at once: for sets to measure on."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Whose pictures, and in which of many ways they change places."""

        source: Any  # a source's config
        seed: int = 0

        def build(self) -> 'Exchanged':
            """Opens the source and reads it; its pictures are not decoded."""
            return Exchanged(self, self.source.build())

    def __init__(self, config: Config, source: Source):
        self.name, self.problems = f'{source.name}:exchanged', getattr(source, 'problems', Problems())
        self._documents: list[Document | BadDocument] = []
        for index in range(len(source)):
            try:
                self._documents.append(source[index])
            except BadDocument as error:
                self._documents.append(error)
        readable = [i for i, document in enumerate(self._documents) if isinstance(document, Document)]
        changed = exchange([self._documents[i] for i in readable], np.random.default_rng(config.seed))
        for i, document in zip(readable, changed, strict=True):
            self._documents[i] = document

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document:
        found = self._documents[index]
        if isinstance(found, BadDocument):
            raise found
        return found


def exchange(documents: Sequence[Document], rng: np.random.Generator) -> list[Document]:
    """Returns the documents with each picture replaced by one of another document; every picture stays in use.

    All pictures stand in a ring, document by document, and move on by as many places as any document has pictures:

        a a a b c c  ->  b c c a a a
    """
    order = rng.permutation(len(documents))
    counts = [sum(isinstance(piece, Image | Features) for piece in document.pieces) for document in documents]
    most = max(counts, default=0)
    if 2 * most > sum(counts):
        raise ValueError(
            f'{most} of {sum(counts)} pictures are in one document: they cannot all go to others; measure on more'
        )
    ring = [piece for i in order for piece in documents[i].pieces if isinstance(piece, Image | Features)]
    moved, changed = iter(ring[most:] + ring[:most]), list(documents)
    for i in order:
        pieces = [
            dataclasses.replace(next(moved), weight=piece.weight) if isinstance(piece, Image | Features) else piece
            for piece in documents[i].pieces
        ]
        changed[i] = dataclasses.replace(documents[i], pieces=pieces)
    return changed
