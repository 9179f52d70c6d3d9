# SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data.laid import Laid, Shape
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.pipeline import Pipeline, finite
from mmjax.document import BadDocument, Document, Image, Text

SPEC = MediaSpec(height=2, width=2, frames=1, patch=1, tokens=2, grid=lambda f, r, c: (1, 2))


@dataclasses.dataclass
class Made:
    """A source whose document i has a length and pictures that depend on i; some cannot be read."""

    name: str
    size: int = 50
    bad: int = 0  # every so many documents one is bad
    quality: float = 1.0

    def build(self):
        return self

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        if self.bad and i % self.bad == 0:
            raise BadDocument(f'{self.name}{i}', 'broken')
        length = 3 + i * 7 % 11
        pieces = [Text('x' * length)] + [Image(np.full((2, 2, 3), i, np.uint8), f'{self.name}{i}')] * (i % 3)
        return Document(pieces, f'{self.name}{i}', self.quality)


class FlatLayout(Layout):
    """A place for each letter; every picture takes two places at the end."""

    def __init__(self):
        self.shape, self.spec, self.pad = Shape(32, 4), SPEC, 0

    def __call__(self, document):
        pictures = document.pieces[1:]
        text = len(document.pieces[0].text)
        n = text + 2 * len(pictures)
        ids = np.arange(n, dtype=np.int32)
        slot = np.where(ids < text, -1, ids - text).astype(np.int32)
        span = np.stack([np.zeros_like(ids), ids + 1], -1)
        media = np.where((ids > text)[:, None], [0, 2], [0, 0]).astype(np.int32)
        size = np.ones((len(pictures), 3), np.int32)
        return [Laid(document.key, ids + 1, np.ones(n, np.float32), span, ids, slot, media, pictures, size)]

    def decode(self, piece):
        if piece.name == 'a2':
            raise BadDocument(piece.name, 'truncated image')
        return piece.pixels[None]


DATA = Mix.Config(parts=[Part(source=Made('a', bad=7), weight=3.0), Part(source=Made('b'), weight=1.0)], window=9)


def take(count, rows=4, skip=0, **kwargs):
    return list(itertools.islice(Pipeline(DATA, FlatLayout(), rows, 5, **kwargs), skip, count))


def same(batches, others, rows=slice(None)):
    for (x, i), (y, j) in zip(batches, others, strict=True):
        assert i.keys[rows] == j.keys
        for a, b in zip(x, y, strict=True):
            assert (a is None and b is None) or np.array_equal(a[rows], b)


def test_hosts_and_workers_change_nothing():
    whole = take(30)
    same(whole, take(30, workers=4, prefetch=5))
    for host in ((0, 1), (1, 4)):
        same(whole, take(30, row_range=host), slice(*host))


@pytest.mark.parametrize('at', [0, 1, 7, 20])
def test_resumed_is_straight(at):
    straight, first = take(25), Pipeline(DATA, FlatLayout(), 4, 5)
    list(itertools.islice(first, at))
    again = Pipeline(DATA, FlatLayout(), 4, 5, prefetch=4)
    again.set_state(first.state())
    same(straight[at:], list(itertools.islice(again, 25 - at)))


def test_every_epoch_holds_every_good_document_once():
    data = Mix.Config(parts=[Part(source=Made('b', 40))], window=10)
    seen = Counter()
    # One epoch of 40 documents is dealt to 4 streams of 10 documents each: exactly one window.
    for stream in Pipeline(data, FlatLayout(), 4, 0)._streams:
        while stream.state[0] == 0:
            before = stream.state
            row = next(stream)
            if stream.state[0] == 0 or before == (0, 0):
                seen.update(d.key for d in row)
    assert seen == Counter(f'b{i}' for i in range(40))


def test_weights_bad_documents_and_blanked_pictures():
    pipeline = Pipeline(DATA, FlatLayout(), 4, 5)
    seen, blank = Counter(), 0
    for _, info in itertools.islice(pipeline, 150):
        seen.update(key[0] for keys in info.keys for key in keys)
        if any('a2' in keys for keys in info.keys):
            blank += 1
    assert seen['a'] / (seen['a'] + seen['b']) == pytest.approx(3 * 42 / 50 / (3 * 42 / 50 + 1), abs=0.02)
    assert pipeline.stats.dropped['broken'] > 0 and pipeline.stats.dropped['truncated image'] > 0 and blank
    assert 'a2' in pipeline.stats.examples['truncated image']


def test_row_with_a_blanked_document():
    layout = FlatLayout()
    documents = [d for i in (1, 2, 10) for d in layout(Made('a')[i])]
    ((batch, info),) = finite(documents, layout, 1)
    keys = info.keys[0]
    at = {k: sum(len(d.tokens) for d in documents if keys.index(d.key) < keys.index(k)) for k in keys}
    size = {d.key: len(d.tokens) for d in documents}
    gone = slice(at['a2'], at['a2'] + size['a2'])
    assert not batch.span[0, gone].any() and not batch.weight[0, gone].any() and (batch.slot[0, gone] == -1).all()
    for k, value in (('a1', 1), ('a10', 10)):
        there = slice(at[k], at[k] + size[k])
        assert batch.span[0, there, 0].tolist() == [at[k]] * size[k]
        slots = batch.slot[0, there][batch.slot[0, there] >= 0]
        medium = slots // SPEC.tokens
        assert (batch.pixels[0, medium] == value).all() and batch.media_size[0, medium].all()
    padding = slice(sum(size.values()), None)
    assert not batch.span[0, padding].any() and not batch.weight[0, padding].any()


def test_streams_see_every_source():
    for stream in Pipeline(DATA, FlatLayout(), 4, 5)._streams:
        seen = {d.key[0] for _ in range(40) for d in next(stream)}
        assert seen == {'a', 'b'}


def test_quality():
    low = Mix.Config(parts=[Part(source=Made('a', quality=0.4), min_quality=0.5), Part(source=Made('b'))])
    seen = {
        k[0] for _, info in itertools.islice(Pipeline(low, FlatLayout(), 2, 0), 20) for row in info.keys for k in row
    }
    assert seen == {'b'}
    drawn = Mix.Config(parts=[Part(source=Made('a', quality=0.25), by_quality=True), Part(source=Made('b'))])
    mix, kept = drawn.build(0), Counter()
    for i in range(2000):
        try:
            kept[mix[i].key[0]] += 1
        except BadDocument as error:
            assert error.reason == 'not drawn by its quality'
    assert kept['a'] / kept['b'] == pytest.approx(0.25, abs=0.05)


def test_clear_refusals():
    with pytest.raises(ValueError, match='weights above 0'):
        Mix.Config(parts=[Part(source=Made('a'), weight=0.0)]).build(0)
    with pytest.raises(ValueError, match='source a holds no documents'):
        Mix.Config(parts=[Part(source=Made('a', size=0))]).build(0)
    broken = Mix.Config(parts=[Part(source=Made('a', bad=1))], window=4)
    with pytest.raises(ValueError, match=r"dropped: \{'broken': .*for example document 'a"):
        next(Pipeline(broken, FlatLayout(), 2, 0))
    with pytest.raises(ValueError, match='batch of another size'):
        Pipeline(DATA, FlatLayout(), 4, 5).set_state(np.zeros((3, 2), np.int64))
