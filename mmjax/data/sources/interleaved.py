# SPDX-License-Identifier: Apache-2.0
"""Records of web pages: text and pictures in their order, in the layouts of OBELICS and of MMC4."""

import base64
import binascii
import dataclasses
from typing import Any

from mmjax.data.sources.records import Record
from mmjax.document import Document, Image, Piece, Text


@dataclasses.dataclass(kw_only=True)
class Interleaved:
    """OBELICS: `texts` and `images` are lists of one length, at each place one of the two is null.

    texts   ["A heading", null,     "A paragraph"]
    images  [null,        "00.jpg", null         ]     the picture's name beside the record, or a path
    """

    texts: str = 'texts'
    images: str = 'images'
    joint: str = '\n\n'  # stands between two texts with no picture between them

    def document(self, record: Record, quality: str) -> Document:
        """Returns the document of a record; raises BadDocument."""
        texts, names = _list(record, self.texts), _list(record, self.images)
        if len(texts) != len(names):
            raise record.bad('texts and images differ in length', f'{len(texts)} texts, {len(names)} images')
        pieces: list[Piece] = []
        for text, name in zip(texts, names, strict=True):
            if name is not None:
                if text is not None:
                    record.drop('text and image at one place', str(name))
                pieces += [image] if (image := record.image(name)) else []
            if text is not None:
                _append(pieces, text, self.joint, record)
        return record.document(pieces, quality, format='interleaved')


@dataclasses.dataclass(kw_only=True)
class Mmc4:
    """MMC4: `text_list` holds the texts, `image_info` the pictures, each put before the text that it matches."""

    joint: str = ' '  # stands between two texts, which are mostly sentences

    def document(self, record: Record, quality: str) -> Document:
        """Returns the document of a record; raises BadDocument."""
        texts = _list(record, 'text_list')
        before: dict[int, list[Image]] = {}
        for info in _list(record, 'image_info'):
            place = info.get('matched_text_index') if isinstance(info, dict) else None
            if not isinstance(place, int) or not 0 <= place < len(texts):
                record.drop('image without a matched text', f'{place!r} of {len(texts)} texts')
            elif (image := _mmc4_image(record, info)) is not None:
                before.setdefault(place, []).append(image)
        pieces: list[Piece] = []
        for place, text in enumerate(texts):
            pieces += before.get(place, [])
            _append(pieces, text, self.joint, record)
        return record.document(pieces, quality, format='interleaved')


def _mmc4_image(record: Record, info: dict[str, Any]) -> Image | None:
    """Returns a picture that is named, or that is written out (OpenFlamingo's copies of MMC4)."""
    if info.get('image_base64'):
        try:
            data = base64.b64decode(info['image_base64'], validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            record.drop('broken base64', str(error))
            return None
        return Image(data, name=f'{record.key}:{info.get("image_name")}')
    return record.image(info.get('image_name') or info.get('raw_url'))


def _list(record: Record, field: str) -> list[Any]:
    found = record.get(field)
    if not isinstance(found, list):
        raise record.bad('no list', f'field {field!r} holds {type(found).__name__}, expected a list')
    return found


def _append(pieces: list[Piece], text: Any, joint: str, record: Record) -> None:
    """Adds a text, joined to the one before where no picture stands between them."""
    if not isinstance(text, str):
        raise record.bad('text is no text', repr(text)[:200])
    if not text:
        return
    if pieces and isinstance(pieces[-1], Text):
        pieces[-1].text += joint + text
    else:
        pieces.append(Text(text))
