# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits on small scenes: data that the package carries, to learn, test and show with on any machine.

A scene is a small picture with a few handwritten digits on a tinted, noisy ground. Seven kinds of documents are made of
scenes; only the answers count in the loss, and the last piece of a document is an answer:

    caption    [scene] digits? 371                                 from left to right
    count      [scene] how many? 3
    find       [scene] where is 7 (the box of the square on which it was written)
    read       [scene] 3 (a box) / 7 (a box) / 1 (a box)      from left to right, as text is recognised
    mixed      [scene] how many? 3 / digits? 371 / where is 7 (a box) / [scene] ...    all three, of several scenes
    few_shot   [scene]:?dax / [scene]:?wug / [scene]:?dax / [scene]:?wug  made-up names of two kinds of digits
    ask        [scene] leftmost? 3                                 one of LIST: also 'rightmost?' and 'a 7?', yes or no

An answer with something behind it ends with a new line (/), which is learnt with it. In place of a question mark of
few_shot may stand the digit itself, as a help: what follows is then learnt from words before it is from pictures.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from mmjax.data.sources.source import DrawnSource
from mmjax.document import Box, Document, Image, Piece, Region, Text

FILE = pathlib.Path(__file__).parent.parent / 'digits' / 'digits.npz'
TASKS = ('caption', 'count', 'find', 'mixed', 'few_shot', 'ask', 'read')
LIST = (*'0123456789', 'yes', 'no')
SPLITS = ('train', 'test')
# The first letters differ, so that one byte decides.
NAMES = ('dax', 'wug', 'blick', 'fep', 'toma', 'zup', 'kiv', 'lorp', 'mib', 'nalo', 'pim', 'rond', 'sef', 'gazz', 'hux')


@functools.cache
def glyphs(split: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the digits of a split: (ink [n, 12, 12] in 0..1 with a margin of two, which of them show 0, 1 ... 9).

    Every fifth digit is held out for 'test'. The writers wrote digits of both splits; no single digit is in both.
    """
    with np.load(FILE) as file:
        images, labels = file['images'], file['labels']
    held_out = np.arange(len(labels)) % 5 == 4
    chosen = held_out if split == 'test' else ~held_out
    ink = np.pad(images[chosen].astype(np.float32) / 16, ((0, 0), (2, 2), (2, 2)))
    return ink, [np.flatnonzero(labels[chosen] == label) for label in range(10)]


@dataclasses.dataclass(frozen=True)
class Placed:
    """One digit of a scene and the box of its square."""

    label: int
    box: Box


class Digits(DrawnSource):
    """A source of scenes; document i is a pure function of the config and i."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """What to ask of which scenes; `count` documents are made as they are asked for, nothing is stored."""

        task: str = 'caption'
        split: str = 'train'
        count: int = 1_000_000
        seed: int = 0
        height: int = 32
        width: int = 32
        least: int = 1  # digits a scene
        most: int = 3
        smallest: int = 10  # side of a digit in pixels, its margin included
        largest: int = 13
        colour: float = 1.0  # how much grounds and inks differ, and how noisy grounds are; 0: white on black
        pictures: int = 1  # mixed: scenes a document
        classes: int = 2  # few_shot: made-up names a document
        shots: int = 1  # few_shot: named pictures of each class before the one that is asked for
        written: float = 0.0  # few_shot: chance that the digit of a picture is written before its name

        def build(self) -> 'Digits':
            """Checks the numbers and returns the source."""
            for field, value, known in (('task', self.task, TASKS), ('split', self.split, SPLITS)):
                if value not in known:
                    raise ValueError(f'digits: {field} is {value!r}, known are {", ".join(known)}')
            if not 1 <= self.least <= self.most:
                raise ValueError(
                    f'digits: least={self.least} and most={self.most} digits a scene; 1 <= least <= most is needed'
                )
            if not 4 <= self.smallest <= self.largest <= min(self.height, self.width):
                raise ValueError(
                    f'digits: sides of {self.smallest} to {self.largest} pixels on scenes of '
                    f'{self.height} x {self.width}; '
                    '4 <= smallest <= largest <= height, width is needed'
                )
            if not 0 <= self.written <= 1:
                raise ValueError(f'digits: written={self.written} is a chance; 0 <= written <= 1 is needed')
            if not 2 <= self.classes <= 10:
                raise ValueError(f'digits: classes={self.classes}, but there are 2 to 10 kinds of digits to name')
            return Digits(self)

    def __init__(self, config: Config):
        super().__init__(f'digits:{config.task}:{config.split}', config)

    def draw(self, index: int) -> Document:
        """See DrawnSource."""
        c = self.config
        rng = np.random.default_rng([c.seed, SPLITS.index(c.split), TASKS.index(c.task), index])
        key = f'{self.name}:{c.seed}:{index}'
        if c.task == 'few_shot':
            return Document(self._few_shot(rng), key=key)
        pieces, boxes = self._read(rng) if c.task == 'read' else self._questions(rng)
        return Document(pieces, key=key, meta={'boxes': boxes})

    def _questions(self, rng: np.random.Generator) -> tuple[list[Piece], list[list[Box]]]:
        """Asks one question about one scene, or, in mixed documents, several about several; returns all boxes, too."""
        c = self.config
        # In this order no question gives an earlier answer away: a caption says how many, 'where is 7' that 7 is there.
        kinds = ('count', 'caption', 'find') if c.task == 'mixed' else (c.task,)
        pieces: list[Piece] = []
        boxes = []
        for _ in range(c.pictures if c.task == 'mixed' else 1):
            # A box is asked for only where one digit of that label stands.
            labels = draw_labels(rng, int(rng.integers(c.least, c.most + 1)), repeat=0.0 if c.task == 'find' else 0.3)
            picture, digits = self.scene(rng, labels)
            pieces.append(Image(picture))
            boxes.append([digit.box for digit in digits])
            for question, answer in filter(None, (ask(rng, kind, digits) for kind in kinds)):
                pieces += [Text(question, weight=0.0), answer, Text('\n')]
        return pieces[:-1], boxes

    def _read(self, rng: np.random.Generator) -> tuple[list[Piece], list[list[Box]]]:
        """Shows a scene, then every digit and where it stands; returns all boxes, too."""
        c = self.config
        picture, digits = self.scene(rng, draw_labels(rng, int(rng.integers(c.least, c.most + 1)), repeat=0.3))
        lines = [[Region(str(digit.label), (digit.box,)), Text('\n')] for digit in digits]
        pieces = [Image(picture), *(piece for line in lines for piece in line)]
        return pieces[:-1], [[digit.box for digit in digits]]

    def _few_shot(self, rng: np.random.Generator) -> list[Piece]:
        """Shows digits beside made-up names, `shots` of each class in any order, then one whose name is the answer.

        A name counts from the second time on: the first time nobody can know it. A digit that is written always counts.
        """
        c = self.config
        kinds = rng.permutation(10)[: c.classes]
        names = rng.permutation(NAMES)[: c.classes]
        order = rng.permutation(np.repeat(np.arange(c.classes), c.shots))
        order = [*order, rng.integers(c.classes)]
        pieces: list[Piece] = []
        for place, which in enumerate(order):
            known = which in order[:place]
            picture, _ = self.scene(rng, [int(kinds[which])])
            help = rng.random() < c.written
            pieces += [Image(picture), Text(':', weight=0.0)]
            pieces.append(Text(str(kinds[which]) if help else '?', weight=float(help)))
            pieces += [Text(str(names[which]), weight=float(known)), Text('\n', weight=float(known))]
        return pieces[:-1]

    def scene(self, rng: np.random.Generator, labels: list[int]) -> tuple[np.ndarray, list[Placed]]:
        """Draws digits of these labels where they fit; returns the picture and its digits from left to right."""
        c = self.config
        images, known = glyphs(c.split)
        noise = rng.standard_normal((c.height, c.width, 3), np.float32)
        ground = c.colour * (rng.uniform(0, 70, size=3).astype(np.float32) + 8 * noise)
        ink = np.float32(255) - c.colour * rng.uniform(0, 85, size=3).astype(np.float32)
        cover = np.zeros((c.height, c.width), np.float32)
        tiles: list[tuple[int, int, int]] = []
        digits = []
        for label in labels:
            side = int(rng.integers(c.smallest, c.largest + 1))
            place = free_place(rng, side, tiles, c.height, c.width)
            if place is None:
                continue
            top, left = place
            tiles.append((top, left, side))
            tile = warp(rng, images[rng.choice(known[label])], side)
            cover[top : top + side, left : left + side] = tile * rng.uniform(0.75, 1.0)
            box = left / c.width, top / c.height, (left + side) / c.width, (top + side) / c.height
            digits.append(Placed(label, box))
        picture = ground + cover[..., None] * (ink - ground)
        picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        return picture, sorted(digits, key=lambda digit: digit.box[0] + digit.box[2])


def draw_labels(rng: np.random.Generator, count: int, repeat: float) -> list[int]:
    """Draws labels, each with probability `repeat` one that was drawn before and else a new one."""
    fresh = [int(label) for label in rng.permutation(10)]
    labels: list[int] = []
    for _ in range(count):
        again = labels and (not fresh or rng.random() < repeat)
        labels.append(labels[rng.integers(len(labels))] if again else fresh.pop())
    return labels


def free_place(
    rng: np.random.Generator, side: int, tiles: list[tuple[int, int, int]], height: int, width: int
) -> tuple[int, int] | None:
    """Draws a (top, left) where a tile covers no other and 'left of' is plain to see; None where there is none."""
    free = np.ones((height - side + 1, width - side + 1), bool)
    for top, left, other in tiles:
        # Not where centres are less than four pixels apart from left to right, nor where the two would overlap. Both
        # ends of the slice may lie left of the scene.
        first, last = -(-(2 * left + other - side - 7) // 2), (2 * left + other - side + 7) // 2
        free[:, max(first, 0) : max(last + 1, 0)] = False
        free[max(top - side + 1, 0) : top + other, max(left - side + 1, 0) : left + other] = False
    places = np.flatnonzero(free)
    if not len(places):
        return None
    return divmod(int(places[rng.integers(len(places))]), free.shape[1])


def warp(rng: np.random.Generator, glyph: np.ndarray, side: int) -> np.ndarray:
    """Returns the glyph [12, 12] on [side, side] pixels without its margin: a little turned, slanted, stretched."""
    turn, slant = rng.normal(0, 0.12, size=2).clip(-0.25, 0.25)
    scale = 8 / side * rng.uniform(1.0, 1.15, size=2)
    middle = np.arange(side, dtype=np.float32) - (side - 1) / 2
    y, x = middle[:, None], middle[None, :]
    sine, cosine = np.sin(turn), np.cos(turn)
    rows = scale[0] * (cosine * y - sine * x) + 5.5
    columns = scale[1] * ((sine + slant) * y + cosine * x) + 5.5
    # Places outside the glyph read the zeros of its margin.
    rows, columns = np.clip(rows, 0, 10.999), np.clip(columns, 0, 10.999)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    at, flat = top * 12 + left, glyph.ravel()
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + 12] * (1 - right) + flat[at + 13] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)


def ask(rng: np.random.Generator, kind: str, digits: list[Placed]) -> tuple[str, Piece] | None:
    """Returns a question of this kind about the digits of a scene, and its answer; None where there is none."""
    labels = [digit.label for digit in digits]
    if kind == 'count':
        return 'how many? ', Text(str(len(digits)))
    if kind == 'caption':
        return 'digits? ', Text(''.join(map(str, labels)))
    if kind == 'ask':
        return ask_one(rng, labels)
    single = [digit for digit in digits if labels.count(digit.label) == 1]
    if not single:
        return None
    digit = single[rng.integers(len(single))]
    # The label stands last: from its own place, a decoder of few layers learns to match it with the picture within
    # minutes; from behind a question mark, where the label must be fetched first, it does not.
    return f'where is {digit.label}', Region('', (digit.box,))


def ask_one(rng: np.random.Generator, labels: list[int]) -> tuple[str, Piece]:
    """Returns a question of three kinds about digits from left to right; 'yes' and 'no' are equally likely."""
    kind = rng.integers(3)
    if kind < 2:
        return ('leftmost? ', 'rightmost? ')[kind], Text(str(labels[-int(kind)]))
    there = rng.random() < 0.5
    others = [label for label in range(10) if (label in labels) == there]
    return f'a {rng.choice(others)}? ', Text('yes' if there else 'no')
