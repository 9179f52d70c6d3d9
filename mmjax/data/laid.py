# SPDX-License-Identifier: Apache-2.0
"""What layout makes of a document, and the shape of the rows that packing fills with such documents."""

import dataclasses
from collections import Counter
from typing import NamedTuple

import numpy as np

from mmjax.document import Medium

STATE, REGION = -2, -(1 << 20)  # in slots: the first state of a document, and the first region
SENSE = 1 << 20  # in slots, times k + 1: the first media token of the further kind k


class Shape(NamedTuple):
    """How much one row holds."""

    tokens: int  # L
    media: int = 0  # M
    states: int = 0  # S
    regions: int = 0  # R
    senses: int = 0  # media of each further kind


class Heard(NamedTuple):
    """A medium of a further kind."""

    kind: str
    medium: Medium
    size: tuple[int, int, int]


@dataclasses.dataclass
class Laid:
    """One document as integers. Every index counts from the document's own beginning, as if it stood alone.

    `slot` names what stands at a place: -1 text; m * P + p token p of medium m (P the media spec's `tokens`);
    STATE - s state s; REGION - r region r; SENSE * (k + 1) + m * P + p token p of medium m of the further kind k.
    `media_span` counts media tokens in the same way, m * P + p; before an encoder-decoder, places.
    """

    key: str
    tokens: np.ndarray  # [l] int32
    weight: np.ndarray  # [l] float32, of predicting the next token from here; 0 at the last place
    span: np.ndarray  # [l, 2] int32
    position: np.ndarray  # [l] or [l, 3] int32
    slot: np.ndarray  # [l] int32
    media_span: np.ndarray  # [l, 2] int32
    media: list[Medium] = dataclasses.field(default_factory=list)
    media_size: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3), np.int32))  # [m, 3]
    words: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))  # beside each medium
    points: list[np.ndarray] = dataclasses.field(default_factory=list)  # [n, 2] of each region
    points_of: list[int] = dataclasses.field(default_factory=list)  # its medium; -1 for one in another part
    states: list[np.ndarray] = dataclasses.field(default_factory=list)
    answers: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))  # how right each is
    senses: list['Heard'] = dataclasses.field(default_factory=list)

    @property
    def need(self) -> Shape:
        """How much of a row this document takes."""
        # Of each kind a row holds as many: the most of any is enough for all, also of several documents together.
        senses = max(Counter(heard.kind for heard in self.senses).values(), default=0)
        return Shape(len(self.tokens), len(self.media), len(self.states), len(self.points), senses)
