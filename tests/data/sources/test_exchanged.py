# SPDX-License-Identifier: Apache-2.0
"""Every picture goes to another document, and nothing else changes."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmjax.data.sources.digits import Digits
from mmjax.data.sources.exchanged import Exchanged, exchange
from mmjax.document import Document, Image, Text


def document(number: int, count: int) -> Document:
    """Returns a document of words with `count` pictures between them, which know where they come from."""
    pieces = [Text(f'{number}')]
    for i in range(count):
        pieces += [Image(b'', name=f'{number}:{i}', weight=i / 4), Text(f'after {i}')]
    return Document(pieces, key=f'd:{number}')


def names(documents: list[Document]) -> list[list[str]]:
    return [[piece.name for piece in d.pieces if isinstance(piece, Image)] for d in documents]


@given(counts=st.lists(st.integers(0, 6), max_size=12), seed=st.integers(0, 99))
def test_no_picture_stays_and_none_is_lost(counts, seed):
    assume(2 * max(counts, default=0) <= sum(counts))
    before = [document(i, count) for i, count in enumerate(counts)]
    after = exchange(before, np.random.default_rng(seed))
    assert sorted(chain(*names(before))) == sorted(chain(*names(after)))
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        assert not any(name.startswith(f'{i}:') for name in names([new])[0])
        plain = lambda d: [dataclasses.replace(p, name='') if isinstance(p, Image) else p for p in d.pieces]
        assert plain(old) == plain(new) and old.key == new.key


def test_most_pictures_in_one_document():
    with pytest.raises(ValueError, match='3 of 5 pictures are in one document'):
        exchange([document(0, 3), document(1, 2)], np.random.default_rng(0))


def test_a_source_with_exchanged_pictures():
    config = Digits.Config(task='caption', count=6)
    true, source = config.build(), Exchanged.Config(source=config).build()
    assert len(source) == 6
    for i in range(6):
        assert source[i].key == true[i].key and source[i].pieces[1:] == true[i].pieces[1:]
        assert not np.array_equal(source[i].pieces[0].pixels, true[i].pieces[0].pixels)
