# SPDX-License-Identifier: Apache-2.0
"""From packed documents to arrays: offsets are added, pictures are decoded, and what cannot be decoded is blanked.

document 0         document 1        padding
span  (0,1) (0,2)  (2,3) (2,4) ...   (0,0)     keys of the row
slot   0 .. P-1     P .. 2P-1         -1       media tokens of the row
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.batch import Batch, MediaSpec, Sensed
from mmjax.data import masks
from mmjax.data.images import nearest
from mmjax.data.laid import REGION, SENSE, STATE, Heard, Laid, Shape
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
    further = dict.fromkeys(spec.senses, 0)  # media of each kind so far
    for d in documents:
        there, media = slice(at, at + len(d.tokens)), slice(medium, medium + len(d.media))
        own = _places(d, further)
        try:
            if row.shown is not None:
                for place, piece in enumerate(d.media, start=medium):
                    read = decode(piece)
                    row.shown[place, : len(read)] = read
                    _mark(row, place, piece)
                row.media_size[media] = d.media_size
            for kind, place, heard in own:
                read = decode(heard.medium)
                row.senses[kind].shown[place, : len(read)] = read
                row.senses[kind].size[place] = heard.size
        except BadDocument as error:
            blanked.append(BadDocument(d.key, error.reason, str(error)))
            if row.shown is not None:
                row.shown[media], row.media_size[media] = 0, 0
            if row.marks is not None:
                row.marks[media] = -1
            for kind, place, _ in own:
                row.senses[kind].shown[place], row.senses[kind].size[place] = 0, 0
        else:
            _place(row, d, there, (medium, state, region), shape, spec)
            _place_senses(row, d, there, own, shape, spec)
        for kind, place, _ in own:
            further[kind] = place + 1
        at, medium, state = at + len(d.tokens), medium + len(d.media), state + len(d.states)
        region += len(d.points)
    return Row(row, [d.key for d in documents], blanked)


def stack(rows: Sequence[Row]) -> Batch:
    """Returns the batch of the rows."""
    return _stacked([row.batch for row in rows])


def _stacked(parts: Sequence[Any]) -> Any:
    """Stacks arrays, and what tuples and dicts hold of them, on a new first axis."""
    first = parts[0]
    if isinstance(first, tuple):
        return type(first)(*(_stacked(some) for some in zip(*parts, strict=True)))
    if isinstance(first, dict):
        return {name: _stacked([part[name] for part in parts]) for name in first}
    return None if first is None else np.stack(parts)


def _empty(shape: Shape, spec: MediaSpec, documents: Sequence[Laid], pad: int) -> Batch:
    n, media = shape.tokens, shape.media if spec.tokens else 0
    position = (n, spec.axes) if spec.axes > 1 else (n,)
    seen, pictures = media or shape.states or shape.senses, media and not spec.features
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
        senses={kind: _deck(shape.senses, sense) for kind, sense in spec.senses.items()} if shape.senses else None,
    )


def _deck(count: int, spec: MediaSpec) -> Sensed:
    """Returns room for so many media of a kind."""
    vectors = np.zeros((count, spec.width, spec.features), np.float32) if spec.features else None
    return Sensed(
        np.zeros((count, spec.frames, spec.height, spec.width, 3), np.uint8) if vectors is None else vectors,
        np.zeros((count, 3), np.int32),
        np.full((count, spec.beside), -1, np.int32) if spec.beside else None,
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


def _places(d: Laid, further: dict[str, int]) -> list[tuple[str, int, Heard]]:
    """Returns (kind, place in the row, medium) of a document's media of further kinds."""
    at, found = dict(further), []
    for heard in d.senses:
        found.append((heard.kind, at[heard.kind], heard))
        at[heard.kind] += 1
    return found


def _place_senses(
    row: Batch, d: Laid, there: slice, own: list[tuple[str, int, Heard]], shape: Shape, spec: MediaSpec
) -> None:
    """Writes where a document's media of further kinds stand, and the words beside them."""
    first = {kind: place for kind, place, _ in reversed(own)}
    before = shape.media * spec.tokens + shape.states + (shape.regions if row.points is not None else 0)
    for k, (kind, sense) in enumerate(spec.senses.items() if own else (), start=1):
        rest = d.slot - k * SENSE
        mine = (rest >= 0) & (rest < SENSE)
        row.slot[there][mine] = before + first.get(kind, 0) * sense.tokens + rest[mine]
        before += shape.senses * sense.tokens
    for kind, place, _ in own:
        if row.senses[kind].words is not None:
            row.senses[kind].words[place, : len(d.words)] = d.words
