# SPDX-License-Identifier: Apache-2.0
"""The blind control: the same questions, each with another question's pictures.

A model that answers as well from a wrong picture does not look at pictures. Pictures change places only between
documents whose media are of the same kinds and sizes, so neither the number of tokens nor the shape gives the answer
away.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mmjax.document import Document, Features, Image, Medium, Video, kind_of


def media(document: Document) -> list[Medium]:
    """Returns the document's pictures and videos in order."""
    return [piece for piece in document.pieces if isinstance(piece, Medium)]


def with_media(document: Document, others: Sequence[Medium]) -> Document:
    """Returns the document with its pictures and videos replaced, one for one; loss weights stay where they were."""
    left = iter(others)
    pieces = [
        dataclasses.replace(next(left), weight=piece.weight) if isinstance(piece, Medium) else piece
        for piece in document.pieces
    ]
    return dataclasses.replace(document, pieces=pieces)


def derangement(count: int, rng: np.random.Generator) -> list[int]:
    """Returns a random permutation that leaves nothing in its place: one cycle through all (Sattolo's algorithm)."""
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = int(rng.integers(i))
        order[i], order[j] = order[j], order[i]
    return order


def shuffle(
    documents: Sequence[Document], size: Callable[[Image | Features], tuple[int, int]], seed: int
) -> tuple[list[Document], list[int]]:
    """Returns (the documents with each other's pictures, whose pictures each has).

    A document whose pictures' sizes no other document shares gives its pictures to none and has -1: leave it out of the
    control. `size` says how large a picture is.
    """
    groups: dict[tuple, list[int]] = {}
    for i, document in enumerate(documents):
        frames = [(kind_of(m), m.frames if isinstance(m, Video) else (m,)) for m in media(document)]
        groups.setdefault(tuple((kind, *map(size, f)) for kind, f in frames), []).append(i)
    rng, owner = np.random.default_rng(seed), [-1] * len(documents)
    for sizes, members in groups.items():
        if sizes and len(members) > 1:
            for place, other in enumerate(derangement(len(members), rng)):
                owner[members[place]] = members[other]
    shuffled = [
        document if other < 0 else with_media(document, media(documents[other]))
        for document, other in zip(documents, owner, strict=True)
    ]
    return shuffled, owner
