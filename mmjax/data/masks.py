# SPDX-License-Identifier: Apache-2.0
"""Masks: which keys each token of one document sees, as intervals start <= j < end.

Everything is relative to the document; packing adds its place in the row. In the drawings a row is a token that looks,
a column a key, 1 what is seen; `t` is text and `i` a place of a picture.
"""

import numpy as np

POLICIES = ('last', 'all', 'next')


def causal(length: int) -> np.ndarray:
    """Returns the span [length, 2] of text: a token sees itself and all before it.

      t i i t
    t 1 . . .   (0, 1)
    i 1 1 . .   (0, 2)
    i 1 1 1 .   (0, 3)
    t 1 1 1 1   (0, 4)
    """
    return np.stack([np.zeros(length, np.int32), np.arange(1, length + 1, dtype=np.int32)], axis=-1)


def two_way(span: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Returns the span where the places [start, end) of each picture see the whole of it, later pictures never.

      t i i t i i
    t 1 . . . . .   (0, 1)
    i 1 1 1 . . .   (0, 3)
    i 1 1 1 . . .   (0, 3)
    t 1 1 1 1 . .   (0, 4)
    i 1 1 1 1 1 1   (0, 6)
    i 1 1 1 1 1 1   (0, 6)
    """
    span = span.copy()
    for start, end in pictures:
        span[start:end, 1] = np.maximum(span[start:end, 1], end)
    return span


def two_way_prompt(span: np.ndarray, end: int) -> np.ndarray:
    """Returns the span where the first `end` tokens, those before the first learnt one, see each other (end = 3).

      i t t t t
    i 1 1 1 . .   (0, 3)
    t 1 1 1 . .   (0, 3)
    t 1 1 1 . .   (0, 3)
    t 1 1 1 1 .   (0, 4)
    t 1 1 1 1 1   (0, 5)
    """
    span = span.copy()
    span[:end, 1] = np.maximum(span[:end, 1], end)
    return span


def input_output(length: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what an encoder-decoder is told: span [length, 2], places looked at [length, 2], position [length].

    The input, all before `first`, sees itself both ways; the output sees itself up to its own place, and looks at the
    input as the encoder left it. Positions count from 0 in each (first = 2).

          i i o o o   looks at   position
        i 1 1 . . .   . . . . .   0
        i 1 1 . . .   . . . . .   1
        o . . 1 . .   1 1 . . .   0
        o . . 1 1 .   1 1 . . .   1
        o . . 1 1 1   1 1 . . .   2
    """
    here = np.arange(length)
    output = here >= first
    span = np.stack([output * first, np.where(output, here + 1, first)], axis=-1)
    looks = np.stack([here * 0, output * first], axis=-1)
    return span.astype(np.int32), looks.astype(np.int32), (here - output * first).astype(np.int32)


def positions(length: int, pictures: np.ndarray, ends: int, *, shared: bool) -> np.ndarray:
    """Returns the positions [length] of tokens; `shared`: the places of a picture but `ends` on either side have one.

    t b i i i e t      b and e are the ends, ends = 1
    0 1 2 2 2 3 4
    """
    step = np.ones(length, np.int32)
    step[:1] = 0
    for start, end in pictures if shared else ():
        step[start + 1 + ends : end - ends] = 0
    return np.cumsum(step, dtype=np.int32)


def grid_positions(length: int, pictures: np.ndarray, grids: np.ndarray, times: list[np.ndarray]) -> np.ndarray:
    """Returns the positions [length, 3] (time, row, column) of tokens, those of words three times the same.

    A picture's places count from where it begins, by times[m], and by the rows and columns of grids[m]; words go on
    behind the largest of them (Qwen2-VL).

              t  i i i  t       a picture of 1 x 3
      time    0  1 1 1  4
      row     0  1 1 1  4
      column  0  1 2 3  4
    """
    parts, end, start = [], 0, 0

    def words(count: int) -> None:
        nonlocal start
        parts.append(np.repeat(start + np.arange(count)[:, None], 3, axis=1))
        start += count

    for (first, last), (rows, columns), time in zip(pictures.tolist(), grids.tolist(), times, strict=True):
        words(first - end)
        row, column = (np.tile(x.ravel(), len(time)) for x in np.indices((rows, columns)))
        parts.append(start + np.stack([np.repeat(time, rows * columns), row, column], axis=1))
        start, end = int(parts[-1].max()) + 1, last
    words(length - end)
    return np.concatenate(parts).astype(np.int32)


def experts(slot: np.ndarray) -> np.ndarray:
    """Returns 1 for the tokens [length] that an expert of media reads: those of media whose successor is one too.

    So the last token of a picture is read by the weights of words, which go on from there (CogVLM).

      slot    - 0 1 2 3 - -
      expert  . 1 1 1 . . .
    """
    there = slot >= 0
    return np.append(there[:-1] & there[1:], np.zeros(len(slot[:1]), bool)).astype(np.int32)


def media(length: int, places: np.ndarray, counts: np.ndarray, per_medium: int, sees: str) -> np.ndarray:
    """Returns the media tokens [length, 2] that each token looks at through cross-attention.

    Medium m stands at places[m] and has media tokens m * per_medium .. + counts[m]. The <image> token itself is already
    inside its picture. With two pictures of two tokens each:

                last        all         next
                a a b b     a a b b     a a b b
      t         . . . .     . . . .     1 1 . .
      <image>   1 1 . .     1 1 . .     1 1 . .
      t         1 1 . .     1 1 . .     . . 1 1
      <image>   . . 1 1     1 1 1 1     . . 1 1
      t         . . 1 1     1 1 1 1     . . . .
    """
    if sees not in POLICIES:
        raise ValueError(f'layout.sees is {sees!r}, known are {", ".join(POLICIES)}')
    here = np.arange(length)
    index = np.searchsorted(places, here, side='left' if sees == 'next' else 'right') - (sees != 'next')
    exists = (index >= 0) & (index < len(places))
    index = np.where(exists, index, 0)
    if not len(places):
        return np.zeros((length, 2), np.int32)
    start = np.zeros_like(index) if sees == 'all' else index * per_medium
    end = index * per_medium + counts[index]
    return np.where(exists[:, None], np.stack([start, end], axis=-1), 0).astype(np.int32)
