# SPDX-License-Identifier: Apache-2.0
"""Records that say a document piece by piece: the plainest way to bring one's own data.

{"id": "a1", "pieces": [{"image": "a.jpg"}, {"text": "Where is the cat?", "weight": 0},
                        {"region": {"text": "the cat", "boxes": [[0.1, 0.2, 0.5, 0.9]]}}]}
"""

import dataclasses
import math
from typing import Any

import numpy as np

from mmjax.data.sources.boxes import BoxFormat
from mmjax.data.sources.records import Record
from mmjax.document import Document, Features, Generate, Image, Piece, Region, State, Text, Video

KINDS = ('text', 'image', 'region', 'state', 'video', 'generate', 'features')
BESIDE = {'weight', 'role', 'times', 'fps', 'kind'}


@dataclasses.dataclass(kw_only=True)
class Pieces:
    """`pieces` in order, each of one kind, with an optional `weight` and, if every piece has one, `role` (for chats).

    text: words. image: a name. region: {text, boxes, image}. state: numbers. video: names of frames, with `times` in
    seconds or `fps`. generate: the name of the picture to draw, or null. features: the name of a .npy file [vectors,
    width], with the `kind` of what they are of ('audio', '3d' ...) unless that is a picture. Beside them may stand
    `answers`, what several people answered.
    """

    field: str = 'pieces'
    box: BoxFormat = dataclasses.field(default_factory=BoxFormat)

    def document(self, record: Record, quality: str) -> Document:
        """Returns the document of a record; raises BadDocument."""
        told = record.get(self.field)
        if not isinstance(told, list):
            raise record.bad('no pieces', f'field {self.field!r} holds {type(told).__name__}, expected a list')
        pieces: list[Piece] = []
        pictures: list[Image] = []
        for entry in told:
            piece = self._piece(record, entry, pictures)
            pieces.append(piece)
            pictures += [piece] if isinstance(piece, Image) else []
        roles = [entry.get('role') for entry in told]
        people = record.fields.get('answers')
        asked = {'answers': [str(answer) for answer in people]} if isinstance(people, list) and people else {}
        if not any(roles):
            return record.document(pieces, quality, format='pieces', **asked)
        if not all(role in ('user', 'assistant', 'system') for role in roles):
            raise record.bad('bad role', f'{roles}; expected user, assistant or system for every piece, or none at all')
        return record.document(pieces, quality, format='chat', roles=roles, **asked)

    def _piece(self, record: Record, entry: Any, pictures: list[Image]) -> Piece:
        kinds = [kind for kind in KINDS if kind in entry] if isinstance(entry, dict) else []
        if len(kinds) != 1 or set(entry) - BESIDE - {*kinds}:
            raise record.bad('unknown piece', f'{entry!r}'[:200] + f'; expected one of {", ".join(KINDS)}, and weight')
        value = entry[kinds[0]]
        match kinds[0]:
            case 'text':
                if not isinstance(value, str):
                    raise record.bad('text is no text', repr(value)[:200])
                piece: Piece = Text(value)
            case 'image':
                piece = record.need_image(value)
            case 'region':
                piece = self._region(record, value, pictures)
            case 'state':
                piece = State(_numbers(record, value))
            case 'features':
                found = record.need_image(value)
                piece = Features(found.pixels, name=found.name, kind=str(entry.get('kind', '')))
            case 'video':
                piece = _video(record, entry)
            case _:
                piece = Generate(None if value is None else record.need_image(value))
        if 'weight' in entry:
            piece.weight = _weight(record, entry['weight'])
        return piece

    def _region(self, record: Record, value: Any, pictures: list[Image]) -> Region:
        value = value if isinstance(value, dict) else {}
        text, boxes, image = value.get('text', ''), value.get('boxes'), value.get('image', -1)
        if not isinstance(text, str) or not isinstance(boxes, list) or not isinstance(image, int):
            raise record.bad('bad region', f'{value!r}'[:200] + '; expected {text: words, boxes: [[x0, y0, x1, y1]]}')
        if not -1 <= image < len(pictures) or not pictures:
            raise record.bad('region without its image', f'picture {image} of the {len(pictures)} before it')
        return Region(text, record.boxes(boxes, self.box, pictures[image]), image)


def _video(record: Record, entry: dict[str, Any]) -> Video:
    frames = entry['video']
    if not isinstance(frames, list) or not frames:
        raise record.bad('video without frames', f'{frames!r}'[:200] + '; expected a list of frames, as pictures')
    images = tuple(record.need_image(name) for name in frames)
    if 'times' in entry:
        times = _numbers(record, entry['times'])
    else:
        times = np.arange(len(images)) / _weight(record, entry.get('fps', 1.0), least=1e-6)
    if len(times) != len(images) or (np.diff(times) < 0).any():
        raise record.bad('bad frame times', f'{len(images)} frames, times {times.tolist()}')
    return Video(images, tuple(float(t) for t in times))


def _numbers(record: Record, value: Any) -> np.ndarray:
    """Returns a list of finite numbers as float32."""
    numbers = value if isinstance(value, list) else [None]
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise record.bad('not numbers', repr(value)[:200])
    return np.array(numbers, np.float32)


def _weight(record: Record, value: Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise record.bad('bad number', f'{value!r}, expected at least {least}')
    return float(value)
