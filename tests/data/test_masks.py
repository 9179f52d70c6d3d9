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


def test_input_and_output():
    span, looks, position = masks.input_output(5, 2)
    assert draw(span, 5) == ['11...', '11...', '..1..', '..11.', '..111']
    assert draw(looks, 5) == ['.....', '.....', '11...', '11...', '11...'] and position.tolist() == [0, 1, 0, 1, 2]


def test_positions_of_rows_and_columns():
    found = masks.grid_positions(
        11, np.array([[1, 7], [8, 10]]), np.array([[1, 3], [2, 1]]), [np.array([0, 5]), np.array([0])]
    )
    assert found[:, 0].tolist() == [0, 1, 1, 1, 6, 6, 6, 7, 8, 8, 10]
    assert found[:, 1].tolist() == [0, 1, 1, 1, 1, 1, 1, 7, 8, 9, 10]
    assert found[:, 2].tolist() == [0, 1, 2, 3, 1, 2, 3, 7, 8, 8, 10]


def test_experts_read_media_but_the_last_token_of_each():
    slot = np.array([-1, 0, 1, 2, -1, 5, -1, 6, 7])
    assert masks.experts(slot).tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 0]
    assert masks.experts(slot[:0]).shape == (0,)


@pytest.mark.parametrize(
    'ends, shared, expected',
    [(0, False, [0, 1, 2, 3, 4, 5, 6]), (0, True, [0, 1, 1, 1, 1, 1, 2]), (1, True, [0, 1, 2, 2, 2, 3, 4])],
)
def test_positions_of_a_picture(ends, shared, expected):
    assert masks.positions(7, np.array([[1, 6]]), ends, shared=shared).tolist() == expected


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
