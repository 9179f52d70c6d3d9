# SPDX-License-Identifier: Apache-2.0
"""Pictures that come as vectors: files, rows, answers to choose from, and refusals."""

import io

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data import features
from mmjax.data.answer_list import AnswerList
from mmjax.data.check import BadBatch, check
from mmjax.data.layout import Layout
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.data.sources.cut import Cut, width
from mmjax.data.sources.digits import LIST, Digits
from mmjax.data.tokenizer import Bytes
from mmjax.document import BadDocument, Document, Features, Image, Region, Text

GRID = dict(height=1, width=3, tokens=3, grid=lambda frames, rows, columns: (1, columns), varying=True, features=2)
AMONG = MediaSpec(**GRID)
SPEC = MediaSpec(**GRID, in_sequence=False, apart=True, answers=3)
LAYOUT = Layout.Config(tokenizer=Bytes.Config(), max_tokens=8, max_media=1, overlong='cut',
                       answers=AnswerList.Config(words=('no', 'red', 'yes')))  # fmt: skip


def asks(vectors, answer='red', people=(), question='hue?'):
    pieces = [Features(np.array(vectors, np.float32)), Text(question, weight=0.0), Text(answer)]
    return Document(pieces, key='d', meta={'answers': people} if people else {})


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_a_file_is_what_it_holds(tmp_path):
    array = np.arange(6, dtype=np.float16).reshape(3, 2)
    (tmp_path / 'a.npy').write_bytes(npy(array))
    for source in (array, npy(array), tmp_path / 'a.npy'):
        assert features.size(Features(source)) == (2, 3)
        found = features.read(Features(source))
        assert found.dtype == np.float32 and np.array_equal(found, array)


@pytest.mark.parametrize(
    'source',
    [b'no file', npy(np.zeros(3)), npy(np.zeros((2, 2), int)), npy(np.zeros((0, 2))), npy(np.zeros((2, 2)))[:-9]],
)
def test_what_is_no_features_is_refused(source):
    with pytest.raises(BadDocument, match='unreadable features'):
        features.read(Features(source))


def test_a_row_holds_vectors_question_and_answers():
    layout = LAYOUT.build(SPEC)
    (laid,) = layout(asks([[1, 2], [3, 4], [5, 6], [7, 8]]))
    batch = stack([render_row([laid], layout), render_row(layout(asks([[9, 9]], 'blue')), layout)])
    assert batch.pixels is None and batch.features[0, 0].tolist() == [[1, 2], [3, 4], [5, 6]]  # the first of too many
    assert batch.media_size[:, 0].tolist() == [[1, 1, 3], [1, 1, 1]]
    assert bytes(batch.tokens[0, :4].tolist()) == b'hue?' and not batch.weight.any()
    assert batch.answers.tolist() == [[0, 1, 0], [0, 0, 0]]  # one that is not in the list: none is right
    check(batch, 256, SPEC)
    with pytest.raises(BadBatch, match='each is 0'):
        check(batch._replace(answers=batch.answers * 2), 256, SPEC)
    with pytest.raises(BadBatch, match='features is float32'):
        check(batch._replace(features=batch.features[..., :1]), 256, SPEC)
    asked = layout.prompt(asks([[1, 2]]).split()[0])
    assert np.array_equal(asked.tokens, laid.tokens)


def test_vectors_stand_among_words():
    layout = Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), max_tokens=12).build(AMONG)
    batch = stack([render_row(layout(asks([[1, 2], [3, 4]])), layout)])
    assert batch.slot[0].tolist() == [0, 1, *[-1] * 10] and batch.features.shape == (1, 8, 3, 2)
    check(batch, 257, AMONG)


@pytest.mark.parametrize(
    'answer, people, scores',
    [
        ('red', (), [0, 1, 0]),
        (' Red', (), [0, 1, 0]),
        ('-', ['red'] * 3 + ['no'] * 6 + ['yes'], [1, 0.9, 0.3]),
        ('-', ['red', 'red', 'blue'], [0, 4 / 9, 0]),
    ],
)
def test_how_right_an_answer_is(answer, people, scores):
    found = AnswerList.Config(words=('no', 'red', 'yes')).build(SPEC)(asks([[1, 2]], answer, people))
    np.testing.assert_allclose(found, scores, rtol=1e-6)


def test_boxes_are_cut_out():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 4:] = 255
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    regions = Document([Image(picture, name='p'), Region('a', (right,)), Region('b', (left,), image=0)], key='d')

    class One:
        name, build = 'one', lambda self: self
        __len__, __getitem__ = lambda self: 2, lambda self, i: [regions, Document([Image(picture)])][i]

    source = Cut.Config(source=One(), side=2).build()
    found = features.read(source[0].pieces[0])
    assert np.array_equal(found, [[1.0] * 12 + [*right], [0.0] * 12 + [*left]]) and width(2) == 16
    with pytest.raises(BadDocument, match='picture without boxes'):
        source[1]


def test_questions_about_digits_are_answered_from_the_list():
    """What a scene shows is read off the boxes: leftmost and rightmost by where they lie."""
    caption, ask = (Digits.Config(task=task, least=2, most=2).build() for task in ('caption', 'ask'))
    assert len(caption[0].meta['boxes'][0]) == len(caption[0].pieces[-1].text)
    found = [ask[i] for i in range(200)]
    assert {d.pieces[-1].text for d in found} == {*LIST}
    assert all((d.pieces[-1].text in ('yes', 'no')) == d.pieces[1].text.startswith('a ') for d in found)


@pytest.mark.parametrize(
    'changes, spec, message',
    [
        (dict(answers=None), SPEC, 'chooses from 3 answers; layout.answers must be set'),
        (dict(answers=LAYOUT.answers), AMONG, 'writes its answers; layout.answers must be None'),
        (dict(answers=AnswerList.Config(words=('a',))), SPEC, 'lists 1 answers, the model scores 3'),
        (dict(answers=AnswerList.Config()), SPEC, 'either words or the path'),
        (dict(answers=LAYOUT.answers, max_media=2), SPEC, 'max_media is 2: answers are chosen row by row'),
    ],
)
def test_refusals(changes, spec, message):
    with pytest.raises(ValueError, match=message):
        Layout.Config(**{'tokenizer': Bytes.Config(special=('<image>',)), 'max_media': 1, **changes}).build(spec)


@pytest.mark.parametrize(
    'piece, message',
    [
        (Image(np.zeros((2, 2, 3), np.uint8)), 'a picture: the model reads features'),
        (Features(np.zeros((1, 5))), 'features of another width: 5 numbers a vector, the model reads 2'),
    ],
)
def test_media_that_the_model_cannot_read(piece, message):
    with pytest.raises(BadDocument, match=message):
        LAYOUT.build(SPEC)(Document([piece, Text('hue?', weight=0.0), Text('red')], key='d'))
