# SPDX-License-Identifier: Apache-2.0
"""Boxes as data sets write them, turned into fractions x0, y0, x1, y1 of the picture, or refused."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from mmjax.document import Box

ORDERS = ('xyxy', 'xywh', 'cxcywh', 'yxyx')
UNITS = {'fraction': 1.0, 'thousandths': 1000.0, 'pixels': 0.0}
# Annotators round to whole pixels; less than this beyond the edge is cut off and not worth a report.
TOLERANCE = 0.005


class BadBox(Exception):
    """A box that means nothing; `args` are (reason, detail)."""


@dataclasses.dataclass(kw_only=True)
class BoxFormat:
    """How four numbers say a box: their order, and what they are measured in."""

    order: str = 'xyxy'  # xyxy, xywh, cxcywh, yxyx
    unit: str = 'fraction'  # fraction, pixels, thousandths

    def check(self) -> None:
        """Raises ValueError when order or unit is unknown."""
        for name, value, known in (('order', self.order, ORDERS), ('unit', self.unit, tuple(UNITS))):
            if value not in known:
                raise ValueError(f'boxes: {name} is {value!r}, known are {", ".join(known)}')

    def read(self, numbers: Any, size: Callable[[], tuple[float, float]]) -> tuple[Box, bool]:
        """Returns (the box as fractions, whether it was cut at the edge); `size` is asked for pixels only."""
        try:
            a, b, c, d = (float(n) for n in numbers)
        except (TypeError, ValueError):
            raise BadBox('not a box', f'{numbers!r}, expected four numbers') from None
        if self.order == 'xywh':
            c, d = a + c, b + d
        elif self.order == 'cxcywh':
            a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        elif self.order == 'yxyx':
            a, b, c, d = b, a, d, c
        width, height = size() if self.unit == 'pixels' else (UNITS[self.unit],) * 2
        return cut((a / width, b / height, c / width, d / height), numbers)


def cut(box: Box, told: Any) -> tuple[Box, bool]:
    """Returns (the part of the box inside the picture, whether that is less than all of it); raises BadBox."""
    if not all(math.isfinite(v) for v in box):
        raise BadBox('not a box', f'{list(told)} is not finite')
    if box[0] >= box[2] or box[1] >= box[3]:
        raise BadBox('inverted box', f'{list(told)} has no area; is the order of its numbers another one?')
    inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], 1.0), min(box[3], 1.0))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise BadBox('box outside the picture', f'{list(told)}; is it measured in another unit?')
    return inside, max(abs(a - b) for a, b in zip(box, inside, strict=True)) > TOLERANCE
