# SPDX-License-Identifier: Apache-2.0
"""The byte tables accept what Python's own regular expressions accept."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.decode import regex


def accepts(dfa: regex.Dfa, text: str) -> bool:
    state = 0
    for byte in text.encode():
        state = dfa.move[state, byte]
        if state < 0:
            return False
    return bool(dfa.ends[state])


PATTERNS = [
    r'(<patch_index_\d{4}>){2}',
    r'\[0\.\d{3}(,0\.\d{3}){3}\]',
    r'<box>\(\d{1,3},\d{1,3}\),\(\d{1,3},\d{1,3}\)</box>',
    r'a*b+c?',
    r'(ab|a)(bc|c){0,2}',
    r'[^a-c\]]x|[a\-c]|é+',
    r'(?:a|(?P<n>b))*\n?',
    r'a{2,}|b{0}c',
    r'.[.\w]\x41',
    r'[\x61-\x63]{1,2}?',
    '',
]


@pytest.mark.parametrize('pattern', PATTERNS)
def test_same_as_re(pattern):
    dfa = regex.compile_dfa(regex.parse(pattern))

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.one_of(st.from_regex(pattern, fullmatch=True), st.text('abcxAé.0<>(),\n]-', max_size=6)))
    def check(text):
        if all(ord(c) < 128 or c in 'é' for c in text) and not ('é' in text and ('.' in pattern or '^' in pattern)):
            assert accepts(dfa, text) == bool(re.fullmatch(pattern, text, re.ASCII)), text

    check()


@pytest.mark.parametrize('pattern', ['(', 'a)', '[ab', 'a{x}', '*a', r'\q', '(?=a)', '^a$', '[é]'])
def test_refuses(pattern):
    with pytest.raises(ValueError, match='pattern'):
        regex.parse(pattern)


def test_few_states():
    many = '|'.join(f'<loc{i:02d}>' for i in range(40))
    assert len(regex.compile_dfa(regex.parse(f'({many}){{4}}')).ends) < 80
    assert len(regex.compile_dfa(regex.parse(r'\d{1,3}(,\d{1,3}){3}')).ends) == 16
