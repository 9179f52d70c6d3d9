# SPDX-License-Identifier: Apache-2.0
import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data import dialects, templates
from mmjax.data.check import check
from mmjax.data.coordinates import Numbers
from mmjax.data.layout import Layout
from mmjax.data.pipeline import finite
from mmjax.data.tasks import Chat
from mmjax.data.templates import ImageFormat, TextFormat
from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece
from mmjax.document import BadDocument, Document, Generate, Image, Region, State, Text, Video

# A picture of 2 x 2 patches that gives 2 tokens.
SPEC = MediaSpec(height=4, width=4, patch=2, tokens=2, grid=lambda frames, rows, columns: (frames, 2))
CROSS = dataclasses.replace(SPEC, in_sequence=False)
PICTURE = Image(np.zeros((4, 4, 3), np.uint8))
IMAGE, END = 256, 257
DOCUMENT = Document([Text('ab', weight=0.0), PICTURE, Text('c'), PICTURE, Text('d')], key='doc')


def build(spec=SPEC, special=('<image>', '</s>'), **fields):
    return Layout.Config(tokenizer=Bytes.Config(special=special), **fields).build(spec)


def draw(span, keys):
    return [''.join('1' if start <= j < end else '.' for j in range(keys)) for start, end in span.tolist()]


def text(laid, layout):
    return layout.tokenizer.decode(laid.tokens)


def learnt(laid, layout):
    """The tokens that are learnt, as text."""
    return layout.tokenizer.decode(laid.tokens[1:][laid.weight[:-1] > 0])


def test_splice():
    (laid,) = build(text=TextFormat(end='</s>'))(DOCUMENT)
    assert laid.tokens.tolist() == [97, 98, IMAGE, IMAGE, 99, IMAGE, IMAGE, 100, END]
    assert laid.weight.tolist() == [0, 0, 0, 1, 0, 0, 1, 1, 0]
    assert laid.slot.tolist() == [-1, -1, 0, 1, -1, 2, 3, -1, -1]
    assert laid.position.tolist() == list(range(9))
    assert laid.media_size.tolist() == [[1, 2, 2]] * 2 and len(laid.media) == 2
    assert draw(laid.span, 9) == [
        '1........',
        '11.......',
        '111......',
        '1111.....',
        '11111....',
        '111111...',
        '1111111..',
        '11111111.',
        '111111111',
    ]


def test_two_way_pictures_one_position_and_signs():
    image = ImageFormat(before='<b>', after='<a>', row_end='<r>', two_way=True, one_position=True)
    layout = build(special=('<image>', '<b>', '<a>', '<r>'), image=image)
    (laid,) = layout(Document([Text('a'), PICTURE, Text('b')]))
    assert text(laid, layout) == 'a<b><image><image><r><a>b'
    assert laid.slot.tolist() == [-1, -1, 0, 1, -1, -1, -1]
    assert laid.position.tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert draw(laid.span, 7) == ['1......', '11.....', '11111..', '11111..', '11111..', '111111.', '1111111']


def test_experts_and_ends_of_a_picture():
    spec = dataclasses.replace(SPEC, tokens=4, grid=lambda frames, rows, columns: (1, 4), ends=1, experts=True)
    layout = build(spec, image=ImageFormat(one_position=True), max_tokens=14, max_media=2)
    laid = [part for key in 'xy' for part in layout(Document([PICTURE, Text('ab')], key=key))]
    ((batch, _),) = finite(laid, layout, 1)
    check(batch, layout.tokenizer.size, spec)
    assert batch.position[0].tolist() == [0, 1, 1, 2, 3, 4] * 2 + [0, 0]
    assert batch.expert[0].tolist() == [1, 1, 1, 0, 0, 0] * 2 + [0, 0]
    assert batch.slot[0].tolist() == [0, 1, 2, 3, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1]


NATIVE = MediaSpec(
    height=8, width=8, frames=4, patch=2, tokens=8, grid=lambda t, r, c: (-(-t // 2) * r // 2, c // 2),
    varying=True, multiple=2, temporal=2, axes=3, per_second=2.0,
)  # fmt: skip


def test_positions_of_three_axes():
    frame = Image(np.zeros((4, 9, 3), np.uint8))
    video = Video((frame,) * 3, (0.0, 0.5, 1.0))
    layout = build(NATIVE, fit='whole', max_tokens=16, max_media=2)
    ((batch, _),) = finite(layout(Document([frame, Text('ab'), video, Text('c')])), layout, 1)
    check(batch, layout.tokenizer.size, NATIVE)
    assert batch.media_size[0].tolist() == [[1, 2, 4], [3, 2, 4]]
    assert batch.slot[0, :9].tolist() == [0, 1, -1, -1, 8, 9, 10, 11, -1]
    # Two frames are a second, which is two positions.
    assert batch.position[0, :9].T.tolist() == [
        [0, 0, 2, 3, 4, 4, 6, 6, 7],
        [0, 0, 2, 3, 4, 4, 4, 4, 7],
        [0, 1, 2, 3, 4, 5, 4, 5, 7],
    ]
    with pytest.raises(ValueError, match='three axes'):
        build(NATIVE, fit='whole', image=ImageFormat(row_end='<r>'), special=('<image>', '<r>'))


def test_two_way_prompt():
    layout = build(two_way_prompt=True)
    document = Document([PICTURE, Text('q', weight=0.0), Text('xy')])
    (laid,) = layout(document)
    assert draw(laid.span, 5) == ['111..', '111..', '111..', '1111.', '11111']
    question, _ = document.split()
    assert draw(layout.prompt(question).span, 3) == ['111'] * 3


@pytest.mark.parametrize(
    'sees, seen',
    [
        ('last', ['....', '....', '11..', '11..', '..11', '..11']),
        ('all', ['....', '....', '11..', '11..', '1111', '1111']),
        ('next', ['11..', '11..', '11..', '..11', '..11', '....']),
    ],
)
def test_cross_attention(sees, seen):
    (laid,) = build(CROSS, sees=sees)(DOCUMENT)
    assert laid.tokens.tolist() == [97, 98, IMAGE, 99, IMAGE, 100]
    assert laid.weight.tolist() == [0, 0, 1, 0, 1, 0]
    assert laid.slot.tolist() == [-1] * 6
    assert draw(laid.media_span, 4) == seen
    assert draw(laid.span, 6) == ['1.....', '11....', '111...', '1111..', '11111.', '111111']


def test_pictures_of_varying_size():
    spec = dataclasses.replace(SPEC, tokens=4, grid=lambda frames, rows, columns: (rows, columns), varying=True)
    layout = build(spec, fit='inside', image=ImageFormat(row_end='<r>'), special=('<image>', '<r>'))
    wide, tall = (Image(np.zeros((*size, 3), np.uint8)) for size in ((2, 4), (4, 2)))
    (laid,) = layout(Document([wide, tall, Text('a')]))
    assert laid.media_size.tolist() == [[1, 1, 2], [1, 2, 1]]
    assert text(laid, layout) == '<image><image><r><image><r><image><r>a'
    assert laid.slot.tolist() == [0, 1, -1, 4, -1, 5, -1, -1]
    assert layout.decode(wide).shape == (1, 4, 4, 3)


def test_videos():
    video = Video((PICTURE,) * 5, (0.0, 1.0, 2.0, 3.0, 4.0))
    (laid,) = build(dataclasses.replace(SPEC, frames=3, tokens=6))(Document([video, PICTURE, Text('a')]))
    assert laid.media_size.tolist() == [[3, 2, 2], [1, 2, 2]]
    assert laid.slot.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, -1]
    layout = build(dataclasses.replace(SPEC, frames=3, tokens=6))
    assert layout.decode(video).shape == (3, 4, 4, 3)
    # A model of single frames reads them as pictures.
    (laid,) = build()(Document([video, Text('a')]))
    assert len(laid.media) == 5 and laid.slot.max() == 9


def test_states():
    spec = dataclasses.replace(SPEC, state_width=3)
    layout = build(spec, special=('<image>', '<state>'), max_states=2)
    (laid,) = layout(Document([State(np.arange(3.0)), PICTURE, State(np.ones(3)), Text('a')]))
    assert laid.slot.tolist() == [-2, 0, 1, -3, -1]
    assert [s.tolist() for s in laid.states] == [[0, 1, 2], [1, 1, 1]]
    with pytest.raises(BadDocument, match='2 numbers, the model reads 3'):
        layout(Document([State(np.ones(2)), Text('a')]))


def test_users_words_are_never_special():
    layout = build()
    (laid,) = layout(Document([PICTURE, Text('<image></s>')]))
    assert (laid.tokens >= 256).sum() == 2 and text(laid, layout) == '<image><image><image></s>'


def test_chat():
    f = templates.vicuna()
    layout = build(special=f.special_tokens(), image=f.image, text=f.text)
    pieces = [PICTURE, Text('\nWhat?'), Text('A cat.'), Text('Sure?'), Text('Yes.')]
    roles = ['user', 'user', 'assistant', 'user', 'assistant']
    (laid,) = layout(Document(pieces, meta={'roles': roles}))
    whole = text(laid, layout).replace(f.text.system, 'SYSTEM ')
    assert whole == ('<s>SYSTEM USER: <image><image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>')
    assert learnt(laid, layout) == ' A cat.</s> Yes.</s>'
    # Prompts are the beginning of what is trained on, whether the roles name the answer or not.
    for meta in (roles, roles[:4]):
        prompt = layout.prompt(Document(pieces[:4], meta={'roles': meta}))
        assert text(prompt, layout).endswith('</s>USER: Sure? ASSISTANT:')
        assert laid.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    (own,) = layout(Document([Text('Be short.'), *pieces], meta={'roles': ['system', *roles]}))
    assert text(own, layout).startswith('<s>Be short. USER: <image>')
    for meta, reason in ((roles[:2], '2 roles for 5 pieces'), (['user'] * 4 + ['robot'], "'robot', known are user")):
        with pytest.raises(BadDocument, match=reason):
            layout(Document(pieces, meta={'roles': meta}))


@pytest.mark.parametrize(
    'name, spec, whole, learns',
    [
        ('plain', SPEC, '<image><image>Q:A</s>', 'A</s>'),
        ('flamingo', CROSS, '<image>Q:A<|endofchunk|></s>', 'A<|endofchunk|></s>'),
        ('kosmos', SPEC, '<s><image><image><image></image>Q:A</s>', 'A</s>'),
        ('shikra', SPEC, '<s><im_start><im_patch><im_patch><im_end>Q:A</s>', 'A</s>'),
        ('fuyu', SPEC, '|SPEAKER||SPEAKER||NEWLINE|<s>Q:A|ENDOFTEXT|', 'A|ENDOFTEXT|'),
        ('chatml', SPEC, 'Picture 1: <img><imgpad><imgpad></img>\nQ:A', 'A'),
    ],
)
def test_formats_of_documents_without_roles(name, spec, whole, learns):
    f = getattr(templates, name)()
    layout = build(spec, special=f.special_tokens(), image=f.image, text=f.text)
    document = Document([PICTURE, Text('Q:', weight=0.0), Text('A')])
    (laid,) = layout(document)
    assert (text(laid, layout), learnt(laid, layout)) == (whole, learns)
    prompt = layout.prompt(document.split()[0])
    assert laid.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()


@pytest.mark.parametrize(
    'name, whole, learns',
    [
        ('fuyu', '|SPEAKER||SPEAKER||NEWLINE|<s>Q<0x04> A|ENDOFTEXT|', ' A|ENDOFTEXT|'),
        (
            'chatml',
            'SYSTEM<|im_start|>user\nPicture 1: <img><imgpad><imgpad></img>\nQ<|im_end|>\n'
            '<|im_start|>assistant\nA<|im_end|>\n',
            'A<|im_end|>\n',
        ),
    ],
)
def test_formats_of_chats(name, whole, learns):
    f = getattr(templates, name)()
    layout = build(special=f.special_tokens(), image=f.image, text=f.text)
    (laid,) = layout(Document([PICTURE, Text('Q'), Text('A')], meta={'roles': ['user', 'user', 'assistant']}))
    written = text(laid, layout).replace(f.text.system or 'none', 'SYSTEM')
    assert (written, learnt(laid, layout)) == (whole, learns)


@pytest.mark.parametrize('mode', ['ocr', 'md'])
def test_a_mode_is_asked_for_by_its_sign(mode):
    f = templates.kosmos25()
    layout = build(special=f.special_tokens(), image=f.image, text=f.text)
    document = Chat(speaker=mode)(Document([PICTURE, Text('A')]))
    (laid,) = layout(document)
    asked = f'<s><image><s><s></image><{mode}>'
    assert (text(laid, layout), learnt(laid, layout)) == (f'{asked}A</s>', 'A</s>')
    assert text(layout.prompt(document.split()[0]), layout) == asked


def test_chunks_close_before_the_next_picture():
    f = templates.flamingo()
    layout = build(CROSS, special=f.special_tokens(), image=f.image, text=f.text)
    (laid,) = layout(Document([Text('t'), PICTURE, Text('a'), PICTURE, PICTURE, Text('b')]))
    eoc = '<|endofchunk|>'
    assert text(laid, layout) == f't<image>a{eoc}<image>{eoc}<image>b{eoc}</s>'
    # Nothing tells when the next picture comes, so that <image> and an empty chunk's end are not learnt.
    assert learnt(laid, layout) == f'a{eoc}b{eoc}</s>'


@pytest.mark.parametrize(
    'name, whole',
    [
        ('shikra', 'a cat[0.250,0.250,0.500,0.750] sits'),
        ('qwen_vl', '<ref>a cat</ref><box>(250,250),(500,749)</box> sits'),
        ('kosmos_2', '<phrase>a cat</phrase><object><patch_index_0264><patch_index_0751></object> sits'),
        ('paligemma', '<loc0256><loc0256><loc0767><loc0512> a cat sits'),
    ],
)
def test_regions(name, whole):
    codec = getattr(dialects, name)()
    layout = build(special=('<image>', *codec.special_tokens()), coordinates=codec, max_tokens=200)
    box = (0.25, 0.25, 0.5, 0.75)
    (laid,) = layout(Document([PICTURE, Region('a cat', (box,)), Text(' sits')]))
    assert text(laid, layout) == '<image><image>' + whole
    (alone,) = layout(Document([PICTURE, Region('', (box,))]))
    assert text(alone, layout) == '<image><image>' + codec.encode([box])
    (words,) = build()(Document([PICTURE, Region('a cat', (box,)), Text(' sits')]))
    assert text(words, layout) == '<image><image>a cat sits'


def test_boxes_ride_with_the_fit():
    codec = dialects.llava()
    wide = Image(np.zeros((4, 8, 3), np.uint8))
    document = Document(
        [wide, PICTURE, Region('', ((0.0, 0.0, 0.5, 1.0),), image=0), Region('', ((0.0, 0.0, 0.5, 1.0),))]
    )
    layout = build(coordinates=codec, fit='pad', max_tokens=200)
    assert text(layout(document)[0], layout).endswith('[0.00, 0.25, 0.50, 0.75][0.00, 0.00, 0.50, 1.00]')
    layout = build(coordinates=codec, fit='crop', max_tokens=200)
    assert text(layout(document)[0], layout).endswith('[0.00, 0.00, 0.50, 1.00][0.00, 0.00, 0.50, 1.00]')
    outside = Document([wide, Region('gone', ((0.0, 0.0, 0.1, 1.0),))])
    assert text(layout(outside)[0], layout) == '<image><image>gone'
    with pytest.raises(BadDocument, match='picture 3 of 1'):
        layout(Document([wide, Region('x', ((0.0, 0.0, 0.5, 1.0),), image=3)]))


def test_split_repeats_nothing_and_keeps_pictures_whole():
    layout = build(max_tokens=6, max_media=2, text=TextFormat(start='</s>', end='</s>'))
    document = Document([Text('abcdefg'), PICTURE, PICTURE, PICTURE, Text('hij'), PICTURE, Text('k')])
    parts = layout(document)
    assert [text(part, layout) for part in parts] == [
        '</s>abcde',
        'fg<image><image><image><image>',
        '<image><image>hij',
        '<image><image>k</s>',
    ]
    assert [part.slot.max() for part in parts] == [-1, 3, 1, 1]
    assert all(part.position[0] == 0 and part.weight[-1] == 0 for part in parts)
    assert layout.problems.counts == {'too long, split': 1}


def test_split_leaves_out_parts_without_loss():
    layout = build(max_tokens=4)
    parts = layout(Document([PICTURE, PICTURE, Text('ab'), PICTURE]))
    assert [text(part, layout) for part in parts] == ['ab<image><image>']
    assert layout.problems.counts == {'too long, split': 1, 'part with nothing to learn': 1}


def test_regions_are_not_cut():
    layout = build(max_tokens=20, coordinates=dialects.llava())
    region = Region('x', ((0.0, 0.0, 0.5, 0.5),))
    with pytest.raises(BadDocument, match='nothing to learn'):
        layout(Document([PICTURE, region]))
    assert layout.problems.counts['too long, a piece left out'] == 1
    layout = build(max_tokens=27, coordinates=dialects.llava())
    assert [text(part, layout) for part in layout(Document([Text('abc'), region]))] == [
        'abc',
        'x[0.00, 0.00, 0.50, 0.50]',
    ]


def test_truncate_drops_last_pieces():
    layout = build(max_tokens=6, overlong='truncate', text=TextFormat(end='</s>'))
    (laid,) = layout(DOCUMENT)
    assert text(laid, layout) == 'ab<image><image>c'
    assert layout.problems.counts == {'too long, pieces left out': 2}
    with pytest.raises(BadDocument, match=r'too long: needs Shape.tokens=7.*holds Shape.tokens=6'):
        layout(Document([Text('abcdefg')]))
    layout = build(max_tokens=100, max_media=1, overlong='truncate')
    assert text(layout(DOCUMENT)[0], layout) == 'ab<image><image>c'


def test_drop():
    layout = build(max_tokens=6, overlong='drop')
    with pytest.raises(BadDocument, match='too long'):
        layout(DOCUMENT)
    with pytest.raises(BadDocument, match='too long'):
        layout.prompt(DOCUMENT)


@pytest.mark.parametrize(
    'pieces, reason',
    [
        ([Text('abc'), PICTURE], None),
        ([Text('a', weight=0.0), PICTURE], 'nothing to learn'),
        ([Text('a')], 'nothing to learn'),  # the first token is predicted from nowhere
        ([], 'nothing to learn'),
        ([Text('ab'), Generate()], 'a picture to draw'),
    ],
)
def test_degenerate_documents(pieces, reason):
    if reason is None:
        assert build()(Document(pieces))
        return
    with pytest.raises(BadDocument, match=reason):
        build()(Document(pieces))


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(special=('</s>',)), r"no special token '<image>'; add special=\('<image>',\) to its Config"),
        (dict(max_tokens=1), 'a picture takes up to 2 tokens .1 x 2.*a row holds 1; raise layout.max_tokens'),
        (dict(sees='some'), "layout.sees is 'some', known are last, all, next"),
        (dict(overlong='x'), "layout.overlong is 'x', known are split"),
        (dict(spec=CROSS, image=ImageFormat(two_way=True)), 'cross-attention: they have no places'),
        (dict(spec=dataclasses.replace(CROSS, varying=True), sees='all'), 'pictures of one size'),
        (dict(max_states=1, special=('<image>', '<state>')), 'the model reads no states'),
        (
            dict(spec=dataclasses.replace(CROSS, state_width=2), max_states=1, special=('<image>', '<state>')),
            'use Splice',
        ),
        (dict(fit='bend'), "mode is 'bend'"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_model_without_pictures():
    layout = build(MediaSpec(), special=('</s>',), text=TextFormat(end='</s>'))
    assert text(layout(Document([Text('ab')]))[0], layout) == 'ab</s>'
    with pytest.raises(BadDocument, match='picture: the model reads none'):
        layout(DOCUMENT)


@pytest.mark.parametrize('kind', ['byte_level', 'metaspace', 'sentencepiece'])
def test_prompts_begin_what_is_trained_on_with_any_tokenizer(kind, tokenizer_files):
    f = templates.vicuna()
    config = {
        'byte_level': HuggingFace.Config(path=str(tokenizer_files / 'bytes')),
        'metaspace': HuggingFace.Config(path=str(tokenizer_files / 'metaspace.json')),
        'sentencepiece': SentencePiece.Config(path=str(tokenizer_files / 'words.model')),
    }[kind]
    config.special = f.special_tokens()
    layout = Layout.Config(tokenizer=config, image=f.image, text=f.text, max_tokens=400).build(SPEC)
    pieces = [PICTURE, Text('\nwhere is the cat?'), Text('the mat'), Text('where?'), Text('here')]
    roles = ['user', 'user', 'assistant', 'user', 'assistant']
    (laid,) = layout(Document(pieces, meta={'roles': roles}))
    prompt = layout.prompt(Document(pieces[:4], meta={'roles': roles}))
    assert laid.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    answer = laid.tokens[len(prompt.tokens) : -1]
    assert layout.tokenizer.decode(answer).strip() == 'here'
    # Learnt are the words with the space before them, and the end; nothing of the format.
    assert learnt(laid, layout).replace(' ', '') == 'themat</s>here</s>'


@st.composite
def documents(draw):
    pieces = draw(
        st.lists(
            st.one_of(
                st.builds(Text, st.text('abc', max_size=9), st.sampled_from([0.0, 0.5, 1.0])),
                st.just(PICTURE),
                st.builds(Region, st.text('xyz', max_size=2), st.just(((0.0, 0.0, 0.5, 0.5),))),
            ),
            max_size=9,
        )
    )
    return Document(pieces, key='drawn')


@pytest.mark.parametrize('spec', [SPEC, CROSS], ids=['splice', 'cross-attention'])
@hypothesis.settings(deadline=None, database=None, max_examples=40)
@hypothesis.given(document=documents(), max_tokens=st.integers(14, 40), max_media=st.integers(1, 3))
def test_whatever_the_document(spec, document, max_tokens, max_media):
    """Parts of a split document hold what the whole holds, in order; every batch of them is sound."""
    codec = Numbers(box='[{x0}{y0}{x1}{y1}]', steps=9, last=9)
    fields = dict(coordinates=codec, text=TextFormat(start='</s>', chunk_end='</s>', end='</s>'))
    whole = build(spec, max_tokens=999, max_media=9, **fields)
    parts = build(spec, max_tokens=max_tokens, max_media=max_media, **fields)
    try:
        (expected,) = whole(document)
    except BadDocument:
        with pytest.raises(BadDocument):
            parts(document)
        return
    try:
        laid = parts(document)
    except BadDocument as error:
        assert error.reason == 'nothing to learn' and parts.problems.counts['too long, split']
        return
    if not parts.problems.counts['part with nothing to learn']:
        assert np.concatenate([part.tokens for part in laid]).tolist() == expected.tokens.tolist()
        assert sum(len(part.media) for part in laid) == len(expected.media)
        # Each cut takes the weight of the one token that is then predicted from nowhere.
        assert sum(part.weight.sum() for part in laid) >= expected.weight.sum() - len(laid) + 1
    for batch, info in finite(laid, parts, 2):
        check(batch, 258, spec, info.keys)


APART = dataclasses.replace(CROSS, tokens=1, grid=lambda frames, rows, columns: (1, 1), apart=True)


def test_pictures_apart_take_no_places():
    layout = build(APART, special=('</s>',), text=TextFormat(end='</s>'), max_media=2)
    (laid,) = layout(DOCUMENT)
    assert text(laid, layout) == 'abcd</s>' and len(laid.media) == 2 and laid.media_size.tolist() == [[1, 2, 2]] * 2
    (batch, _), *_ = finite([laid], layout, 1)
    check(batch, layout.tokenizer.size, APART)


def test_a_model_of_pictures_alone_learns_from_pictures_without_words():
    layout = build(dataclasses.replace(APART, text=False), special=(), max_tokens=1, max_media=3)
    laid = [layout(document)[0] for document in (DOCUMENT, Document([PICTURE], key='bare'))]
    assert [len(one.media) for one in laid] == [2, 1] and not any(len(one.tokens) for one in laid)
    (batch, _), *_ = finite(laid, layout, 1)
    assert batch.media_size[0, :, 0].tolist() == [1, 1, 1]
    with pytest.raises(BadDocument, match='nothing to learn'):
        layout(Document([Text('words')], key='words'))


@pytest.mark.parametrize('length, written', [(5, 'abcd</s>'), (4, 'abc</s>'), (2, 'a</s>')])
def test_words_are_cut_in_front_of_the_end(length, written):
    layout = build(APART, special=('</s>',), text=TextFormat(end='</s>'), max_tokens=length, overlong='cut')
    (laid,) = layout(Document([PICTURE, Text('abcd')], key='doc'))
    assert text(laid, layout) == written and len(laid.media) == 1


def test_cutting_words_never_cuts_a_picture():
    layout = build(max_tokens=4, overlong='cut')
    (laid,) = layout(Document([Text('a'), PICTURE, Text('bc')], key='doc'))
    assert laid.tokens.tolist() == [97, IMAGE, IMAGE, 98]
    with pytest.raises(BadDocument, match='too long'):
        layout(Document([PICTURE, PICTURE, PICTURE], key='doc'))
