# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmjax.data import tasks
from mmjax.document import BadDocument, Document, Image, Region, Text

PICTURE = Image(np.zeros((2, 2, 3), np.uint8))
BOX = (0.0, 0.0, 0.5, 0.5)


def shape(document):
    """Pieces as (text or 'picture', weight)."""
    return [('picture' if isinstance(p, Image) else p.text, p.weight) for p in document.pieces]


def test_caption():
    task = tasks.Caption(questions=('What?',))
    assert shape(task(Document([PICTURE, Text('a cat')]))) == [('picture', 0), ('What?', 0), ('a cat', 1)]
    assert shape(task(Document([PICTURE]))) == [('picture', 0), ('What?', 0)]
    chat = tasks.Caption(questions=('What?',), chat=True)(Document([PICTURE, Text('a cat')]))
    assert chat.meta['roles'] == ['user', 'user', 'assistant']


def test_ask():
    task = tasks.Ask(questions=('Question:{} Short answer:',))
    document = Document([PICTURE, Text('How many?', weight=0.0), Text('2')])
    assert shape(task(document)) == [('picture', 0), ('Question:How many? Short answer:', 0), ('2', 1)]


def test_prefix():
    found = [tasks.Prefix()(Document([PICTURE, Text('two black cats')], key=str(i))) for i in range(20)]
    shapes = {tuple(text for text, _ in shape(document)[1:]) for document in found}
    assert shapes == {('two black cats',), ('two', 'black cats'), ('two black', 'cats')}
    assert all([weight for _, weight in shape(document)][1:] in ([1], [0, 1]) for document in found)
    with pytest.raises(BadDocument, match='no learnt words'):
        tasks.Prefix()(Document([PICTURE]))


def test_locate_and_name():
    pieces = [PICTURE, Text('see'), Region('a cat', (BOX,)), PICTURE, Text('end')]
    found = tasks.Locate(questions=('Where is {}?',))(Document(pieces))
    assert shape(found) == [('picture', 0), ('picture', 0), ('Where is a cat?', 0), ('', 1)]
    named = tasks.Locate(questions=('Where is {}?',), named=True)(Document(pieces))
    assert named.pieces[:-1] == found.pieces[:-1] and named.pieces[-1].text == 'a cat'
    assert found.pieces[-1].image == 0  # the picture it was said of, though another is the last now
    named = tasks.Name(questions=('What is in {}?',))(Document(pieces))
    assert shape(named)[2:] == [('What is in ', 0), ('', 0), ('?', 0), ('a cat', 1)]
    with pytest.raises(BadDocument, match='no region'):
        tasks.Locate()(Document([PICTURE, Text('x')]))


def test_the_key_chooses():
    task = tasks.Caption(questions=tuple('abcd'))
    asked = [task(Document([Text('x')], key=str(i))).pieces[0].text for i in range(40)]
    assert asked == [task(Document([Text('x')], key=str(i))).pieces[0].text for i in range(40)]
    assert set(asked) == set('abcd')


def test_silent_until_picture():
    document = tasks.SilentUntilPicture()(Document([Text('a'), PICTURE, Text('b')]))
    assert shape(document) == [('a', 0), ('picture', 0), ('b', 1)]
    assert shape(tasks.SilentUntilPicture().build()(Document([Text('a')]))) == [('a', 1)]
