# SPDX-License-Identifier: Apache-2.0
"""Boxes are read in the document's own dialect and carried back to the picture as it was before it was fitted."""

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data import dialects
from mmjax.data.layout import Layout
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Region, Text
from mmjax.evals.metrics import METRICS, OVER_ALL, found_boxes, words

BOX = (0.25, 0.2, 0.5, 0.6)


def document() -> Document:
    picture = Image(np.zeros((50, 100, 3), np.uint8))
    return Document([picture, Text('Where is ', weight=0.0), Text('it?', weight=0.0), Region('', (BOX,))], key='d')


def make_layout(fit='squash', codec=None) -> Layout:
    spec = MediaSpec(height=64, width=64, patch=8, tokens=64, grid=lambda frames, rows, columns: (rows, columns))
    special = ('<image>', *(codec.special_tokens() if codec else ()))
    return Layout.Config(tokenizer=Bytes.Config(special=special), coordinates=codec, fit=fit).build(spec)


@pytest.mark.parametrize('fit', ['squash', 'pad', 'crop'])
@pytest.mark.parametrize(
    'codec', [dialects.shikra(), dialects.kosmos_2(), dialects.qwen_vl()], ids=['shikra', 'kosmos', 'qwen']
)
def test_boxes_come_back(fit, codec):
    layout, d = make_layout(fit, codec), document()
    written = codec.encode([layout.fit.boxes_in(BOX, (100, 50))], (64, 64))
    found = found_boxes(layout, d, f'It is here: {written}.')
    step = 2 * codec.bin_size((64, 64))[0]
    true = BOX if fit != 'crop' else (0.25, *BOX[1:])
    np.testing.assert_allclose(found, [true], atol=step)
    scores = METRICS['box_iou'](layout, d, written)
    assert scores['iou50'] == 1.0 and scores['iou'] > 0.7
    assert METRICS['box_iou'](layout, d, 'nowhere') == {'iou50': 0.0, 'iou': 0.0}


def test_captions():
    d = document()
    d.pieces[-1], d.meta['answers'] = Text('a red cat'), ['a red cat', 'the cat is red']
    layout = make_layout()
    assert METRICS['caption'](layout, d, 'A red cat.') == {'rouge_l': pytest.approx(1.0)}
    assert METRICS['anls'](layout, d, 'a  red cat') == {'anls': 1.0}
    figures = OVER_ALL['caption'](['a red cat sits', 'a dog is here'], [['a red cat sits'], ['a dog is here']])
    assert figures == pytest.approx({'cider': 10.0, 'bleu4': 1.0})


def test_words():
    pair = Document([Image(b''), Text('a '), Image(b''), Text('b')])
    assert words(pair) == '[picture] a [picture] b' and words(document()) == 'Where is it?'
