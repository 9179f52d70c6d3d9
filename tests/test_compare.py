# SPDX-License-Identifier: Apache-2.0
"""Recall of a model whose vectors are known: it finds what it should, the control does not."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax import compare
from mmjax.batch import MediaSpec
from mmjax.config import ConfigError, Eval
from mmjax.data.layout import Layout
from mmjax.document import Document, Image, Text

SPEC = MediaSpec(
    height=4, width=4, patch=2, tokens=1, grid=lambda frames, rows, columns: (1, 1), in_sequence=False, apart=True
)
LAYOUT = Layout.Config(max_tokens=8, max_media=1).build(SPEC)
EVAL = Eval('pairs', None, metric='retrieval')


class Shades(nnx.Module):
    """A picture's vector is its shade, a text's the shade that its first letter names."""

    def vectors(self, batch):
        there = (batch.media_size[:, 0, 0] > 0) & (batch.span[:, 0, 1] > 0)
        of = lambda number: jax.nn.one_hot(number, 26)
        return of(batch.pixels[:, 0, 0, 0, 0, 0] // 9), of(batch.tokens[:, 0] - ord('a')), there


def pair(letter, key='', pixels=None):
    shade = np.full((4, 4, 3), 9 * (ord(letter) - ord('a')), np.uint8)
    return Document([Image(shade if pixels is None else pixels), Text(letter)], key=key or letter)


def test_every_picture_finds_its_text_and_no_other_ones():
    documents = [pair(letter, key=f'{letter}{i}') for i in range(2) for letter in 'abcdefg']
    found = compare.measure(EVAL, documents, LAYOUT, Shades(), Counter())
    assert found.figures['pairs_text_at_1'] == found.figures['pairs_image_at_1'] == 1.0
    assert found.figures['blind_pairs_text_at_1'] < 0.5
    assert found.detail['texts'] == 7 and found.detail['documents'] == 14
    assert [p['answer'] for p in found.predictions] == [p['expected'] for p in found.predictions]


def test_what_is_no_pair_is_left_out_and_counted():
    dropped = Counter()
    documents = [pair('a'), pair('b'), Document([Text('c')], key='bare'), pair('d', pixels=b'no picture')]
    found = compare.measure(EVAL, documents, LAYOUT, Shades(), dropped)
    assert [p['key'] for p in found.predictions] == ['a', 'b'] and sum(dropped.values()) == 2
    with pytest.raises(ConfigError, match='1 pairs of'):
        compare.measure(EVAL, documents[1:], LAYOUT, Shades(), Counter())


def test_a_model_without_vectors_is_refused():
    with pytest.raises(ConfigError, match='vectors'):
        compare.measure(EVAL, [pair('a'), pair('b')], LAYOUT, jnp.zeros(()), Counter())
