# SPDX-License-Identifier: Apache-2.0
"""What layout makes of a document, and the shape of the rows that packing fills with such documents."""

import dataclasses
from typing import NamedTuple

import numpy as np

from mmjax.document import Medium

STATE, REGION = -2, -(1 << 20)  # in slots: the first state of a document, and the first region


class Shape(NamedTuple):
    """How much one row holds."""

    tokens: int  # L
    media: int = 0  # M
    states: int = 0  # S
    regions: int = 0  # R


@dataclasses.dataclass
class Laid:
    """One document as integers. Every index counts from the document's own beginning, as if it stood alone.

    `slot` names what stands at a place: -1 text; m * P + p token p of medium m (P the media spec's `tokens`);
    STATE - s state s; REGION - r region r. `media_span` counts media tokens in the same way, m * P + p; before an
    encoder-decoder, places.
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

    @property
    def need(self) -> Shape:
        """How much of a row this document takes."""
        return Shape(len(self.tokens), len(self.media), len(self.states), len(self.points))
