# SPDX-License-Identifier: Apache-2.0
"""Records of every layout become the document they mean; whatever else comes in is refused, never a crash."""

import base64
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from mmjax.data.sources import FORMATS
from mmjax.data.sources.boxes import BoxFormat
from mmjax.data.sources.chat import Chat
from mmjax.data.sources.formats import guess
from mmjax.data.sources.interleaved import Interleaved, Mmc4
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.pieces import Pieces
from mmjax.data.sources.problems import Problems
from mmjax.data.sources.records import Record
from mmjax.document import BadDocument, Document, Features, Generate, Image, Region, State, Text, Video


def sketch(document: Document) -> list:
    """Returns a document as short values: the text, (text, boxes), or the kind."""
    short = []
    for piece in document.pieces:
        if isinstance(piece, Text):
            short.append(piece.text)
        elif isinstance(piece, Region):
            short.append((piece.text, [tuple(round(v, 3) for v in box) for box in piece.boxes]))
        else:
            short.append(type(piece))
    return short


def refused(record_format, record, reason: str) -> BadDocument:
    with pytest.raises(BadDocument) as caught:
        record_format.document(record, '')
    assert caught.value.reason == reason
    return caught.value


# --- chat ---------------------------------------------------------------------------------------------------------


def turns(*values: str) -> list[dict]:
    return [{'from': ('human', 'gpt')[i % 2], 'value': value} for i, value in enumerate(values)]


def test_chat_turns_roles_and_weights(make_record):
    fields = {'image': 'a.jpg', 'conversations': turns('<image>\nWhat is it?', 'A cat at [0.1, 0.2].', 'Sure?', 'Yes.')}
    document = Chat().document(make_record(fields), '')
    assert sketch(document) == [Image, '\nWhat is it?', 'A cat at [0.1, 0.2].', 'Sure?', 'Yes.']
    assert document.meta['format'] == 'chat'
    assert document.meta['roles'] == ['user', 'user', 'assistant', 'user', 'assistant']
    assert [p.weight for p in document.pieces] == [0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    'value, first, wanted',
    [
        ('Compare <image> with <image>.', False, ['Compare ', Image, ' with ', Image, '.']),
        ('Compare <image> with <image>.', True, [Image, Image, '\nCompare  with .']),
        ('What?\n<image><image>', False, ['What?\n', Image, Image]),
        ('What?\n<image><image>', True, [Image, Image, '\nWhat?']),
    ],
)
def test_chat_pictures_stand_where_their_markers_stand(make_record, value, first, wanted):
    record = make_record({'image': ['a.jpg', 'b.jpg'], 'conversations': turns(value, 'yes')})
    document = Chat(images_first=first).document(record, '')
    assert sketch(document) == [*wanted, 'yes']
    names = [p.name for p in document.pieces if isinstance(p, Image)]
    assert names == ['it:a.jpg', 'it:b.jpg']


def test_chat_without_markers_shows_its_pictures_first_and_says_so(make_record):
    record = make_record(
        {'image': 'a.jpg', 'conversations': [{'from': 'system', 'value': 'Be kind.'}, *turns('Q', 'A')]}
    )
    document = Chat().document(record, '')
    assert sketch(document) == ['Be kind.', Image, '\nQ', 'A'] and document.meta['roles'][:2] == ['system', 'user']
    assert record.problems.counts == {'image without a marker, put first': 1}


def test_chat_of_text_only_and_openai_spelling(make_record):
    told = [{'role': 'user', 'content': 'a'}, {'role': 'user', 'content': 'b'}, {'role': 'assistant', 'content': 'c'}]
    document = Chat(turns='messages').document(make_record({'messages': told}), '')
    assert sketch(document) == ['a\nb', 'c']


@pytest.mark.parametrize(
    'fields, reason',
    [
        ({'conversations': turns('<image> <image>', 'a'), 'image': 'a.jpg'}, 'markers and images differ in number'),
        ({'conversations': turns('<image>', 'a')}, 'markers and images differ in number'),
        ({'conversations': turns('<image>', 'a'), 'image': 'no.jpg'}, 'missing image'),
        ({'conversations': turns('<image>', 'a'), 'image': 'http://x/a.jpg'}, 'remote image'),
        ({'conversations': turns('only a question')}, 'nothing to learn'),
        ({'conversations': turns('a', '')}, 'nothing to learn'),
        ({'conversations': []}, 'no conversation'),
        ({'conversations': 'a'}, 'no conversation'),
        ({'conversations': [{'from': 'robot', 'value': 'x'}]}, 'not a turn'),
        ({'conversations': [{'from': 'human'}]}, 'not a turn'),
        ({'conversations': ['hello']}, 'not a turn'),
    ],
)
def test_chat_refusals(make_record, fields, reason):
    refused(Chat(), make_record(fields), reason)


# --- interleaved --------------------------------------------------------------------------------------------------


def test_interleaved_order_and_joints(make_record):
    fields = {'texts': ['a', 'b', None, '', 'c', None], 'images': [None, None, 'x.jpg', None, None, 'no.jpg']}
    record = make_record(fields)
    assert sketch(Interleaved().document(record, '')) == ['a\n\nb', Image, 'c']
    assert record.problems.counts == {'missing image': 1}


def test_interleaved_both_at_one_place(make_record):
    record = make_record({'texts': ['caption'], 'images': ['x.jpg']})
    assert sketch(Interleaved().document(record, '')) == [Image, 'caption']
    assert record.problems.counts == {'text and image at one place': 1}


def info(name: str, place: object) -> dict:
    return {'image_name': name, 'matched_text_index': place}


def test_mmc4_pictures_stand_before_the_text_they_match(make_record):
    fields = {'text_list': ['a', 'b', 'c'], 'image_info': [info('2.jpg', 2), info('1.jpg', 1), info('0.jpg', 1)]}
    document = Mmc4().document(make_record(fields), '')
    assert sketch(document) == ['a', Image, Image, 'b', Image, 'c']
    assert [p.name for p in document.pieces if isinstance(p, Image)] == ['it:1.jpg', 'it:0.jpg', 'it:2.jpg']


def test_mmc4_odd_pictures_are_counted(make_record, jpeg):
    told = [
        info('a.jpg', 5),
        info('a.jpg', None),
        info('no.jpg', 0),
        'x',
        {'matched_text_index': 1, 'image_base64': '??'},
    ]
    told += [{'matched_text_index': 1, 'image_base64': base64.b64encode(jpeg).decode()}]
    record = make_record({'text_list': ['a', 'b'], 'image_info': told})
    document = Mmc4().document(record, '')
    assert sketch(document) == ['a', Image, 'b'] and document.pieces[1].pixels == jpeg
    assert record.problems.counts == {'image without a matched text': 3, 'missing image': 1, 'broken base64': 1}


# --- pairs --------------------------------------------------------------------------------------------------------


TWO_DOGS = [[0, 8, 0, 0, 0.5, 1], [0, 8, 0.5, 0, 1, 1], [4, 8, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    'form, fields, wanted',
    [
        (Pair(), {'file_name': 'a.jpg', 'caption': 'c', 'label': 3}, [Image, 'c']),
        (Pair(), {'image': 'a.jpg', 'label': 0}, [Image, '0']),
        (Pair(), {'image': ['a.jpg', 'b.jpg'], 'captions': ['one', 'two']}, [Image, Image, 'one']),
        (Pair(text='label'), {'image': 'a.jpg', 'caption': 'c', 'label': 'l'}, [Image, 'l']),
        (Pair(text='{a.b}, {c}'), {'image': 'a.jpg', 'a': {'b': 'x'}, 'c': 2}, [Image, 'x, 2']),
        (Pair(prompt='Q: {q} A:', text='a'), {'image': 'a.jpg', 'q': 'why', 'a': ' so'}, [Image, 'Q: why A:', ' so']),
        (Pair(image='meta.path'), {'meta': {'path': 'a.jpg'}, 'text': 't'}, [Image, 't']),
        (
            Pair(boxes='box', box=BoxFormat(order='xywh', unit='pixels')),
            {'image': 'a.jpg', 'text': 'the cat', 'box': [10, 10, 40, 20]},
            [Image, ('the cat', [(0.1, 0.2, 0.5, 0.6)])],
        ),
        (
            Pair(boxes='box', box=BoxFormat(unit='pixels'), box_size='orig'),
            {'image': 'a.jpg', 'text': 't', 'box': [[20, 20, 100, 60]], 'orig': [200, 100]},
            [Image, ('t', [(0.1, 0.2, 0.5, 0.6)])],
        ),
        (
            Pair(text='caption', boxes='objects.bbox', labels='objects.name'),
            {'image': 'a.jpg', 'caption': 'c', 'objects': [{'bbox': [0, 0, 1, 1], 'name': n} for n in ('b', 'a', 'b')]},
            [Image, 'c', ('b', [(0, 0, 1, 1)] * 2), ('a', [(0, 0, 1, 1)])],
        ),
        (
            Pair(boxes='ref_exps'),
            {'image': 'a', 'caption': 'a dog and a cat', 'ref_exps': [[10, 15, 0, 0, 0.5, 1, 1], [0, 5, 0.5, 0, 1, 1]]},
            [Image, ('a dog', [(0.5, 0, 1, 1)]), ' and ', ('a cat', [(0, 0, 0.5, 1)])],
        ),
        (
            Pair(boxes='ref_exps'),
            {'image': 'a', 'text': 'two dogs.', 'ref_exps': TWO_DOGS},
            [Image, ('two dogs', [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]), '.'],
        ),
        (Pair(boxes='box'), {'image': 'a.jpg', 'text': 't', 'box': []}, [Image, 't']),
        (Pair(boxes='box'), {'image': 'a.jpg', 'text': 't'}, [Image, 't']),
    ],
)  # fmt: skip
def test_pairs(make_record, form, fields, wanted):
    document = form.document(make_record(fields), '')
    assert sketch(document) == wanted
    assert [p.weight for p in document.pieces if isinstance(p, Text)][: bool(form.prompt)] == [0.0][: bool(form.prompt)]


@pytest.mark.parametrize(
    'form, fields, reason',
    [
        (Pair(), {'image': 'no.jpg', 'text': 't'}, 'missing image'),
        (Pair(image='picture'), {'text': 't'}, 'missing image'),
        (Pair(text='alt'), {'image': 'a.jpg'}, 'no text'),
        (Pair(text='{alt}'), {'image': 'a.jpg', 'alt': None}, 'no text'),
        (Pair(boxes='b'), {'image': 'a.jpg', 'b': [0.5, 0, 0.1, 1]}, 'inverted box'),
        (Pair(boxes='b'), {'image': 'a.jpg', 'b': [50, 50, 70, 70]}, 'box outside the picture'),
        (Pair(boxes='b'), {'image': 'a.jpg', 'b': 'x'}, 'not a box'),
        (Pair(boxes='b', box=BoxFormat(unit='pixels')), {'b': [1, 2, 3, 4], 'text': 't'}, 'box without a picture'),
        (Pair(boxes='b', labels='l'), {'b': [[0, 0, 1, 1]], 'l': []}, 'labels and boxes differ in number'),
        (Pair(boxes='b'), {'image': 'a.jpg', 'text': 'ab', 'b': [[0, 9, 0, 0, 1, 1]]}, 'phrase outside the text'),
        (Pair(boxes='b', box=BoxFormat(unit='pixels'), box_size='s'), {'b': [0, 0, 1, 1], 's': 5}, 'no picture size'),
    ],
)  # fmt: skip
def test_pair_refusals(make_record, form, fields, reason):
    refused(form, make_record(fields), reason)


def test_a_box_over_the_edge_is_cut_and_counted(make_record):
    record = make_record({'image': 'a.jpg', 'text': 't', 'b': [0.5, 0.5, 1.5, 0.9]})
    document = Pair(boxes='b').document(record, '')
    assert document.pieces[1].boxes == ((0.5, 0.5, 1.0, 0.9),)
    assert document.meta['dropped'] == record.problems.counts == {'box cut at the edge': 1}


def test_pictures_beside_the_record_come_first(make_record):
    record = make_record({'text': 't', 'image': 'no.jpg'}, pictures=('jpg',))
    assert sketch(Pair().document(record, '')) == [Image, 't']


# --- pieces -------------------------------------------------------------------------------------------------------


def test_pieces_of_every_kind(make_record):
    told = [
        {'image': 'a.jpg'},
        {'text': 'where?', 'weight': 0},
        {'region': {'text': 'cat', 'boxes': [[0, 0, 0.5, 1]], 'image': 0}},
        {'state': [1, 2.5]},
        {'video': ['f0.jpg', 'f1.jpg'], 'fps': 2},
        {'video': ['f0.jpg', 'f1.jpg'], 'times': [0, 1.5]},
        {'generate': 'b.jpg', 'weight': 0.5},
        {'generate': None},
        {'features': 'a.jpg'},
    ]
    document = Pieces().document(make_record({'pieces': told, 'answers': ['a', 2]}), '')
    pieces = document.pieces
    assert document.meta['answers'] == ['a', '2']
    assert [type(p) for p in pieces] == [Image, Text, Region, State, Video, Video, Generate, Generate, Features]
    assert [p.weight for p in pieces] == [0, 0, 1, 0, 0, 0, 0.5, 1, 0]
    assert pieces[2].boxes == ((0, 0, 0.5, 1),) and pieces[2].image == 0
    assert pieces[3].vector.dtype == np.float32 and pieces[3].vector.tolist() == [1, 2.5]
    assert pieces[4].times == (0, 0.5) and pieces[5].times == (0, 1.5) and len(pieces[4].frames) == 2
    assert pieces[6].target.name == 'it:b.jpg' and pieces[7].target is None


def test_pieces_with_roles_are_a_chat(make_record):
    told = [{'image': 'a.jpg', 'role': 'user'}, {'text': 'hi', 'role': 'assistant'}]
    meta = Pieces().document(make_record({'pieces': told}), '').meta
    assert (meta['format'], meta['roles']) == ('chat', ['user', 'assistant'])
    refused(Pieces(), make_record({'pieces': [*told, {'text': 'x'}]}), 'bad role')


@pytest.mark.parametrize(
    'told, reason',
    [
        ('x', 'no pieces'),
        ([], 'empty document'),
        (['x'], 'unknown piece'),
        ([{}], 'unknown piece'),
        ([{'text': 'a', 'image': 'b.jpg'}], 'unknown piece'),
        ([{'text': 'a', 'wieght': 1}], 'unknown piece'),
        ([{'text': 5}], 'text is no text'),
        ([{'image': 'no.jpg'}], 'missing image'),
        ([{'image': 7}], 'not a picture name'),
        ([{'text': 'a', 'weight': -1}], 'bad number'),
        ([{'text': 'a', 'weight': 'x'}], 'bad number'),
        ([{'region': {'text': 'a', 'boxes': [[0, 0, 1, 1]]}}], 'region without its image'),
        (
            [{'image': 'a.jpg'}, {'region': {'text': 'a', 'boxes': [[0, 0, 1, 1]], 'image': 1}}],
            'region without its image',
        ),
        ([{'image': 'a.jpg'}, {'region': {'boxes': [[1, 0, 0, 1]]}}], 'inverted box'),
        ([{'image': 'a.jpg'}, {'region': 'x'}], 'bad region'),
        ([{'state': 'x'}], 'not numbers'),
        ([{'state': [1, None]}], 'not numbers'),
        ([{'state': [float('nan')]}], 'not numbers'),
        ([{'video': 'film.mp4'}], 'video without frames'),
        ([{'video': []}], 'video without frames'),
        ([{'video': ['a.jpg', 'no.jpg']}], 'missing image'),
        ([{'video': ['a.jpg'], 'times': [0, 1]}], 'bad frame times'),
        ([{'video': ['a.jpg', 'b.jpg'], 'times': [1, 0]}], 'bad frame times'),
        ([{'video': ['a.jpg'], 'fps': 0}], 'bad number'),
    ],
)
def test_piece_refusals(make_record, told, reason):
    refused(Pieces(), make_record({'pieces': told}), reason)


# --- all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'fields, wanted',
    [
        ({'pieces': []}, Pieces), ({'conversations': []}, Chat), ({'texts': [], 'images': []}, Interleaved),
        ({'text_list': [], 'image_info': []}, Mmc4), ({'image': '', 'text': ''}, Pair), ({}, Pair),
    ],
)  # fmt: skip
def test_formats_are_told_by_their_fields(fields, wanted):
    assert isinstance(guess(fields), wanted)


NAMES = [
    'text',
    'image',
    'images',
    'caption',
    'texts',
    'text_list',
    'image_info',
    'conversations',
    'pieces',
    'from',
    'value',
]
NAMES += [
    'region',
    'boxes',
    'state',
    'video',
    'times',
    'fps',
    'weight',
    'role',
    'generate',
    'matched_text_index',
    'image_name',
]
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.sampled_from(['a.jpg', 'no', 'human', 'gpt', '<image>'])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@hypothesis.given(fields=st.dictionaries(st.sampled_from(NAMES), values, max_size=5))
@hypothesis.settings(max_examples=150, deadline=None)
def test_no_json_crashes_a_format(fields):
    fields = json.loads(json.dumps(fields))
    for form in [*(make() for make in FORMATS.values()), Pair(boxes='boxes', labels='value'), Pair(boxes='boxes')]:
        record = Record(fields, 'it', lambda name: None if name == 'no' else b'x', Problems())
        try:
            document = form.document(record, 'weight')
        except BadDocument as error:
            assert error.reason and error.key == 'it'
        else:
            assert document.pieces and document.quality == document.quality
