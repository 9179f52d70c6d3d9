# SPDX-License-Identifier: Apache-2.0
"""Whatever the logits, a constrained answer matches its pattern, and special tokens are written whole."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.decode import generate
from mmjax.decode.automaton import only, until
from mmjax.decode.sampling import Decoding

WORDS = [
    '<box>',
    '</box>',
    *(f'<loc{i:02d}>' for i in range(12)),
    '<',
    'b',
    'box',
    '>',
    'loc',
    '/',
    '(',
    ')',
    ',',
    '.',
    '[',
    ']',
]
WORDS += [*'0123456789', '12', '00', '],', '0.', '), (', 'cat', ' ', ', ']
SPELLING = [None, *(word.encode() for word in WORDS)]  # token 0 ends
SPECIAL = set(range(1, 15))
V = 64  # wider than the vocabulary, as a padded head is
PATTERNS = [
    r'<box>(<loc\d{2}>){4}</box>',
    r'\[0\.\d{3}(, ?0\.\d{3}){3}\](,\[0\.\d{3}(, 0\.\d{3}){3}\])?',
    r'\(\d{1,3},\d{1,3}\), \(\d{1,3},\d{1,3}\)',
    r'<box>\d\d?(,\d\d?){3}</box>',
]
TABLES = [only(pattern, SPELLING, SPECIAL) for pattern in PATTERNS]


@pytest.mark.parametrize('pattern, table', zip(PATTERNS, TABLES, strict=True))
def test_always_matches(toy, pattern, table):
    model, prompts, rules = toy
    rule = rules(V, [0], only=(table,))

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 30.0]), st.sampled_from([0.0, 1.0]))
    def check(seed, scale, temperature):
        rng = np.random.default_rng(seed)
        logits = (rng.normal(size=(V, V, V)) * scale).astype(np.float32)
        logits[rng.random(logits.shape) < 0.2] = -np.inf
        logits[:, :, 0] = -50  # would never end by itself
        least = int(table.left[0])
        how = Decoding(max_new_tokens=least + 3, temperature=temperature)
        written = generate.sample(model(logits), prompts([[1, 2], [3]], 4), rule, jax.random.key(seed), how)
        for row, n in zip(np.asarray(written.tokens), np.asarray(written.length), strict=True):
            text = b''.join(SPELLING[i] for i in row[:n]).decode()
            assert re.fullmatch(pattern, text), text

    check()


def test_special_tokens_are_written_whole():
    table = TABLES[0]
    allowed = np.asarray(table.allowed(jnp.array([0]), jnp.int32(20)))[0]
    assert [WORDS[i - 1] for i in np.flatnonzero(allowed)] == ['<box>']
    after = table.advance(jnp.array([0]), jnp.array([1]))
    allowed = np.asarray(table.allowed(after, jnp.int32(20)))[0]
    assert set(np.flatnonzero(allowed)) == set(range(3, 15))


def test_large_vocabulary_is_small():
    locations = [f'<loc{i:04d}>'.encode() for i in range(1024)]
    words = [f'w{i}'.encode() for i in range(20_000)]
    spelling = [*words, *locations]
    table = only(r'(<loc\d{4}>){4}', spelling, range(20_000, 21_024))
    assert table.move.shape[0] <= 40 and table.move.shape[1] <= 3 and table.left[0] == 4


def test_budget_forbids_what_cannot_be_finished():
    table = only('a|ab+c', [b'a', b'b', b'c'], ())
    start = jnp.array([0])
    after = table.advance(start, jnp.array([0]))
    assert np.asarray(table.allowed(after, jnp.int32(1)))[0].tolist() == [False, True, False]
    assert not np.asarray(table.allowed(after, jnp.int32(0))).any()


def test_stop_strings_cross_tokens():
    table = until(['\n\n', 'END'], [None, b'x\n', b'\ny', b'E', b'ND', b'a\n\nb'])

    def found(*tokens):
        state = jnp.array([0])
        for token in tokens:
            state = table.advance(state, jnp.array([token]))
        return bool(table.whole(state)[0])

    assert found(1, 2) and found(3, 4) and found(5) and found(3, 0, 4)
    assert not found(3, 3) and not found(2, 1) and not found(4)


def test_refuses_a_vocabulary_that_cannot_write_it():
    with pytest.raises(ValueError, match='special tokens'):
        only('<loc00>', [b'a'], ())
