# SPDX-License-Identifier: Apache-2.0
"""The data path as a run uses it: real pages and the package's digits, through layout and packing to batches."""

import dataclasses
import itertools

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data import dialects, templates
from mmjax.data.check import check
from mmjax.data.inspect import inspect
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources import open_source
from mmjax.data.sources.digits import Digits
from mmjax.data.tasks import Chat
from mmjax.data.tokenizer import Bytes

SPEC = MediaSpec(height=32, width=32, patch=16, tokens=4, grid=lambda frames, rows, columns: (rows, columns))
CROSS = dataclasses.replace(SPEC, in_sequence=False)
DATA = Mix.Config(
    parts=[
        Part(source=Digits.Config(task='find'), weight=2.0, task=Chat()),
        Part(source=Digits.Config(task='few_shot'), weight=1.0),
    ],
    window=16,
)


def build(spec, format_, codec=None, **fields):
    special = (*format_.special_tokens(), *(codec.special_tokens() if codec else ()))
    return Layout.Config(
        tokenizer=Bytes.Config(special=special), image=format_.image, text=format_.text, coordinates=codec, **fields
    ).build(spec)


LAYOUTS = {
    'splice': build(SPEC, templates.vicuna(), dialects.llava(), max_tokens=700),
    'cross-attention': build(CROSS, templates.flamingo(), dialects.kosmos_2(), max_tokens=200),
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_batches_are_sound_and_resume(name):
    layout = LAYOUTS[name]
    straight, again = (Pipeline(DATA, layout, rows=3, seed=1) for _ in range(2))
    batches = list(itertools.islice(straight, 8))
    for batch, info in batches:
        check(batch, layout.tokenizer.size, layout.spec, info.keys)
        # Every medium that is there is looked at, or stands in the text, token by token.
        seen = batch.slot if batch.media_span is None else batch.media_span[..., 0]
        for row in range(3):
            there = np.flatnonzero(batch.media_size[row, :, 0])
            assert set(np.unique(seen[row][seen[row] >= 0]) // SPEC.tokens) == set(there)
    list(itertools.islice(again, 5))
    resumed = Pipeline(DATA, layout, rows=3, seed=1)
    resumed.set_state(again.state())
    for (batch, info), (other, same) in zip(batches[5:], itertools.islice(resumed, 3), strict=True):
        assert info.keys == same.keys
        assert all(a is b is None or np.array_equal(a, b) for a, b in zip(batch, other, strict=True))


@pytest.mark.parametrize('spec, format_', [(SPEC, templates.plain()), (CROSS, templates.flamingo())])
@pytest.mark.parametrize('max_tokens', [1024, 2048])
def test_rows_of_real_pages_are_full(shared, spec, format_, max_tokens):
    many = dataclasses.replace(spec, tokens=64, grid=lambda frames, rows, columns: (8, 8))
    layout = build(many, format_, max_tokens=max_tokens, max_media=16)
    found = inspect(open_source(f'{shared}/data/interleaved/*.tar'), layout, limit=96)
    assert not found.dropped and found.efficiency > 0.95, str(found)
