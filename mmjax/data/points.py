# SPDX-License-Identifier: Apache-2.0
"""Points inside of regions: what a model that reads regions is shown of their shape."""

import zlib
from collections.abc import Sequence

import numpy as np

from mmjax.document import Box


def inside(boxes: Sequence[Box], count: int, size: tuple[int, int], key: str) -> np.ndarray:
    """Returns (row, column) [count, 2] in 0..1 of pixels that boxes cover, in any order.

    `size` is (width, height) of the picture; a box covers a pixel at least. Where there are fewer pixels than `count`,
    some come again. The same key draws the same points.
    """
    width, height = size
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        top, left = min(int(y0 * height), height - 1), min(int(x0 * width), width - 1)
        mask[top : max(round(y1 * height), top + 1), left : max(round(x1 * width), left + 1)] = True
    pixels, rng = np.argwhere(mask), np.random.default_rng(zlib.crc32(key.encode()))
    order = rng.permutation(len(pixels))[:count]
    order = np.concatenate([order, rng.integers(0, len(pixels), count - len(order))])
    return (pixels[order] / (height, width)).astype(np.float32)
