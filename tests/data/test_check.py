# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data.check import BadBatch, check
from mmjax.data.layout import Layout
from mmjax.data.pipeline import finite
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, State, Text

SPEC = MediaSpec(height=4, width=4, patch=2, tokens=2, grid=lambda f, r, c: (1, 2), state_width=3, experts=True)
CROSS = dataclasses.replace(SPEC, in_sequence=False, state_width=0)
PIECES = [Text('ab'), Image(np.ones((4, 4, 3), np.uint8)), Text('c'), State(np.ones(3)), Text('d')]


def made(spec=SPEC):
    special = ('<image>', '<state>')
    config = Layout.Config(tokenizer=Bytes.Config(special=special), max_tokens=20, max_media=3)
    config.max_states = 3 if spec.state_width else 0
    layout = config.build(spec)
    pieces = PIECES if spec.state_width else [p for p in PIECES if not isinstance(p, State)]
    ((batch, info),) = finite([laid for key in 'xy' for laid in layout(Document(pieces, key))], layout, 2)
    return batch, info.keys


def test_good_batches():
    for spec in (SPEC, CROSS):
        batch, keys = made(spec)
        check(batch, 258, spec, keys)
        check(batch, 258, spec)


@pytest.mark.parametrize(
    'name, place, value, message',
    [
        ('tokens', (0, 1), 300, 'documents x, y.*: tokens: 300 is no id of a vocabulary of 258'),
        ('weight', (0, 2), np.nan, 'weight: nan'),
        ('position', (0, 3), -1, 'position: -1'),
        ('expert', (0, 3), 2, 'expert: 2'),
        ('span', (0, 4), (0, 21), r'span \[0, 21\] of a row; it holds 20'),
        ('span', (0, 4), (0, 4), 'leaves out the token itself'),
        ('weight', (0, 19), 1, 'where nothing is seen'),
        ('weight', (0, 6), 1, 'weight 1.0 at the end of a document'),
        ('slot', (0, 0), 9, r'slot 9 of a row; it has 3 media of 2 tokens and 3 states'),
        ('slot', (0, 0), 5, 'slot 5 of a medium that is not there'),
        ('slot', (0, 0), 1, 'slot 1 twice'),
        ('media_size', (0, 0), (1, 3, 2), r'media_size \[1, 3, 2\], at most \[1, 2, 2\]'),
    ],
)
def test_bad_values(name, place, value, message):
    batch, keys = made()
    getattr(batch, name)[place] = value
    with pytest.raises(BadBatch, match=message):
        check(batch, 258, SPEC, keys)


def test_bad_media_span():
    batch, keys = made(CROSS)
    batch.media_span[1, 2] = (4, 7)
    with pytest.raises(BadBatch, match=r'media_span \[4, 7\] of a row; it has 3 media'):
        check(batch, 258, CROSS, keys)


def test_bad_shapes():
    batch, keys = made()
    with pytest.raises(BadBatch, match=r'pixels is uint8\[2, 3, 1, 4, 4, 3\].*reads uint8\[2, 3, 1, 8, 8, 3\]'):
        check(batch, 258, dataclasses.replace(SPEC, height=8, width=8), keys)
    with pytest.raises(BadBatch, match='weight is float64'):
        check(batch._replace(weight=batch.weight.astype(float)), 258, SPEC)
    with pytest.raises(BadBatch, match='but pixels is None'):
        check(batch._replace(pixels=None), 258, SPEC)
    with pytest.raises(BadBatch, match=r'tokens has shape \[20\]'):
        check(batch._replace(tokens=batch.tokens[0]), 258, SPEC)
