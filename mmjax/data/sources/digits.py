# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits on small scenes: data that the package carries, to learn, test and show with on any machine.

A scene is a small picture with a few handwritten digits on a tinted, noisy ground. Five kinds of documents are made of
scenes; only the answers count in the loss, and the last piece of a document is an answer:

    caption    [scene] digits? 3 7 1                               from left to right
    count      [scene] how many 4s? 2                              or: how many? 3
    find       [scene] where is 7? (a box)
    mixed      [scene] digits? 3 7 1 / how many 7s? 1 / [scene] ...  several questions about several scenes
    few_shot   [scene] dax / [scene] wug / [scene] dax / [scene] wug  made-up names of two kinds of digits

An answer with something behind it ends with a new line (/), which is learnt with it.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from mmjax.document import Box, Document, Image, Piece, Region, Text

FILE = pathlib.Path(__file__).parent.parent / 'digits' / 'digits.npz'
TASKS = ('caption', 'count', 'find', 'mixed', 'few_shot')
SPLITS = ('train', 'test')
# The first letters differ, so that one byte decides.
NAMES = ('dax', 'wug', 'blick', 'fep', 'toma', 'zup', 'kiv', 'lorp', 'mib', 'nalo', 'pim', 'rond', 'sef', 'gazz', 'hux')


@functools.cache
def glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the digits of a split: (ink [n, 8, 8] in 0..1, labels [n]).

    Every fifth digit is held out for 'test'. The writers wrote digits of both splits; no single digit is in both.
    """
    with np.load(FILE) as file:
        images, labels = file['images'], file['labels']
    held_out = np.arange(len(labels)) % 5 == 4
    chosen = held_out if split == 'test' else ~held_out
    return images[chosen].astype(np.float32) / 16, labels[chosen]


@dataclasses.dataclass(frozen=True)
class Placed:
    """One digit of a scene and the box round its ink."""

    label: int
    box: Box


class Digits:
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
        questions: int = 3  # mixed: questions a scene
        classes: int = 2  # few_shot: made-up names a document
        shots: int = 1  # few_shot: named pictures of each class before the one that is asked for

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
            if not 2 <= self.classes <= 10:
                raise ValueError(f'digits: classes={self.classes}, but there are 2 to 10 kinds of digits to name')
            return Digits(self)

    def __init__(self, config: Config):
        self.config = config
        self.name = f'digits:{config.task}:{config.split}'

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> Document:
        c = self.config
        if not 0 <= index < c.count:
            raise IndexError(f'{self.name}: document {index} of {c.count}')
        rng = np.random.default_rng([c.seed, SPLITS.index(c.split), TASKS.index(c.task), index])
        pieces = self._few_shot(rng) if c.task == 'few_shot' else self._questions(rng)
        return Document(pieces, key=f'{self.name}:{c.seed}:{index}')

    def _questions(self, rng: np.random.Generator) -> list[Piece]:
        """Asks one question about one scene, or, in mixed documents, several about several."""
        c = self.config
        mixed = c.task == 'mixed'
        pieces: list[Piece] = []
        for _ in range(c.pictures if mixed else 1):
            # A box is asked for only where one digit of that label stands.
            labels = draw_labels(rng, int(rng.integers(c.least, c.most + 1)), repeat=0.0 if c.task == 'find' else 0.3)
            picture, digits = self.scene(rng, labels)
            pieces.append(Image(picture))
            for _ in range(c.questions if mixed else 1):
                kind = TASKS[rng.integers(3)] if mixed else c.task
                question, answer = ask(rng, kind, digits)
                pieces += [Text(question, weight=0.0), answer]
                if mixed:
                    pieces.append(Text('\n'))
        return pieces[:-1] if mixed else pieces

    def _few_shot(self, rng: np.random.Generator) -> list[Piece]:
        """Shows digits beside made-up names, `shots` of each class in any order, then one whose name is the answer.

        A name counts from the second time on: the first time nobody can know it.
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
            pieces += [Image(picture), Text(str(names[which]), weight=float(known)), Text('\n', weight=float(known))]
        return pieces[:-1]

    def scene(self, rng: np.random.Generator, labels: list[int]) -> tuple[np.ndarray, list[Placed]]:
        """Draws digits of these labels where they fit; returns the picture and its digits from left to right."""
        c = self.config
        images, known = glyphs(c.split)
        ground = c.colour * (rng.uniform(0, 70, size=3) + rng.normal(0, 8, size=(c.height, c.width, 3)))
        ink = 255 - c.colour * rng.uniform(0, 85, size=3)
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
            tile = warp(rng, images[rng.choice(np.flatnonzero(known == label))], side)
            cover[top : top + side, left : left + side] = tile * rng.uniform(0.75, 1.0)
            digits.append(Placed(label, ink_box(tile, top, left, c.height, c.width)))
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
    top, left = np.arange(height - side + 1)[:, None], np.arange(width - side + 1)[None, :]
    free = np.ones((height - side + 1, width - side + 1), bool)
    for other_top, other_left, other in tiles:
        apart = (
            (top + side <= other_top)
            | (top >= other_top + other)
            | (left + side <= other_left)
            | (left >= other_left + other)
        )
        free &= apart & (
            np.abs(2 * left + side - 2 * other_left - other) >= 2 * 4
        )  # centres four pixels apart, or more
    places = np.flatnonzero(free)
    if not len(places):
        return None
    return divmod(int(rng.choice(places)), free.shape[1])


def warp(rng: np.random.Generator, glyph: np.ndarray, side: int) -> np.ndarray:
    """Returns the glyph [8, 8] on [side, side] pixels, a little turned, slanted and stretched (bilinear, 0 outside)."""
    turn, slant = rng.normal(0, 0.12, size=2).clip(-0.25, 0.25)
    scale = 8 / side * rng.uniform(1.0, 1.15, size=2)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    rows = scale[0] * (np.cos(turn) * y - np.sin(turn) * x) + 3.5
    columns = scale[1] * (np.sin(turn) * y + np.cos(turn) * x + slant * y) + 3.5
    padded = np.pad(glyph, 2)  # places outside the glyph read the zeros round it
    rows, columns = np.clip(rows + 2, 0, 10.999), np.clip(columns + 2, 0, 10.999)
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)


def ink_box(tile: np.ndarray, top: int, left: int, height: int, width: int) -> Box:
    """Returns the box round the tile's ink as fractions of the scene."""
    rows, columns = np.nonzero(tile > 0.3)
    return (
        float(left + columns.min()) / width,
        float(top + rows.min()) / height,
        float(left + columns.max() + 1) / width,
        float(top + rows.max() + 1) / height,
    )


def ask(rng: np.random.Generator, kind: str, digits: list[Placed]) -> tuple[str, Piece]:
    """Returns a question of this kind about the digits of a scene, and its answer."""
    labels = [digit.label for digit in digits]
    if kind == 'caption':
        return 'digits? ', Text(' '.join(map(str, labels)))
    single = [digit for digit in digits if labels.count(digit.label) == 1]
    if kind == 'find' and single:
        digit = single[rng.integers(len(single))]
        return f'where is {digit.label}? ', Region('', (digit.box,))
    if rng.random() < 0.5:
        return 'how many? ', Text(str(len(digits)))
    # The answer is drawn before the label, so that a blind guess of the commonest answer gains little.
    counts = np.array([labels.count(label) for label in range(10)])
    answer = rng.choice(np.unique(counts))
    label = rng.choice(np.flatnonzero(counts == answer))
    return f'how many {label}s? ', Text(str(answer))
