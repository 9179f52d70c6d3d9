# SPDX-License-Identifier: Apache-2.0
"""A source of pictures with something wrong: into some of another source's pictures a piece of a third is pasted.

    [picture, nothing marked] Is anything wrong? no
    [picture, the piece marked] Is anything wrong? yes, top left

Where the piece lies is said on a grid of three by three. It stands in for what goes wrong in the world (Li et al. 2021,
CutPaste; Schlueter et al. 2022, NSA, which also blends seams).
"""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data import images
from mmjax.data.sources.problems import Problems
from mmjax.data.sources.source import Source
from mmjax.document import BadDocument, Document, Image, Text

ROWS, COLUMNS = ('top', 'middle', 'bottom'), ('left', 'centre', 'right')
VISIBLE = 16  # of 255: a pixel that changes by less is as it was


class Pasted:
    """Documents of one picture each; document i is a function of the config, the source's document i and another."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Whose pictures, and how often and how large a piece is pasted."""

        source: Any  # a source's config; its words are left out
        pieces: Any = None  # the config of the source of pieces; None: the same
        chance: float = 0.5  # that something is wrong
        least: float = 0.2  # side of a piece, as a share of the picture's
        most: float = 0.45
        question: str = 'Is anything wrong with it?'
        seed: int = 0

        def build(self) -> 'Pasted':
            """Checks the numbers and opens the source."""
            if not 0 <= self.chance <= 1 or not 0 < self.least <= self.most <= 1:
                raise ValueError(
                    f'pasted: chance {self.chance} of {self.least} to {self.most} of a side; 0 <= chance <= 1 '
                    'and 0 < least <= most <= 1 are needed'
                )
            source = self.source.build()
            return Pasted(self, source, self.pieces.build() if self.pieces else source)

    def __init__(self, config: Config, source: Source, pieces: Source):
        self.config, self.source, self.pieces = config, source, pieces
        self.name, self.problems = f'{source.name}:pasted', getattr(source, 'problems', Problems())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Document:
        c, document = self.config, self.source[index]
        rng = np.random.default_rng([c.seed, index])
        picture = _picture(document)
        pixels = images.read(picture)
        if rng.random() < c.chance:
            other = images.read(_picture(self.pieces[int(rng.integers(len(self.pieces)))]))
            changed = self._paste(rng, pixels, other)
        else:
            changed = pixels
        marks = (np.abs(changed.astype(int) - pixels) >= VISIBLE).any(axis=-1)
        answer = f'yes, {where(marks)}' if marks.any() else 'no'
        pieces = [Image(changed, name=picture.name, marks=marks), Text(c.question, weight=0.0), Text(answer)]
        return Document(pieces, key=document.key, meta={**document.meta, 'roles': []})

    def _paste(self, rng: np.random.Generator, pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
        height, width = (
            max(1, round(side * rng.uniform(self.config.least, self.config.most))) for side in pixels.shape[:2]
        )
        height, width = min(height, other.shape[0]), min(width, other.shape[1])
        corner = lambda picture: (
            int(rng.integers(picture.shape[0] - height + 1)),
            int(rng.integers(picture.shape[1] - width + 1)),
        )
        (top, left), (from_top, from_left) = corner(pixels), corner(other)
        changed = pixels.copy()
        changed[top : top + height, left : left + width] = other[
            from_top : from_top + height, from_left : from_left + width
        ]
        return changed


def where(marks: np.ndarray) -> str:
    """Returns in which of nine parts of the picture the middle of what is marked lies."""
    third = lambda places, size: int((places.min() + places.max() + 1) / 2 / size * 3)
    rows, columns = np.nonzero(marks)
    return f'{ROWS[third(rows, marks.shape[0])]} {COLUMNS[third(columns, marks.shape[1])]}'


def _picture(document: Document) -> Image:
    found = next((piece for piece in document.pieces if isinstance(piece, Image)), None)
    if found is None:
        raise BadDocument(document.key, 'no picture')
    return found
