# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmjax.data import masks


def draw(span, keys):
    return [''.join('1' if start <= j < end else '.' for j in range(keys)) for start, end in span.tolist()]


def test_causal():
    assert draw(masks.causal(4), 4) == ['1...', '11..', '111.', '1111']
    assert masks.causal(0).shape == (0, 2)


def test_two_way_pictures_never_see_later_ones():
    span = masks.two_way(masks.causal(6), np.array([[1, 3], [4, 6]]))
    assert draw(span, 6) == ['1.....', '111...', '111...', '1111..', '111111', '111111']


def test_two_way_prompt():
    assert draw(masks.two_way_prompt(masks.causal(5), 3), 5) == ['111..', '111..', '111..', '1111.', '11111']


@pytest.mark.parametrize(
    'sees, rows',
    [
        ('last', ['......', '11....', '11....', '...1..', '...1..']),
        ('all', ['......', '11....', '11....', '1111..', '1111..']),
        ('next', ['11....', '11....', '...1..', '...1..', '......']),
    ],
)
def test_media_of_different_sizes(sees, rows):
    # Medium 0 has two of its three tokens, medium 1 one; 'all' over such media is refused by the layout.
    span = masks.media(5, np.array([1, 3]), np.array([2, 1]), 3, sees)
    assert draw(span, 6) == rows


def test_no_media():
    for sees in masks.POLICIES:
        assert not masks.media(3, np.zeros(0, int), np.zeros(0, int), 2, sees).any()
    with pytest.raises(ValueError, match='known are last, all, next'):
        masks.media(3, np.zeros(0, int), np.zeros(0, int), 2, 'previous')
