# SPDX-License-Identifier: Apache-2.0
"""Boxes of every order and unit become the same fractions; impossible ones are refused with a reason."""

import math

import pytest

from mmjax.data.sources.boxes import BadBox, BoxFormat

WANTED = (0.1, 0.2, 0.5, 0.8)


def read(numbers, size=(200, 50), **form):
    return BoxFormat(**form).read(numbers, lambda: (float(size[0]), float(size[1])))


@pytest.mark.parametrize(
    'order, unit, numbers',
    [
        ('xyxy', 'fraction', [0.1, 0.2, 0.5, 0.8]),
        ('yxyx', 'fraction', [0.2, 0.1, 0.8, 0.5]),
        ('xywh', 'fraction', [0.1, 0.2, 0.4, 0.6]),
        ('cxcywh', 'fraction', [0.3, 0.5, 0.4, 0.6]),
        ('xyxy', 'pixels', [20, 10, 100, 40]),
        ('xywh', 'pixels', [20, 10, 80, 30]),
        ('xyxy', 'thousandths', [100, 200, 500, 800]),
    ],
)
def test_orders_and_units(order, unit, numbers):
    box, was_cut = read(numbers, order=order, unit=unit)
    assert box == pytest.approx(WANTED) and not was_cut


@pytest.mark.parametrize(
    'numbers, reason',
    [
        ([0.5, 0.2, 0.1, 0.8], 'inverted box'),
        ([0.1, 0.8, 0.5, 0.2], 'inverted box'),
        ([0.1, 0.2, 0.1, 0.8], 'inverted box'),
        ([1.2, 0.2, 1.5, 0.8], 'box outside the picture'),
        ([-0.5, 0.2, -0.1, 0.8], 'box outside the picture'),
        ([10, 20, 100, 80], 'box outside the picture'),
        ([0.1, math.nan, 0.5, 0.8], 'not a box'),
        ([0.1, 0.2, math.inf, 0.8], 'not a box'),
        ([0.1, 0.2, 0.5], 'not a box'),
        ([0.1, 0.2, 0.5, 'x'], 'not a box'),
        (7, 'not a box'),
    ],
)
def test_impossible_boxes_are_refused(numbers, reason):
    with pytest.raises(BadBox) as caught:
        read(numbers)
    assert caught.value.args[0] == reason


def test_boxes_over_the_edge_are_cut_and_said_so():
    assert read([-0.1, 0.2, 0.5, 1.3]) == ((0.0, 0.2, 0.5, 1.0), True)
    # A fraction of a pixel is no news.
    assert read([-0.001, 0.2, 0.5, 1.0]) == ((0.0, 0.2, 0.5, 1.0), False)


@pytest.mark.parametrize('form', [{'order': 'xyyx'}, {'unit': 'percent'}])
def test_unknown_formats_name_the_known_ones(form):
    with pytest.raises(ValueError, match='known are'):
        BoxFormat(**form).check()
