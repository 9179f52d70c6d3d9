# SPDX-License-Identifier: Apache-2.0
"""Coordinates: boxes as text and back, in each dialect's own strings, with exact inverses.

A codec rounds a box to whole numbers and writes them. A number stands for a point of the side, point n is n / steps; or
for a bin, bin n is [n, n + 1) / bins and is read back as its middle:

    steps = 4   points   0   1   2   3   4        bins = 4   |  0  |  1  |  2  |  3  |
                         |---|---|---|---|                   |--x--|--x--|--x--|--x--|

Boxes are fractions of the fitted picture. Only dialects that count pixels need its size, (width, height).
"""

import abc
import dataclasses
import functools
import math
import re
from collections.abc import Sequence

from mmjax.data.tokenizer import SPECIAL, specials_in
from mmjax.document import Box

Size = tuple[int, int]
SLOTS = {'{x0}': 0, '{y0}': 1, '{x1}': 2, '{y1}': 3}
UNIT = re.compile(f'(?:{SPECIAL.pattern})|.', re.DOTALL)


class Codec(abc.ABC):
    """What all dialects share. A group of boxes is opening, box (join box)*, closing; a region also holds words.

    `region` says where the words of a region go; one without words is its boxes alone.
    """

    opening: str
    closing: str
    join: str
    region: str

    @abc.abstractmethod
    def _round(self, box: Box, size: Size | None) -> tuple[int, ...]:
        """Returns the numbers that stand for a box."""

    @abc.abstractmethod
    def _box(self, numbers: tuple[int, ...], size: Size | None) -> Box | None:
        """Returns the box that numbers stand for, None for numbers that no box has."""

    @abc.abstractmethod
    def parts(self) -> list[str | tuple[str, int, str]]:
        """Returns how one box is written: literal strings, and (before, index of the number, after) for numbers."""

    @abc.abstractmethod
    def spell(self, number: int) -> str:
        """Writes one number."""

    @abc.abstractmethod
    def _count(self) -> int:
        """Returns how many different numbers can be written."""

    @abc.abstractmethod
    def choices(self, index: int, known: dict[int, int]) -> Sequence[int]:
        """Returns the values that number `index` may take in a valid box, given those before it."""

    @property
    @abc.abstractmethod
    def number_pattern(self) -> str:
        """A regular expression of one number."""

    @abc.abstractmethod
    def bin_size(self, size: Size | None = None) -> tuple[float, float]:
        """Returns the width and height of a step as fractions of the picture; rounding is off by half of it at most."""

    def encode(self, boxes: Sequence[Box], size: Size | None = None) -> str:
        """Returns the text of boxes. A box thinner than one step is written one step wide."""
        return self.opening + self.join.join(self._write(self._round(box, size)) for box in boxes) + self.closing

    def decode(self, text: str, size: Size | None = None) -> list[Box]:
        """Returns the boxes that `text` holds, in order; what is no box (x0 < x1, y0 < y1) is left out."""
        boxes, one = [], re.compile(self._box_pattern(grouped=True))
        for group in re.finditer(self.list_pattern, text):
            for found in one.finditer(group[0], len(self.opening), len(group[0]) - len(self.closing)):
                box = self._box(tuple(int(found[f'n{i}'].replace('.', '')) for i in range(len(found.groups()))), size)
                boxes += [] if box is None else [box]
        return boxes

    def special_tokens(self) -> tuple[str, ...]:
        """Returns the special tokens that this dialect writes, in the order in which they grow a vocabulary."""
        names = [*specials_in(self.region, self.opening)]
        for part in self.parts():
            if isinstance(part, str):
                names += specials_in(part)
            elif SPECIAL.fullmatch(part[0] + '0' + part[2]):
                names += [part[0] + number + part[2] for number in self._spelled]
        return tuple(dict.fromkeys([*names, *specials_in(self.join, self.closing)]))

    @property
    def pattern(self) -> str:
        """A regular expression of one box, from opening to closing; that x0 < x1 and y0 < y1 it cannot say."""
        return re.escape(self.opening) + self._box_pattern() + re.escape(self.closing)

    @property
    def list_pattern(self) -> str:
        """A regular expression of one or more boxes."""
        box = self._box_pattern()
        return f'{re.escape(self.opening)}{box}(?:{re.escape(self.join)}{box})*{re.escape(self.closing)}'

    def allowed_next(self, prefix: str) -> set[str]:
        """Returns what may follow `prefix` on the way to one valid box.

        That is characters, special tokens as a whole, and '' where the box may end. Unlike
        `pattern` it knows that x0 < x1 and y0 < y1. The set is empty where no valid box begins like that.
        """
        parts = [self.opening, *self.parts(), self.closing]
        return self._follow([p for p in parts if p], prefix, {})

    def _follow(self, parts: list, rest: str, known: dict[int, int]) -> set[str]:
        if not parts:
            return set() if rest else {''}
        part, then = parts[0], parts[1:]
        if isinstance(part, str):
            options = [(part, known)]
        else:
            spelled, index = self._spelled, part[1]
            options = ((part[0] + spelled[n] + part[2], known | {index: n}) for n in self.choices(index, known))
        found = set()
        for text, now in options:
            if rest and rest.startswith(text):
                found |= self._follow(then, rest[len(text) :], now)
            elif text.startswith(rest):
                found.add(UNIT.match(text, len(rest))[0])
        return found

    @functools.cached_property
    def _spelled(self) -> list[str]:
        return [self.spell(n) for n in range(self._count())]

    def _write(self, numbers: tuple[int, ...]) -> str:
        return ''.join(p if isinstance(p, str) else p[0] + self.spell(numbers[p[1]]) + p[2] for p in self.parts())

    def _box_pattern(self, grouped: bool = False) -> str:
        number = lambda i: f'(?P<n{i}>{self.number_pattern})' if grouped else self.number_pattern
        return ''.join(
            re.escape(p) if isinstance(p, str) else re.escape(p[0]) + number(p[1]) + re.escape(p[2])
            for p in self.parts()
        )


@dataclasses.dataclass(kw_only=True)
class Numbers(Codec):
    """Boxes as four numbers, digits or one special token each.

    `box` holds the slots {x0} {y0} {x1} {y1} in the order in which they are written. A slot within angle brackets, as
    `<loc_{x0}>`, is one special token a number. Number n stands for the point n / steps (bins=False), for the bin
    [n, n + 1) / steps (bins=True), or, with pixels > 0, for n * pixels pixels of the fitted picture.
    """

    box: str = '[{x0},{y0},{x1},{y1}]'
    steps: int = 1000
    last: int = 1000  # the largest number that can be written
    bins: bool = False
    pixels: int = 0
    decimals: int = 0  # more than 0: the number is written as a fraction, steps = 10 ** decimals
    digits: int = 1  # numbers are padded with zeros to so many digits
    opening: str = ''
    closing: str = ''
    join: str = ''
    region: str = '{words}{boxes}'

    def _steps(self, size: Size | None) -> tuple[float, float]:
        if not self.pixels:
            return float(self.steps), float(self.steps)
        if size is None:
            raise ValueError('these coordinates count pixels: pass size=(width, height) of the fitted picture')
        return size[0] / self.pixels, size[1] / self.pixels

    def bin_size(self, size: Size | None = None) -> tuple[float, float]:
        return tuple(1 / steps for steps in self._steps(size))

    def _round(self, box: Box, size: Size | None) -> tuple[int, ...]:
        pairs = []
        for low, high, steps in zip(box[:2], box[2:], self._steps(size), strict=True):
            last = min(self.last, math.ceil(steps) - self.bins)
            # Halves go up, not to the even number: else 1.5 and 2.5 would meet.
            low, high = (math.floor(v * steps + (0.0 if self.bins else 0.5)) for v in (low, high))
            low, high = (min(max(n, 0), last) for n in (low, high))
            if low == high:
                low, high = (low, high + 1) if high < last else (low - 1, high)
            pairs.append((low, high))
        (x0, x1), (y0, y1) = pairs
        return x0, y0, x1, y1

    def _box(self, numbers: tuple[int, ...], size: Size | None) -> Box | None:
        x0, y0, x1, y1 = numbers
        if x0 >= x1 or y0 >= y1:
            return None
        half = 0.5 if self.bins else 0.0
        steps = self._steps(size) * 2
        return tuple(min((n + half) / s, 1.0) for n, s in zip(numbers, steps, strict=True))

    def parts(self) -> list[str | tuple[str, int, str]]:
        parts = []
        for text in re.split(r'(<[^<>{}]*\{[xy][01]\}[^<>{}]*>|\{[xy][01]\})', self.box):
            slot = re.search(r'\{[xy][01]\}', text)
            parts.append((text[: slot.start()], SLOTS[slot[0]], text[slot.end() :]) if slot else text)
        return [part for part in parts if part]

    def spell(self, number: int) -> str:
        return f'{number / self.steps:.{self.decimals}f}' if self.decimals else f'{number:0{self.digits}d}'

    def _count(self) -> int:
        return self.last + 1

    def choices(self, index: int, known: dict[int, int]) -> Sequence[int]:
        # Every dialect writes the near edge before the far one; it leaves room for it.
        return range(self.last) if index < 2 else range(known[index - 2] + 1, self.last + 1)

    @property
    def number_pattern(self) -> str:
        if self.decimals:
            whole = f'|1\\.0{{{self.decimals}}}' if self.last >= self.steps else ''
            return f'(?:0\\.[0-9]{{{self.decimals}}}{whole})'
        return integers(self.last, self.digits)


@dataclasses.dataclass(kw_only=True)
class Cells(Codec):
    """Boxes as two cells of a side x side grid, of the upper left and the lower right corner, counted in raster order.

    A cell is read back as its middle, so that edges are off by half a cell at most; a box within one row or column of
    cells is read back as the outer edges of its cells, off by less than one.

        side = 4     0  1  2  3      the box from cell 5 to cell 10 is [1.5, 1.5, 2.5, 2.5] / 4
                     4 [5] 6  7      the box from cell 5 to cell 6 is [1, 1, 3, 2] / 4
                     8  9[10] 11
                    12 13 14 15
    """

    side: int = 32
    cell: str = '<patch_index_{}>'
    digits: int = 4
    opening: str = '<object>'
    closing: str = '</object>'
    join: str = '</delimiter_of_multi_objects/>'
    region: str = '<phrase>{words}</phrase>{boxes}'

    def bin_size(self, size: Size | None = None) -> tuple[float, float]:
        return 1 / self.side, 1 / self.side

    def _round(self, box: Box, size: Size | None) -> tuple[int, ...]:
        last, cells = self.side - 1, []
        for low, high in zip(box[:2], box[2:], strict=True):
            low = min(max(math.floor(low * self.side), 0), last)
            cells.append((low, min(max(math.ceil(high * self.side - 1), low), last)))
        (x0, x1), (y0, y1) = cells
        return y0 * self.side + x0, y1 * self.side + x1

    def _box(self, numbers: tuple[int, ...], size: Size | None) -> Box | None:
        (y0, x0), (y1, x1) = (divmod(n, self.side) for n in numbers)
        if x0 > x1 or y0 > y1:
            return None
        near, far = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
        return tuple(v / self.side for v in (x0 + near, y0 + near, x1 + far, y1 + far))

    def parts(self) -> list[str | tuple[str, int, str]]:
        before, after = self.cell.split('{}')
        return [(before, 0, after), (before, 1, after)]

    def spell(self, number: int) -> str:
        return f'{number:0{self.digits}d}'

    def _count(self) -> int:
        return self.side**2

    def choices(self, index: int, known: dict[int, int]) -> Sequence[int]:
        if index == 0:
            return range(self.side**2)
        y0, x0 = divmod(known[0], self.side)
        return [y * self.side + x for y in range(y0, self.side) for x in range(x0, self.side)]

    @property
    def number_pattern(self) -> str:
        return integers(self.side**2 - 1, self.digits)


def integers(last: int, digits: int = 1) -> str:
    """Returns a regular expression of the integers 0..last, padded with zeros to `digits` digits, by no others."""
    options = []
    for width in range(digits, max(digits, len(str(last))) + 1):
        # Wider numbers than the padding begin with 1 at least.
        first = 10 ** (width - 1) if width > digits and width > 1 else 0
        top = min(last, 10**width - 1)
        if width == 1 == digits or first <= top:
            options += _between(str(first).zfill(width), str(top).zfill(width))
    return f'(?:{"|".join(options)})' if len(options) > 1 else options[0]


def _between(low: str, high: str) -> list[str]:
    """Returns patterns of the numbers low..high, strings of equal length."""
    if not low:
        return ['']
    if low[0] == high[0]:
        return [low[0] + rest for rest in _between(low[1:], high[1:])]
    count = len(low) - 1
    any_rest = f'[0-9]{{{count}}}' if count > 1 else '[0-9]' * count
    first, last, options = int(low[0]), int(high[0]), []
    if low[1:].strip('0'):
        options += [low[0] + rest for rest in _between(low[1:], '9' * count)]
        first += 1
    tail = []
    if high[1:].strip('9'):
        tail = [high[0] + rest for rest in _between('0' * count, high[1:])]
        last -= 1
    if first <= last:
        options.append((f'[{first}-{last}]' if first < last else str(first)) + any_rest)
    return options + tail
