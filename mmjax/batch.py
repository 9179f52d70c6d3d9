# SPDX-License-Identifier: Apache-2.0
"""The batch: the one language of the device, and the media spec: what a model says of its pictures to the data side.

Axis letters, here and everywhere: B rows, L tokens, M media a row, T frames, P tokens a medium, S state vectors a row,
D width, N heads, K key/value heads, H head width, F mlp width, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Sensed(NamedTuple):
    """The media of one further kind, M a row."""

    shown: np.ndarray  # [B, M, n, E] f32 vectors, or [B, M, T, height, width, 3] uint8 pixels
    size: np.ndarray  # [B, M, 3]    1, 1, vectors; or frames, patch rows, patch columns; 0 where there is no medium
    words: np.ndarray | None = None  # [B, M, W]    what the connector reads beside the medium; -1 behind the last


class Batch(NamedTuple):
    """What a model reads. Fields that a system lacks are None. int32 unless said.

    A row's media tokens are numbered in one flat list: medium m's token p is m * P + p, then the S states follow at
    M * P + s, then the R regions at M * P + S + r, then the media of every further kind, kind by kind in the order of
    the media spec. `slot` and `media_span` speak of that list.
    """

    tokens: np.ndarray  # [B, L]       ids; media places hold the placeholder's id
    weight: np.ndarray  # [B, L]       f32, loss weight of predicting the NEXT token from here
    span: np.ndarray  # [B, L, 2]    keys start <= j < end that this token sees; empty for padding
    position: np.ndarray  # [B, L]       place inside its document
    slot: np.ndarray | None = None  # [B, L]       which media token stands here, -1 for text
    media_span: np.ndarray | None = None  # [B, L, 2]    media tokens it sees (cross-attention), or places of the row
    # that an encoder has read (encoder-decoders)
    pixels: np.ndarray | None = None  # [B, M, T, height, width, 3] uint8
    media_size: np.ndarray | None = None  # [B, M, 3]    frames, patch rows, patch columns; 0 where there is no medium
    states: np.ndarray | None = None  # [B, S, width] f32
    expert: np.ndarray | None = None  # [B, L]       1 where a block's second set of weights reads the token
    words: np.ndarray | None = None  # [B, M, W]    what the connector reads beside the medium; -1 behind the last
    features: np.ndarray | None = None  # [B, M, n, E] f32, vectors of a detector in the place of pixels
    marks: np.ndarray | None = None  # [B, M, h, w] int8, 1 where a picture holds what is sought; -1 where nobody knows
    answers: np.ndarray | None = None  # [B, A]       f32, how right each answer of the model's list is, 0 .. 1
    points: np.ndarray | None = None  # [B, R, n, 2]   f32, (row, column) in 0..1 of points inside of regions
    points_of: np.ndarray | None = None  # [B, R]       the medium in which they lie; -1 where there is no region
    senses: dict[str, Sensed] | None = None  # media of further kinds: sounds, videos, shapes

    @property
    def shown(self) -> Any:
        """What the encoder reads of the row's media: pixels, or features where a detector has read them before."""
        return self.pixels if self.features is None else self.features


@dataclasses.dataclass(frozen=True)
class MediaSpec:
    """What the model's encoder and connector take and give; the data side asks it and counts no tokens itself."""

    height: int = 0  # of the decoded picture, in pixels; the most, where sizes vary
    width: int = 0
    frames: int = 1  # T: the most frames of one medium
    patch: int = 1  # side of a patch in pixels
    tokens: int = 0  # P: the most tokens that one medium gives
    grid: Callable[[int, int, int], tuple[int, int]] = lambda frames, rows, columns: (0, 0)
    # (frames, patch rows, patch columns) -> (token rows, token columns), whose product is at most `tokens`
    in_sequence: bool = True  # media stand among the text (splice); False: text looks at them (cross-attention)
    encodes: bool = False  # an encoder reads what stands before the answer, and a decoder writes the answer
    apart: bool = False  # pictures take no places among the words at all: they go another way
    text: bool = True  # False: the model reads pictures alone, and words are left out
    varying: bool = False  # pictures keep their aspect, so that sizes differ
    state_width: int = 0  # length of a State vector; 0: the model reads none
    budget: int = 0  # of varying pictures: the most patches of one; 0: all that height x width holds
    multiple: int = 1  # rows and columns of patches are whole numbers of it
    temporal: int = 1  # frames that one row of the grid's first axis stands for
    axes: int = 1  # of a token's position: 3 for time, row, column
    per_second: float = 0.0  # positions of time a second; 0: one for each row of `temporal` frames
    newline: bool = False  # the last of a medium's tokens is learned, and may stand at several places
    ends: int = 0  # tokens at either end of a medium that stand for none of its features
    experts: bool = False  # media tokens are read by weights of their own: the batch says which
    beside: int = 0  # W: the most words that the connector reads beside a medium; 0: it reads none
    points: int = 0  # n: of a region that is read as a token; 0: the model reads none
    beside_vocab: int = 0  # how many ids of such words it knows
    marks: tuple[int, int] | None = None  # height, width of the maps that say where it finds things; None: no maps
    features: int = 0  # E: media are vectors of this width, `width` of them at most; 0: they are pictures
    answers: int = 0  # A: the model chooses from a list of so many answers; 0: it writes them
    senses: Mapping[str, 'MediaSpec'] = dataclasses.field(default_factory=dict)  # what it reads of further kinds
