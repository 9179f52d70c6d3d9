# SPDX-License-Identifier: Apache-2.0
"""Documents: the one language of data.

A document is an ordered list of pieces. Every source yields documents, every system reads them; `mmjax.data.layout`
turns one into integers. A piece carries a loss weight: how much predicting its tokens counts (0 = read only).
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

# x0, y0, x1, y1 as fractions of the picture's width and height, origin top left, 0 <= x0 < x1 <= 1.
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class FileSlice:
    """Names `size` bytes at `offset` of a file, e.g. one member of a tar."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Returns the bytes; raises OSError when the file is gone or shorter than the slice."""
        with open(self.path, 'rb') as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(
                f'{self.path}: {len(data)} bytes at {self.offset}, expected {self.size}; was the file rewritten?'
            )
        return data


# An encoded picture (bytes, a file, a part of a file) or a decoded one (uint8 [height, width, 3]).
Pixels = bytes | pathlib.Path | FileSlice | np.ndarray


@dataclasses.dataclass
class Text:
    """Words, as they stand."""

    text: str
    weight: float = 1.0


@dataclasses.dataclass
class Image:
    """A picture, decoded only when a batch needs it. `name` identifies it in reports."""

    pixels: Pixels
    name: str = ''
    weight: float = 0.0
    marks: np.ndarray | None = None  # bool [height, width], where what is sought lies; None: nobody knows


@dataclasses.dataclass
class Video:
    """Frames in order, with their times in seconds."""

    frames: tuple[Image, ...]
    times: tuple[float, ...]
    weight: float = 0.0


@dataclasses.dataclass
class Region:
    """Words, which may be empty, tied to boxes of a picture: number `image` of the document (-1: the last so far)."""

    text: str
    boxes: tuple[Box, ...]
    image: int = -1
    weight: float = 1.0


@dataclasses.dataclass
class State:
    """A vector of floats that stands in the text as one token, e.g. a robot's joints (PaLM-E)."""

    vector: np.ndarray
    weight: float = 0.0


@dataclasses.dataclass
class Generate:
    """A place where the model is to draw; `target` is the picture to learn from, None when only asked."""

    target: Image | None = None
    weight: float = 1.0


@dataclasses.dataclass
class Features:
    """A medium as another tower has read it: a vector for each thing found or each moment, [vectors, width], in order.

    As for pictures, an encoded one (numpy's .npy) is only read when a batch needs it.
    """

    vectors: Pixels
    name: str = ''
    weight: float = 0.0
    kind: str = ''  # what they are of: 'audio', '3d' ...; '': a picture


Medium = Image | Video | Features
Piece = Text | Features | Image | Video | Region | State | Generate


def kind_of(medium: Medium) -> str:
    """Returns the kind of a medium, by which a model with several senses tells who reads it."""
    return 'video' if isinstance(medium, Video) else medium.kind if isinstance(medium, Features) else ''


@dataclasses.dataclass
class Document:
    """An ordered list of pieces. `key` names the document in errors and reports; `meta` goes through untouched."""

    pieces: list[Piece]
    key: str = ''
    quality: float = 1.0
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    def split(self) -> tuple['Document', Piece]:
        """Returns the question, all pieces but the last, and the answer, the last one."""
        return dataclasses.replace(self, pieces=self.pieces[:-1]), self.pieces[-1]


class BadDocument(Exception):
    """A record that cannot be read. Pipelines skip it, count it under `reason` and go on."""

    def __init__(self, key: str, reason: str, detail: str = ''):
        super().__init__(f'document {key!r}: {reason}' + (f': {detail}' if detail else ''))
        self.key, self.reason, self.detail = key, reason, detail

    def __reduce__(self):
        # By default an exception is pickled as its class called with its message: the reason would be lost on the way.
        return type(self), (self.key, self.reason, self.detail)
