# SPDX-License-Identifier: Apache-2.0
"""Grounding: how well predicted boxes cover the true ones. Boxes are fractions of the picture."""

from collections.abc import Sequence

from mmjax.document import Box


def iou(a: Box, b: Box) -> float:
    """Returns the area that two boxes share as a part of the area that they cover together."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return width * height / (area(a) + area(b) - width * height)


def mean_iou(found: Sequence[Box], true: Sequence[Box]) -> float:
    """Returns the mean IoU of true boxes, each with the found box that is paired to it; the surplus of either counts 0.

    Pairs are made from the best down, so that the order in which boxes are written does not matter.
    """
    pairs = sorted(((iou(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(true)), reverse=True)
    used_found, used_true, total = set(), set(), 0.0
    for value, i, j in pairs:
        if i not in used_found and j not in used_true:
            used_found.add(i)
            used_true.add(j)
            total += value
    return total / max(len(found), len(true), 1)
