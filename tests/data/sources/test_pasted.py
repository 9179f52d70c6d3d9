# SPDX-License-Identifier: Apache-2.0
"""Pieces of other pictures: what is marked is what changed, and the answer says where."""

import numpy as np
import pytest

from mmjax.data.sources.digits import Digits
from mmjax.data.sources.pasted import Pasted, where
from mmjax.document import BadDocument, Document, Text


def test_marks_are_what_changed():
    scenes = Digits.Config(count=40)
    source, again, right = (Pasted.Config(source=scenes, chance=c).build() for c in (0.5, 0.5, 0.0))
    seen = set()
    for i in range(len(source)):
        picture, question, answer = source[i].pieces
        plain = scenes.build()[i].pieces[0].pixels
        changed = (np.abs(picture.pixels.astype(int) - plain) >= 16).any(axis=-1)
        assert np.array_equal(picture.marks, changed) and question.weight == 0 and answer.weight == 1
        assert answer.text == (f'yes, {where(changed)}' if changed.any() else 'no')
        assert np.array_equal(picture.pixels, again[i].pieces[0].pixels)
        assert right[i].pieces[2].text == 'no' and not right[i].pieces[0].marks.any()
        seen.add(answer.text)
    assert 'no' in seen and len(seen) > 4


@pytest.mark.parametrize(
    'rows, columns, said',
    [((0, 1), (0, 1), 'top left'), ((4, 5), (4, 5), 'middle centre'), ((8, 9), (0, 9), 'bottom centre')],
)
def test_where(rows, columns, said):
    marks = np.zeros((9, 9), bool)
    marks[slice(*rows), slice(*columns)] = True
    assert where(marks) == said


def test_refusals():
    with pytest.raises(ValueError, match=r'chance 2.* are needed'):
        Pasted.Config(source=Digits.Config(), chance=2.0).build()

    class Words:
        name, build = 'words', lambda self: self
        __len__, __getitem__ = lambda self: 1, lambda self, i: Document([Text('a')], key='w')

    with pytest.raises(BadDocument, match='no picture'):
        Pasted.Config(source=Words()).build()[0]
