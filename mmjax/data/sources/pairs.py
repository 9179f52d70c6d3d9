# SPDX-License-Identifier: Apache-2.0
"""Records of a picture and words: captions, labels, questions with answers, phrases with boxes."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data.sources.boxes import BoxFormat
from mmjax.data.sources.records import Record
from mmjax.document import Box, Document, Image, Piece, Region, Text

# Names under which data sets keep these, in the order in which they are tried.
IMAGE_FIELDS = ('image', 'images', 'file_name', 'image_path', 'image_name', 'filename', 'img')
TEXT_FIELDS = ('txt', 'caption', 'text', 'captions', 'sentence', 'description', 'label')


@dataclasses.dataclass(kw_only=True)
class Pair:
    """[picture] prompt, text: the prompt is read, the text is learnt.

    Fields may be dotted ('objects.bbox'); prompt and text may be templates ('Q: {question} A:'). Boxes come in three
    ways: with `labels`, words beside each box (detection); as [start, end, x0, y0, x1, y1 (, score)], the words being
    text[start:end] (GRIT); else the text is what the boxes show (referring expressions).
    """

    image: str = ''  # '': the pictures beside the record, else the first of the usual names
    text: str = ''  # '': the first of the usual names
    prompt: str = ''
    boxes: str = ''
    labels: str = ''
    box: BoxFormat = dataclasses.field(default_factory=BoxFormat)
    box_size: str = ''  # field of the [width, height] that boxes in pixels are measured in; '': the picture's own

    def document(self, record: Record, quality: str) -> Document:
        """Returns the document of a record; raises BadDocument."""
        pictures = [record.need_image(name) for name in self._pictures(record)]
        text = self._text(record)
        pieces: list[Piece] = [*pictures]
        if self.prompt:
            pieces.append(Text(record.fill(self.prompt), weight=0.0))
        if self.boxes and (told := record.get(self.boxes)) is not None:
            pieces += self._with_boxes(record, text, told, pictures[-1] if pictures else None)
        elif text:
            pieces.append(Text(text))
        told = {name: value for name, value in record.fields.items() if not isinstance(value, bytes | np.ndarray)}
        return record.document(pieces, quality, format='pair', record=told)

    def _pictures(self, record: Record) -> list[Any]:
        if not self.image and record.pictures:
            return list(record.pictures)
        found = record.get(self.image) if self.image else record.first(IMAGE_FIELDS)
        if found is None and self.image:
            raise record.bad('missing image', f'no field {self.image!r} in {list(record.fields)}')
        return found if isinstance(found, list) else [] if found is None else [found]

    def _text(self, record: Record) -> str:
        if self.text:
            return record.fill(self.text)
        usual = next((field for field in TEXT_FIELDS if record.first((field,)) is not None), None)
        return record.fill(usual) if usual else ''

    def _with_boxes(self, record: Record, text: str, told: Any, image: Image | None) -> list[Piece]:
        """Returns the text and the boxes as pieces."""
        if not isinstance(told, list):
            raise record.bad('not a box', f'field {self.boxes!r} holds {told!r}, expected a list')
        if told and all(isinstance(v, int | float) for v in told):
            told = [told]
        if not self.labels and any(isinstance(v, list) and len(v) in (6, 7) for v in told):
            return self._spans(record, text, told, image)
        boxes = record.boxes(told, self.box, image, self.box_size)
        if not self.labels:
            return [Region(text, boxes)] if boxes else [Text(text)] if text else []
        labels = record.get(self.labels)
        labels = labels if isinstance(labels, list) else [labels]
        if len(labels) != len(boxes):
            raise record.bad('labels and boxes differ in number', f'{len(labels)} labels, {len(boxes)} boxes')
        return ([Text(text)] if text else []) + regions(labels, boxes)

    def _spans(self, record: Record, text: str, told: list[Any], image: Image | None) -> list[Piece]:
        """Cuts the text at the phrases that have boxes; of phrases that overlap the first is kept."""
        groups: dict[tuple[int, int], list[Any]] = {}
        for entry in told:
            try:
                start, end = int(entry[0]), int(entry[1])
            except (TypeError, ValueError, IndexError, KeyError, OverflowError):
                raise record.bad('not a box', f'{entry!r}, expected [start, end, x0, y0, x1, y1]') from None
            if not 0 <= start < end <= len(text):
                raise record.bad('phrase outside the text', f'[{start}, {end}] of {len(text)} characters')
            groups.setdefault((start, end), []).append(entry[2:6])
        pieces: list[Piece] = []
        done = 0
        for (start, end), boxes in sorted(groups.items()):
            found = record.boxes(boxes, self.box, image, self.box_size)
            if start < done:
                record.drop('overlapping phrase', text[start:end])
                continue
            pieces += ([Text(text[done:start])] if start > done else []) + [Region(text[start:end], found)]
            done = end
        return pieces + ([Text(text[done:])] if done < len(text) else [])


def regions(labels: list[Any], boxes: tuple[Box, ...]) -> list[Piece]:
    """Returns one region a distinct label, in the order of their first boxes."""
    grouped: dict[str, list[Box]] = {}
    for label, box in zip(labels, boxes, strict=True):
        grouped.setdefault(str(label), []).append(box)
    return [Region(label, tuple(found)) for label, found in grouped.items()]
