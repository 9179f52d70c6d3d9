# SPDX-License-Identifier: Apache-2.0
"""A record: the fields of one sample and the way to its pictures, which a format turns into a document."""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from mmjax.data import images
from mmjax.data.sources.boxes import BadBox, BoxFormat
from mmjax.data.sources.problems import Problems
from mmjax.document import BadDocument, Box, Document, Image, Piece, Pixels

REMOTE = ('http://', 'https://', '//', 'ftp://', 's3://', 'gs://')


@dataclasses.dataclass
class Record:
    """One sample: its fields as JSON has them, and `find`, which returns the pixels of a name or None.

    `pictures` names the pictures that belong to the sample whatever its fields say (the members of a tar).
    """

    fields: dict[str, Any]
    key: str
    find: Callable[[str], Pixels | None]
    problems: Problems
    pictures: tuple[str, ...] = ()
    dropped: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def drop(self, reason: str, what: str) -> None:
        """Counts that a part of this record was left out, or mended."""
        self.dropped[reason] += 1
        self.problems.add(reason, f'{self.key}: {what}' if what else self.key)

    def bad(self, reason: str, detail: str = '') -> BadDocument:
        """Returns the error to raise when the whole record is unreadable."""
        return BadDocument(self.key, reason, detail)

    def get(self, field: str) -> Any:
        """Returns a field, None where it is missing; 'a.b' goes into dictionaries and through lists of them."""
        value: Any = self.fields
        for name in field.split('.'):
            if isinstance(value, list):
                value = [v.get(name) if isinstance(v, dict) else None for v in value]
            else:
                value = value.get(name) if isinstance(value, dict) else None
        return value

    def first(self, fields: Sequence[str]) -> Any:
        """Returns the first of these fields that is there and not empty, else None."""
        return next((v for v in map(self.get, fields) if v is not None and not _empty(v)), None)

    def fill(self, template: str) -> str:
        """Returns a field's text, or a template's with its {fields} filled in; of several texts the first."""

        def text(field: str) -> str:
            value = self.get(field)
            value = value[0] if isinstance(value, list) and value else value
            if value is None or isinstance(value, dict | list | bytes | np.ndarray):
                raise self.bad('no text', f'field {field!r} of {list(self.fields)} holds {value!r}'[:300])
            return str(value)

        return re.sub(r'\{([^{}]+)\}', lambda match: text(match[1]), template) if '{' in template else text(template)

    def image(self, name: Any) -> Image | None:
        """Returns the picture of this name, or None, counted, where it cannot be had."""
        try:
            return self.need_image(name)
        except BadDocument as error:
            self.drop(error.reason, error.detail)
            return None

    def need_image(self, name: Any) -> Image:
        """Returns the picture of this name; raises BadDocument where it cannot be had."""
        if isinstance(name, bytes | np.ndarray):
            return Image(name, name=self.key)
        if isinstance(name, dict):
            name = next((name[field] for field in ('path', 'file_name', 'image_name', 'url') if name.get(field)), name)
        if not isinstance(name, str) or not name:
            raise self.bad('not a picture name', repr(name)[:200])
        pixels = self.find(name)
        if pixels is None:
            raise self.bad('remote image' if name.startswith(REMOTE) else 'missing image', name[:200])
        return Image(pixels, name=f'{self.key}:{name}')

    def boxes(self, values: Any, box: BoxFormat, image: Image | None, size_field: str = '') -> tuple[Box, ...]:
        """Returns boxes as fractions; pixels are measured in `size_field` [width, height], else in the picture."""

        def size() -> tuple[float, float]:
            if size_field:
                told = self.get(size_field)
                if not (isinstance(told, list | tuple) and len(told) == 2 and all(_positive(v) for v in told)):
                    raise self.bad('no picture size', f'field {size_field!r} holds {told!r}, expected [width, height]')
                return float(told[0]), float(told[1])
            if image is None:
                raise self.bad('box without a picture')
            width, height = images.size(image)
            return float(width), float(height)

        found = []
        for numbers in values:
            try:
                fractions, was_cut = box.read(numbers, size)
            except BadBox as error:
                raise self.bad(*error.args) from None
            if was_cut:
                self.drop('box cut at the edge', str(list(numbers)))
            found.append(fractions)
        return tuple(found)

    def document(self, pieces: list[Piece], quality: str, **meta: Any) -> Document:
        """Returns the finished document; `quality` names the field of its score, '' for none."""
        if not pieces:
            raise self.bad('empty document')
        score = 1.0
        if quality:
            told = self.get(quality)
            if told is None:
                self.drop('no quality score', f'there is no field {quality!r}')
            elif isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
                raise self.bad('bad quality score', f'field {quality!r} holds {told!r}')
            else:
                score = float(told)
        return Document(pieces, key=self.key, quality=score, meta={**meta, 'dropped': self.dropped})


class Format(Protocol):
    """Turns records of one layout into documents."""

    def document(self, record: Record, quality: str) -> Document:
        """Returns the document of a record; raises BadDocument."""
        ...


def parse(data: bytes | str, key: str) -> dict[str, Any]:
    """Returns the object that JSON text holds; raises BadDocument where it holds none."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadDocument(key, 'broken JSON', str(error)) from None
    if not isinstance(fields, dict):
        raise BadDocument(key, 'not a JSON object', f'{type(fields).__name__}, expected {{...}}')
    return fields


def _empty(value: Any) -> bool:
    return isinstance(value, str | bytes | list | dict) and not value


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
