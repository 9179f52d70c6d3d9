# SPDX-License-Identifier: Apache-2.0
"""Checks a batch on the host: names, shapes, types and ranges, before a device turns a mistake into quiet nonsense.

Every message names the row and its documents, both numbers, and the way out.
"""

from collections.abc import Sequence

import numpy as np

from mmjax.batch import Batch, MediaSpec, Sensed

# All others are int32.
FLOATS = ('weight', 'states', 'features', 'answers', 'points')
KINDS = {**dict.fromkeys(FLOATS, np.float32), 'pixels': np.uint8, 'marks': np.int8}


class BadBatch(ValueError):
    """A batch that no model of this spec can read."""


def check(batch: Batch, vocab: int, spec: MediaSpec, keys: Sequence[Sequence[str]] | None = None) -> None:
    """Raises BadBatch unless `batch` is what a model with `vocab` tokens and this spec reads.

    `keys` names the documents of each row, for the message.
    """
    _Check(batch, keys).all(vocab, spec)


def _of_kind(sense: Sensed, spec: MediaSpec, rows: int) -> list[tuple[str, tuple[int, ...], np.ndarray | None]]:
    """Returns (name, shape that the model reads, array) of all that is said of the media of one kind."""
    count = sense.size.shape[1] if sense.size.ndim == 3 else 0
    shown = ('features', (rows, count, spec.width, spec.features))
    if not spec.features:
        shown = ('pixels', (rows, count, spec.frames, spec.height, spec.width, 3))
    return [
        (*shown, sense.shown),
        ('media_size', (rows, count, 3), sense.size),
        ('words', (rows, count, spec.beside), sense.words),
    ]


class _Check:
    def __init__(self, batch: Batch, keys: Sequence[Sequence[str]] | None):
        self.batch, self.keys = batch, keys

    def all(self, vocab: int, spec: MediaSpec) -> None:
        """Runs every check, shapes before values."""
        b = self.batch
        self.shapes(spec)
        self.values(b.tokens, (b.tokens >= 0) & (b.tokens < vocab), f'tokens: {{}} is no id of a vocabulary of {vocab}',
                    'build the decoder as wide as the tokenizer')  # fmt: skip
        self.values(b.weight, np.isfinite(b.weight) & (b.weight >= 0), 'weight: {}', 'loss weights are 0 or more')
        if b.answers is not None:
            self.values(b.answers, (b.answers >= 0) & (b.answers <= 1), 'answers: {}', 'each is 0 .. 1 right')
        if b.expert is not None:
            self.values(
                b.expert, (b.expert == 0) | (b.expert == 1), 'expert: {}', 'there are two sets of weights, 0 and 1'
            )
        self.values(b.position, b.position >= 0, 'position: {}', 'positions count from 0 in each document')
        self.spans()
        self.media(spec)

    def shapes(self, spec: MediaSpec) -> None:
        """Checks names, shapes and types."""
        b = self.batch
        if np.ndim(b.tokens) != 2:
            raise BadBatch(f'tokens has shape {list(np.shape(b.tokens))}, expected [rows, tokens]')
        rows, length = b.tokens.shape
        media = b.media_size.shape[1] if b.media_size is not None and b.media_size.ndim == 3 else 0
        states = b.states.shape[1] if b.states is not None and b.states.ndim == 3 else 0
        regions = b.points.shape[1] if b.points is not None and b.points.ndim == 4 else 0
        shapes = {
            'tokens': (rows, length),
            'weight': (rows, length),
            'span': (rows, length, 2),
            'position': (rows, length, spec.axes) if spec.axes > 1 else (rows, length),
            'slot': (rows, length),
            'media_span': (rows, length, 2),
            'pixels': (rows, media, spec.frames, spec.height, spec.width, 3),
            'media_size': (rows, media, 3),
            'states': (rows, states, spec.state_width),
            'expert': (rows, length),
            'words': (rows, media, spec.beside),
            'features': (rows, media, spec.width, spec.features),
            'answers': (rows, spec.answers),
            'marks': (rows, media, *(spec.marks or ())),
            'points': (rows, regions, spec.points, 2),
            'points_of': (rows, regions),
        }
        found = {name: array for name, array in b._asdict().items() if name != 'senses'}
        for kind, sense in (b.senses or {}).items():
            if kind not in spec.senses:
                raise BadBatch(f'senses holds {kind!r}, the model reads {", ".join(spec.senses) or "no further kinds"}')
            for name, shape, array in _of_kind(sense, spec.senses[kind], rows):
                shapes[f'{name} of {kind}'], found[f'{name} of {kind}'] = shape, array
        for name, array in found.items():
            if array is None:
                continue
            kind = KINDS.get(name.partition(' of ')[0], np.int32)
            if array.shape != shapes[name] or array.dtype != kind:
                reads = f'{np.dtype(kind)}{list(shapes[name])}'
                raise BadBatch(
                    f'{name} is {array.dtype}{list(array.shape)}, the model reads {reads}; '
                    'was the layout built with the media_spec() of another model?'
                )
        if media and (b.shown is None or (b.slot is None and b.media_span is None)):
            seen = 'features' if spec.features else 'pixels'
            lacking = seen if b.shown is None else 'slot' if spec.in_sequence else 'media_span'
            raise BadBatch(f'media_size speaks of {media} media a row, but {lacking} is None')

    def values(self, array: np.ndarray, good: np.ndarray, what: str, way_out: str) -> None:
        """Raises BadBatch with the first value of `array` that is not good."""
        if good.all():
            return
        place = tuple(int(i) for i in np.argwhere(~good)[0])
        where = f'row {place[0]}, place {place[1]}'
        if self.keys:
            where += f' (documents {", ".join(self.keys[place[0]])})'
        raise BadBatch(f'{where}: {what.format(array[place].tolist())}; {way_out}')

    def spans(self) -> None:
        """Checks that spans lie in the row and hold their own place, and that what is learnt has a label."""
        span, weight = self.batch.span, self.batch.weight
        length = span.shape[1]
        start, end = span[..., 0], span[..., 1]
        here = np.arange(length)
        self.values(
            span, (start >= 0) & (start <= end) & (end <= length), 'span {} of a row', f'it holds {length} tokens'
        )
        inside = (start <= here) & (here < end)
        self.values(
            span, inside | (start == end), 'span {} leaves out the token itself', 'a token sees at least itself'
        )
        self.values(weight, (weight == 0) | inside, 'weight {} where nothing is seen', 'padding must weigh 0')
        follows = np.zeros_like(inside)
        follows[:, :-1] = inside[:, 1:] & (start[:, 1:] <= here[:-1])
        self.values(
            weight, (weight == 0) | follows, 'weight {} at the end of a document', 'no token of it follows: weigh it 0'
        )

    def media(self, spec: MediaSpec) -> None:
        """Checks that what is said of media is there."""
        b = self.batch
        count = 0 if b.media_size is None else b.media_size.shape[1]
        states = 0 if b.states is None else b.states.shape[1]
        regions = 0 if b.points is None else b.points.shape[1]
        total = count * spec.tokens + states + regions
        decks = {kind: (b.senses[kind].size, one) for kind, one in spec.senses.items()} if b.senses else {}
        total += sum(size.shape[1] * one.tokens for size, one in decks.values())
        if regions:
            self.values(b.points_of, (b.points_of >= -1) & (b.points_of < count), 'points_of {}', f'{count} media')
            self.values(b.points, (b.points >= 0) & (b.points <= 1), 'points {}', 'they lie in 0..1 of the picture')
        if count:
            most = np.array([spec.frames, spec.height // spec.patch, spec.width // spec.patch])
            self.values(
                b.media_size,
                (b.media_size >= 0).all(-1) & (b.media_size <= most).all(-1),
                f'media_size {{}}, at most {most.tolist()} frames, rows and columns of patches',
                'does the layout fit pictures to this model?',
            )
        there = np.ones((len(b.tokens), total + 1), bool)  # which media tokens exist; the last stands for none
        for m in range(count):
            there[:, m * spec.tokens : (m + 1) * spec.tokens] = b.media_size[:, m, :1] > 0
        at = count * spec.tokens + states + regions
        for size, one in decks.values():
            for m in range(size.shape[1]):
                there[:, at : at + one.tokens] = size[:, m, :1] > 0
                at += one.tokens
        if b.slot is not None:
            known = (b.slot >= -1) & (b.slot < total)
            self.values(
                b.slot, known, 'slot {} of a row', f'it has {count} media of {spec.tokens} tokens and {states} states'
            )
            there[:, -1] = True
            self.values(b.slot, np.take_along_axis(there, b.slot, axis=1), 'slot {} of a medium that is not there',
                        'its media_size is 0')  # fmt: skip
            self._each_once(total, spec)
        if b.words is not None:
            known = (b.words >= -1) & (b.words < spec.beside_vocab)
            self.values(
                b.words, known, 'word {} beside a medium', f'the connector knows {spec.beside_vocab}, and -1 for none'
            )
        if b.media_span is not None:
            start, end = b.media_span[..., 0], b.media_span[..., 1]
            most, has = count * spec.tokens, f'it has {count} media of {spec.tokens} tokens'
            if spec.encodes:
                # An output stands behind its input, both within one document.
                most, has = b.span[..., 0] * (start < end), 'an output looks at an input that ends where it begins'
            known = (start >= 0) & (start <= end) & (end <= most)
            self.values(b.media_span, known, 'media_span {} of a row', has)

    def _each_once(self, total: int, spec: MediaSpec) -> None:
        slot = np.sort(
            np.where(self.batch.slot < 0, total + np.arange(self.batch.slot.shape[1]), self.batch.slot), axis=1
        )
        twice = np.zeros(slot.shape, bool)
        twice[:, 1:] = slot[:, 1:] == slot[:, :-1]
        if spec.newline:
            twice &= (slot + 1) % spec.tokens != 0
        self.values(slot, ~twice, 'slot {} twice', 'a media token stands at one place only')
