# SPDX-License-Identifier: Apache-2.0
"""In every dialect: any walk through the tables writes one valid box, and every box can be written."""

import functools
import re

import jax
import numpy as np
import pytest

from mmjax.data import dialects
from mmjax.data.coordinates import Cells, Numbers
from mmjax.data.tokenizer import Bytes
from mmjax.decode import generate
from mmjax.decode.boxes import one_box
from mmjax.decode.sampling import Decoding

SIZE = (64, 48)
CODECS = {
    'shikra': dialects.shikra(),
    'llava': dialects.llava(),
    'qwen': dialects.qwen_vl(),
    'fuyu': dialects.fuyu(),
    'kosmos': Cells(side=6),
    'kosmos_2_5': dialects.kosmos_2_5(),
    'florence': Numbers(bins=True, steps=20, last=19, box='<loc_{x0}><loc_{y0}><loc_{x1}><loc_{y1}>'),
    'paligemma': Numbers(
        steps=30, last=30, digits=4, box='<loc{y0}><loc{x0}><loc{y1}><loc{x1}>', region='{boxes} {words}'
    ),
}


@functools.cache
def built(name):
    codec = CODECS[name]
    tokenizer = Bytes.Config(special=('<eos>', *codec.special_tokens())).build()
    tables, longest = one_box(codec, tokenizer, SIZE)
    return codec, tokenizer, [jax.tree.map(np.asarray, table) for table in tables], longest


@pytest.mark.parametrize('name', CODECS)
def test_any_walk_is_a_box(name):
    codec, tokenizer, tables, longest = built(name)
    rng = np.random.default_rng(0)
    for _ in range(40):
        states, written = [0] * len(tables), []
        while not all(table.ends[state] for table, state in zip(tables, states, strict=True)):
            open_to = np.all(
                [table.move[state][table.kind] >= 0 for table, state in zip(tables, states, strict=True)], 0
            )
            token = int(rng.choice(np.flatnonzero(open_to)))
            states = [int(table.move[state, table.kind[token]]) for table, state in zip(tables, states, strict=True)]
            written.append(token)
        text = tokenizer.decode(written)
        assert re.fullmatch(codec.pattern, text) and len(codec.decode(text, SIZE)) == 1, text
        assert tokenizer.encode(text) == written and len(written) <= longest


@pytest.mark.parametrize('name', CODECS)
def test_every_box_can_be_written(name):
    codec, tokenizer, tables, _ = built(name)
    rng = np.random.default_rng(1)
    for _ in range(40):
        (x0, x1), (y0, y1) = np.sort(rng.random((2, 2)), axis=1)
        box = (x0, y0, x1, y1)
        for table in tables:
            state = 0
            for token in tokenizer.encode(codec.encode([box], SIZE)):
                state = int(table.move[state, table.kind[token]])
                assert state >= 0, codec.encode([box], SIZE)
            assert table.ends[state]


@pytest.mark.parametrize('name', ['llava', 'kosmos'])
def test_written_by_a_model(toy, name):
    model, prompts, rules = toy
    codec, tokenizer, tables, longest = built(name)
    width = tokenizer.size + 3
    written = generate.sample(
        model(np.random.default_rng(0).normal(size=(width,) * 3).astype(np.float32)),
        prompts([[1, 2], [3, 4], [5, 6]], 2),
        rules(tokenizer.size, [256], only=tuple(tables)),
        jax.random.key(0),
        Decoding(max_new_tokens=longest, temperature=3.0),
    )
    for row, n in zip(np.asarray(written.tokens), np.asarray(written.length), strict=True):
        assert len(codec.decode(tokenizer.decode(row[:n].tolist()), SIZE)) == 1
