# SPDX-License-Identifier: Apache-2.0
"""From packed documents to arrays: offsets are added, pictures are decoded, and what cannot be decoded is blanked.

document 0         document 1        padding
span  (0,1) (0,2)  (2,3) (2,4) ...   (0,0)     keys of the row
slot   0 .. P-1     P .. 2P-1         -1       media tokens of the row
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.batch import Batch, MediaSpec
from mmjax.data import masks
from mmjax.data.images import nearest
from mmjax.data.laid import REGION, STATE, Laid, Shape
from mmjax.document import BadDocument, Image, Medium

# Returns the frames of a medium, uint8 [frames, height, width, 3], padded at the right and below where sizes vary; of
# features the vectors, float32 [vectors, width].
Decode = Callable[[Medium], np.ndarray]


class Row(NamedTuple):
    """One row of a batch, the keys of its documents, and those that were blanked with the reason."""

    batch: Batch  # without the leading axis B
    keys: list[str]
    blanked: list[BadDocument]


def render(documents: Sequence[Laid], shape: Shape, spec: MediaSpec, decode: Decode, pad: int) -> Row:
    """Returns one row. A document whose picture cannot be decoded keeps its places, but nobody sees or learns them."""
    row = _empty(shape, spec, documents, pad)
    at, medium, state, region, blanked = 0, 0, 0, 0, []
    for d in documents:
        there, media = slice(at, at + len(d.tokens)), slice(medium, medium + len(d.media))
        try:
            if row.shown is not None:
                for place, piece in enumerate(d.media, start=medium):
                    read = decode(piece)
                    row.shown[place, : len(read)] = read
                    _mark(row, place, piece)
                row.media_size[media] = d.media_size
        except BadDocument as error:
            blanked.append(BadDocument(d.key, error.reason, str(error)))
            row.shown[media] = 0
            if row.marks is not None:
                row.marks[media] = -1
        else:
            _place(row, d, there, (medium, state, region), shape, spec)
        at, medium, state = at + len(d.tokens), medium + len(d.media), state + len(d.states)
        region += len(d.points)
    return Row(row, [d.key for d in documents], blanked)


def stack(rows: Sequence[Row]) -> Batch:
    """Returns the batch of the rows."""
    return Batch(
        *(None if fields[0] is None else np.stack(fields) for fields in zip(*(r.batch for r in rows), strict=True))
    )


def _empty(shape: Shape, spec: MediaSpec, documents: Sequence[Laid], pad: int) -> Batch:
    n, media = shape.tokens, shape.media if spec.tokens else 0
    position = (n, spec.axes) if spec.axes > 1 else (n,)
    seen, pictures = media or shape.states, media and not spec.features
    regions = shape.regions if spec.points else 0
    return Batch(
        tokens=np.full(n, pad, np.int32),
        weight=np.zeros(n, np.float32),
        span=np.zeros((n, 2), np.int32),
        position=np.zeros(position, np.int32),
        slot=np.full(n, -1, np.int32) if seen and (spec.in_sequence or shape.states) else None,
        media_span=np.zeros((n, 2), np.int32) if spec.encodes or (seen and not spec.in_sequence) else None,
        pixels=np.zeros((media, spec.frames, spec.height, spec.width, 3), np.uint8) if pictures else None,
        media_size=np.zeros((media, 3), np.int32) if media else None,
        states=np.zeros((shape.states, spec.state_width), np.float32) if shape.states else None,
        expert=np.zeros(n, np.int32) if media and spec.experts else None,
        words=np.full((media, spec.beside), -1, np.int32) if media and spec.beside else None,
        features=np.zeros((media, spec.width, spec.features), np.float32) if media and spec.features else None,
        marks=np.full((media, *spec.marks), -1, np.int8) if media and spec.marks else None,
        answers=np.zeros(spec.answers, np.float32) if spec.answers else None,
        points=np.zeros((regions, spec.points, 2), np.float32) if media and regions else None,
        points_of=np.full(regions, -1, np.int32) if media and regions else None,
    )


def _mark(row: Batch, place: int, piece: Medium) -> None:
    """Writes what is known of where a picture holds what is sought."""
    if row.marks is not None and isinstance(piece, Image) and piece.marks is not None:
        row.marks[place] = nearest(piece.marks, row.marks.shape[1:])


def _place(row: Batch, d: Laid, there: slice, first: tuple[int, int, int], shape: Shape, spec: MediaSpec) -> None:
    """Writes a document's integers at its places, turned from its own counting to the row's.

    first: how many media, states and regions the documents before it have.
    """
    medium, state, region = first
    first = medium * spec.tokens
    row.tokens[there], row.weight[there], row.position[there] = d.tokens, d.weight, d.position
    row.span[there] = d.span + there.start
    if row.slot is not None:
        beyond = shape.media * spec.tokens
        states, regions = beyond + state + STATE - d.slot, beyond + shape.states + region + REGION - d.slot
        others = np.where(d.slot <= REGION, regions, np.where(d.slot <= STATE, states, -1))
        row.slot[there] = np.where(d.slot >= 0, d.slot + first, others)
    if row.points is not None:
        for r, (points, of) in enumerate(zip(d.points, d.points_of, strict=True), start=region):
            row.points[r], row.points_of[r] = points, of + medium if of >= 0 else -1
    if row.expert is not None:
        row.expert[there] = masks.experts(d.slot)
    if row.media_span is not None:
        seen = d.media_span[:, :1] < d.media_span[:, 1:]
        row.media_span[there] = np.where(seen, d.media_span + (there.start if spec.encodes else first), 0)
    if row.words is not None:
        row.words[medium : medium + len(d.media), : len(d.words)] = d.words
    if row.answers is not None and len(d.answers):
        row.answers[:] = d.answers
    for s, vector in enumerate(d.states, start=state):
        row.states[s] = vector
