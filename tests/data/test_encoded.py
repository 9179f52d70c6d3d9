# SPDX-License-Identifier: Apache-2.0
"""Rows of an encoder-decoder: what stands before the last answer is input, and the answer output."""

import dataclasses

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data import templates
from mmjax.data.check import BadBatch, check
from mmjax.data.layout import Layout
from mmjax.data.pipeline import finite
from mmjax.data.templates import TextFormat, Turn
from mmjax.data.tokenizer import Bytes
from mmjax.document import BadDocument, Document, Image, State, Text

# A picture of 2 x 2 patches that gives 2 tokens.
SPEC = MediaSpec(height=4, width=4, patch=2, tokens=2, grid=lambda frames, rows, columns: (frames, 2), encodes=True)
PICTURE = Image(np.zeros((4, 4, 3), np.uint8))
FORM = templates.t5()
ASK = Text('q', weight=0.0)


def build(spec=SPEC, **fields):
    fields = dict(image=FORM.image, text=FORM.text, max_tokens=24, max_media=2, overlong='cut') | fields
    return Layout.Config(tokenizer=Bytes.Config(special=FORM.special_tokens()), **fields).build(spec)


def written(laid, layout):
    """The tokens, with a bar where the output begins."""
    decode, first = layout.tokenizer.decode, int((laid.media_span[:, 1] == 0).sum())
    return f'{decode(laid.tokens[:first])}|{decode(laid.tokens[first:])}'


def test_rows():
    layout = build()
    parts = [part for key in 'xy' for part in layout(Document([PICTURE, ASK, Text('ab')], key=key))]
    one = parts[0]
    assert written(one, layout) == '<image><image>q</s>|<pad>ab</s>'
    assert one.weight.tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert one.slot.tolist() == [0, 1, -1, -1, -1, -1, -1, -1]
    ((batch, _),) = finite(parts, layout, 1)
    check(batch, layout.tokenizer.size, SPEC)
    assert batch.span[0].tolist() == [
        *[[0, 4]] * 4, *[[4, 5 + i] for i in range(4)], *[[8, 12]] * 4, *[[12, 13 + i] for i in range(4)], *[[0, 0]] * 8
    ]  # fmt: skip
    assert batch.media_span[0].tolist() == [*[[0, 0]] * 4, *[[0, 4]] * 4, *[[0, 0]] * 4, *[[8, 12]] * 4, *[[0, 0]] * 8]
    assert batch.position[0].tolist() == [*range(4), *range(4)] * 2 + [0] * 8
    assert batch.slot[0, 8:10].tolist() == [2, 3]
    batch.media_span[0, 13, 1] = 13
    with pytest.raises(BadBatch, match=r'media_span \[8, 13\] of a row; an output looks at an input'):
        check(batch, layout.tokenizer.size, SPEC)


def test_without_pictures():
    layout = build(MediaSpec(encodes=True))
    ((batch, _),) = finite(layout(Document([ASK, Text('a')])), layout, 1)
    check(batch, layout.tokenizer.size, layout.spec)
    assert batch.slot is None and batch.media_span[0, 2].tolist() == [0, 2]


CHAT = dataclasses.replace(FORM.text, user=Turn(before='U:'), assistant=Turn(before='A:', lead=' ', weight=1.0))
TALK = [ASK, Text('a'), Text('r', weight=0.0), PICTURE, Text('b'), Text('c')]
ROLES = {'roles': ['user', 'assistant', 'user', 'user', 'assistant', 'assistant']}


@pytest.mark.parametrize(
    'pieces, meta, text, row',
    [
        (TALK, {}, FORM.text, 'qar<image><image></s>|<pad>bc</s>'),
        (TALK, ROLES, CHAT, 'U:qA: aU:r<image><image>A:</s>|<pad> bc</s>'),
        ([PICTURE, Text('a')], {}, FORM.text, '<image><image></s>|<pad>a</s>'),
        ([Text('a'), PICTURE, Text('b'), ASK], {}, FORM.text, 'a<image><image></s>|<pad>bq</s>'),
    ],
    ids=['earlier answers are read', 'turns', 'nothing asked', 'words behind the answer'],
)
def test_the_last_learnt_words_are_the_output(pieces, meta, text, row):
    layout = build(text=text)
    (laid,) = layout(Document(pieces, meta=meta))
    assert written(laid, layout) == row
    first = laid.tokens.tolist().index(layout.tokenizer.id('<pad>'))
    assert not laid.weight[:first].any() and laid.weight[first] == 1


def test_a_prompt_begins_what_is_trained_on():
    layout = build(text=CHAT)
    (laid,), prompt = layout(Document(TALK[:5], meta=ROLES)), layout.prompt(Document(TALK[:4], meta=ROLES))
    n = len(prompt.tokens)
    assert layout.tokenizer.decode(laid.tokens[n:]) == ' b</s>'
    for name in ('tokens', 'span', 'media_span', 'position', 'slot'):
        assert getattr(laid, name)[:n].tolist() == getattr(prompt, name).tolist(), name


@pytest.mark.parametrize(
    'pieces, reason',
    [
        ([ASK, Text('a'), PICTURE], 'a picture behind the answer'),
        ([ASK, Text('a'), State(np.zeros(2))], 'a picture behind the answer'),
        ([PICTURE, ASK], 'nothing to learn'),
        ([PICTURE, Text('q' * 22, weight=0.0), Text('a')], 'too long'),
    ],
)
def test_documents_without_an_answer_or_room_for_one(pieces, reason):
    with pytest.raises(BadDocument, match=reason):
        build()(Document(pieces))


def test_the_answers_words_are_cut_first():
    layout = build(max_tokens=8)
    (laid,) = layout(Document([PICTURE, ASK, Text('abcdef')]))
    assert written(laid, layout) == '<image><image>q</s>|<pad>ab</s>'


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(text=TextFormat(end='</s>')), "output_start is '': .* this one has one; .*templates.t5"),
        (dict(spec=dataclasses.replace(SPEC, encodes=False)), "output_start is '<pad>': .* none; .*templates.plain"),
        (dict(overlong='split'), "overlong is 'split', but an answer cannot be parted"),
        (dict(two_way_prompt=True), 'an encoder sees its whole input both ways'),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**fields)
