# SPDX-License-Identifier: Apache-2.0
"""Charts stand on round numbers and draw what they are given."""

import pytest

from mmjax.report import chart

TICKS = [
    (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
    (0.13, 0.41, [0.2, 0.3, 0.4]),
    (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]),
    (10.0, 4_000.0, [1000, 2000, 3000, 4000]),
]
LINES = [[(0.0, 1.0), (1.0, 1.0)], [(5.0, 2.0), (6.0, 3.0)], [(float(i), 9.0 / (i + 1)) for i in range(300)]]


@pytest.mark.parametrize('low, high, expected', TICKS)
def test_ticks(low, high, expected):
    assert chart.Scale(low, high, 0.0, 1.0).ticks() == pytest.approx(expected)


@pytest.mark.parametrize('value, text', [(12_000.0, '12k'), (0.05, '0.05'), (3.0, '3'), (2500.0, '2.5k')])
def test_label(value, text):
    assert chart.label(value) == text


@pytest.mark.parametrize('points', LINES, ids=len)
def test_draws(points):
    drawn = chart.svg({'loss': points}, 'Loss & more')
    assert drawn.count('<polyline') == 2 and 'nan' not in drawn and 'Loss &amp; more' in drawn
    assert chart.png({'loss': points}, 'Loss').size == (2 * chart.WIDTH, 2 * (chart.HEIGHT + 24))


def test_smooth_keeps_the_mean():
    calm = chart.smooth([(float(i), float(i % 2)) for i in range(100)])
    assert len(calm) == 100 and all(abs(y - 0.5) < 0.2 for _, y in calm[20:80])
