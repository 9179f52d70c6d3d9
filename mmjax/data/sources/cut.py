# SPDX-License-Identifier: Apache-2.0
"""A source whose pictures come as a detector's features would: for each box the pixels in it and where it lies.

It stands in for a detector where boxes are known: those of meta['boxes'] (a list for each picture), else those of the
document's regions.

    [picture] with two boxes   ->   Features [2, side * side * 3 + 4]: pixels in 0..1, then x0, y0, x1, y1
"""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image as pillow

from mmjax.data import images
from mmjax.data.sources.problems import Problems
from mmjax.data.sources.source import Source
from mmjax.document import BadDocument, Box, Document, Features, Image, Piece, Region


def width(side: int) -> int:
    """Returns the width of features cut with so many pixels a side."""
    return side * side * 3 + 4


class Cut:
    """Another source with its pictures cut into what their boxes show."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Whose pictures, and to how many pixels a side each box is brought."""

        source: Any  # a source's config
        side: int = 8

        def build(self) -> 'Cut':
            """Opens the source."""
            return Cut(self, self.source.build())

    def __init__(self, config: Config, source: Source):
        self.config, self.source = config, source
        self.name, self.problems = f'{source.name}:cut', getattr(source, 'problems', Problems())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Document:
        document = self.source[index]
        boxes, pieces, pictures = boxes_of(document), [], 0
        for piece in document.pieces:
            if isinstance(piece, Image):
                piece, pictures = self._cut(document, piece, boxes[pictures]), pictures + 1
            pieces.append(piece)
        return dataclasses.replace(document, pieces=pieces)

    def _cut(self, document: Document, picture: Image, boxes: list[Box]) -> Piece:
        if not boxes:
            raise BadDocument(document.key, 'picture without boxes', picture.name)
        whole, side = pillow.fromarray(images.read(picture)), self.config.side
        cuts = [np.asarray(crop(whole, box).resize((side, side), pillow.Resampling.BILINEAR)) for box in boxes]
        vectors = [np.concatenate([cut.ravel() / 255, box]) for cut, box in zip(cuts, boxes, strict=True)]
        return Features(np.array(vectors, np.float32), name=picture.name, weight=picture.weight)


def crop(picture: pillow.Image, box: Box) -> pillow.Image:
    """Returns the pixels that a box touches, at least one."""
    (x0, y0, x1, y1), (w, h) = box, picture.size
    left, top = min(int(x0 * w), w - 1), min(int(y0 * h), h - 1)
    return picture.crop((left, top, max(math.ceil(x1 * w), left + 1), max(math.ceil(y1 * h), top + 1)))


def boxes_of(document: Document) -> list[list[Box]]:
    """Returns the boxes of each of a document's pictures."""
    pictures = sum(isinstance(piece, Image) for piece in document.pieces)
    if 'boxes' in document.meta:
        return [list(boxes) for boxes in document.meta['boxes']]
    found: list[list[Box]] = [[] for _ in range(pictures)]
    before = 0
    for piece in document.pieces:
        before += isinstance(piece, Image)
        if isinstance(piece, Region):
            found[piece.image if piece.image >= 0 else before - 1] += piece.boxes
    return found
