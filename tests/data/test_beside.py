# SPDX-License-Identifier: Apache-2.0
"""Words beside pictures: which words, what is cut, where they stand in a row, and refusals."""

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data.beside import Beside
from mmjax.data.check import BadBatch, check
from mmjax.data.layout import Layout
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Text

GRID = dict(height=4, width=4, patch=2, tokens=2, grid=lambda frames, rows, columns: (1, 2))
SPEC = MediaSpec(**GRID, beside=8, beside_vocab=258)
BERT = Bytes.Config(special=('[CLS]', '[SEP]'))


def document(question: str, answer: str) -> Document:
    return Document([Image(np.zeros((4, 4, 3), np.uint8)), Text(question, weight=0.0), Text(answer)], key=question)


@pytest.mark.parametrize(
    'learnt, expected', [(False, '[CLS]how?[SEP]'), (True, '[CLS]seven [SEP]')], ids=['instructions', 'captions']
)
def test_which_words_and_what_is_cut(learnt, expected):
    beside = Beside.Config(tokenizer=BERT, learnt=learnt).build(SPEC)
    ids = beside(document(' how? ', 'seven cats'))
    assert beside.tokenizer.decode(ids) == expected and ids.dtype == np.int32


def test_a_row_holds_the_words_of_each_medium():
    layout = Layout.Config(
        tokenizer=Bytes.Config(special=('<image>',)), max_tokens=32, max_media=3, beside=Beside.Config(tokenizer=BERT)
    ).build(SPEC)
    laid = [part for question in ('ab', 'c') for part in layout(document(question, 'x'))]
    batch = stack([render_row(laid, layout)])
    assert batch.words[0].tolist() == [[256, 97, 98, 257] + [-1] * 4, [256, 99, 257] + [-1] * 5, [-1] * 8]
    check(batch, 257, SPEC)
    with pytest.raises(BadBatch, match='word 300 beside a medium; the connector knows 258'):
        check(batch._replace(words=np.where(batch.words == 99, 300, batch.words)), 257, SPEC)
    asked = layout.prompt(Document(document('ab', 'x').pieces[:2]))
    assert asked.words.tolist() == [256, 97, 98, 257]


@pytest.mark.parametrize(
    'spec, beside, message',
    [
        (SPEC, None, 'reads 8 words beside each picture; layout.beside must be set'),
        (
            MediaSpec(**GRID),
            Beside.Config(tokenizer=BERT),
            'reads no words .* layout.beside must be None',
        ),
        (
            MediaSpec(**GRID, beside=8, beside_vocab=257),
            Beside.Config(tokenizer=BERT),
            '258 tokens, .* reads 257',
        ),
        (
            MediaSpec(**GRID, beside=2, beside_vocab=258),
            Beside.Config(tokenizer=BERT),
            r'1 \+ 1 signs .* reads 2 in all',
        ),
        (SPEC, Beside.Config(tokenizer=Bytes.Config()), r"no special token '\[CLS\]'"),
    ],
)
def test_refusals(spec, beside, message):
    with pytest.raises(ValueError, match=message):
        Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), beside=beside).build(spec)
