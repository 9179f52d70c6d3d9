# SPDX-License-Identifier: Apache-2.0
"""Boxes overlap as drawn."""

import pytest

from mmjax.evals.grounding import iou, mean_iou

UNIT = (0.0, 0.0, 1.0, 1.0)
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    'a, b, expected',
    [
        (UNIT, UNIT, 1.0),
        (UNIT, LEFT, 0.5),
        (LEFT, RIGHT, 0.0),
        ((0.0, 0.0, 0.2, 0.2), (0.1, 0.1, 0.3, 0.3), 0.01 / 0.07),
        (LEFT, (0.25, 0.0, 0.75, 1.0), 1 / 3),
    ],
)
def test_iou(a, b, expected):
    assert iou(a, b) == iou(b, a) == pytest.approx(expected)


@pytest.mark.parametrize(
    'found, true, expected',
    [
        ([RIGHT, LEFT], [LEFT, RIGHT], 1.0),
        ([], [LEFT], 0.0),
        ([LEFT], [LEFT, RIGHT], 0.5),
        ([LEFT, LEFT], [LEFT], 0.5),
    ],
)
def test_mean_iou(found, true, expected):
    assert mean_iou(found, true) == expected
