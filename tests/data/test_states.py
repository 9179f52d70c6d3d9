# SPDX-License-Identifier: Apache-2.0
"""Texts of right and wrong pictures: what is written for which object, in how much room, and refusals."""

import dataclasses

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data.check import check
from mmjax.data.layout import Layout
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.data.states import States
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Text

CONFIG = States.Config(
    tokenizer=Bytes.Config(special=('<|startoftext|>', '<|endoftext|>')), templates=('a {}.', 'the {}'),
    right=('{}',), wrong=('bad {}', '{} with flaw'),
)  # fmt: skip
GRID = dict(height=4, width=4, patch=2, tokens=2, grid=lambda frames, rows, columns: (1, 2))
SPEC = MediaSpec(**GRID, beside=6 * 12, beside_vocab=258, marks=(2, 4))


def document(marks, **meta):
    picture = Image(np.zeros((4, 4, 3), np.uint8), marks=marks)
    return Document([picture, Text('?', weight=0.0), Text('no')], key='d', meta=meta)


@pytest.mark.parametrize(
    'meta, texts',
    [
        ({}, ['a object.', 'the objec', 'a bad obj', 'the bad o', 'a object ', 'the objec']),
        ({'object': 'nut'}, ['a nut.', 'the nut', 'a bad nut', 'the bad n', 'a nut wit', 'the nut w']),
    ],
)
def test_what_is_written(meta, texts):
    assert CONFIG.texts == (2, 4)
    ids = dataclasses.replace(CONFIG).build(dataclasses.replace(SPEC, beside=6 * 11))(document(None, **meta))
    rows = ids.reshape(6, 11)
    assert [bytes(int(i) for i in row if 0 <= i < 256).decode() for row in rows] == texts
    assert all(row[0] == 256 and row[row >= 0][-1] == 257 for row in rows)


def test_a_row_holds_texts_and_marks():
    layout = Layout.Config(
        tokenizer=Bytes.Config(special=('<image>',)), max_tokens=32, max_media=3, beside=CONFIG
    ).build(SPEC)  # fmt: skip
    marks = np.array([[0, 0, 1, 1]] * 2 + [[0, 1, 0, 0]] * 2, bool)
    laid = [part for m in (marks, None) for part in layout(document(m))]
    batch = stack([render_row(laid, layout)])
    assert batch.marks[0].tolist() == [[[0, 0, 1, 1], [0, 1, 0, 0]], [[-1] * 4] * 2, [[-1] * 4] * 2]
    assert batch.words.shape == (1, 3, 72) and (batch.words[0, 2] == -1).all()
    check(batch, 257, SPEC)


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: CONFIG.build(dataclasses.replace(SPEC, beside=71)), r'writes 6 texts .* reads 71 words'),
        (lambda: CONFIG.build(dataclasses.replace(SPEC, beside_vocab=100)), 'of a vocabulary of 100'),
        (lambda: dataclasses.replace(CONFIG, tokenizer=Bytes.Config()).build(SPEC), 'no special token'),
        (lambda: Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), beside=CONFIG, fit='pad').build(SPEC),
         "layout.fit is 'pad': marks follow"),
    ],
)  # fmt: skip
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()
