# SPDX-License-Identifier: Apache-2.0
"""Tiles: a picture becomes an overview and the tiles of a larger copy, all of one size, as the frames of one medium.

The larger copy keeps its shape: it is padded to the grid of tiles that suits it best, and features of the padding are
left out again. What is read is the overview, then the features of all tiles row by row with a learned token that ends
each row (LLaVA-NeXT, LLaVA-OneVision):

    overview   tiles 1 x 2 of 2 x 2 features, `n` the end of a row
    a b        e f | i j          a b c d  e f i j n  g h k l n
    c d        g h | k l
"""

import dataclasses

import numpy as np

from mmjax.data.images import Fit
from mmjax.document import Image


@dataclasses.dataclass(kw_only=True)
class Tiles:
    """The grids of tiles that there are; a picture gets the one that keeps most of its pixels, then wastes fewest."""

    grids: tuple[tuple[int, int], ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # (rows, columns) of tiles
    # Of a tile in pixels, of which the tower reads what patches cover, from the top left on; 0: as the tower reads.
    side: int = 0

    @property
    def most(self) -> int:
        """The most tiles of a picture, without the overview."""
        return max(rows * columns for rows, columns in self.grids)

    def choose(self, size: tuple[int, int], side: int) -> tuple[int, int]:
        """Returns the (rows, columns) of tiles of side x side pixels for a picture of size (width, height)."""
        (width, height), side = size, self.side or side

        def value(grid: tuple[int, int]) -> tuple[int, int]:
            rows, columns = grid[0] * side, grid[1] * side
            scale = min(columns / width, rows / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - rows * columns

        return max(self.grids, key=value)

    def slots(self, size: tuple[int, int], side: int, features: int, newline: int) -> np.ndarray:
        """Returns which of a medium's media tokens stand one after the other in the text.

        A frame gives features x features of them, the overview the first; `newline` is the one that ends rows.
        """
        rows, columns = self.choose(size, side)
        one = np.arange(features**2).reshape(features, features)
        tile = features**2 * (1 + np.arange(rows * columns)).reshape(rows, columns)
        grid = (tile[:, None, :, None] + one[None, :, None, :]).reshape(rows * features, columns * features)
        grid = _without_padding(grid, size)
        ends = np.full((len(grid), 1), newline)
        return np.concatenate([one.ravel(), np.concatenate([grid, ends], axis=1).ravel()]).astype(np.int32)

    def longest(self, features: int) -> int:
        """Returns the most places that a picture can take."""
        return features**2 * (1 + self.most) + features * max(rows for rows, _ in self.grids)

    def read(self, image: Image, size: tuple[int, int], overview: Fit) -> np.ndarray:
        """Returns the frames [1 + tiles, side, side, 3] of a picture of size (width, height)."""
        read = overview.config.width
        side = self.side or read
        rows, columns = self.choose(size, side)
        large = Fit.Config(height=rows * side, width=columns * side, mode='pad', fill=(0, 0, 0)).build().read(image)
        tiles = large.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        if side != read:
            overview = Fit.Config(height=side, width=side).build()
        return np.concatenate([overview.read(image)[None], tiles])[:, :read, :read]


def _without_padding(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the middle of a grid of features that a picture of size (width, height) covers."""
    (width, height), (rows, columns) = size, grid.shape
    if width / height > columns / rows:
        left_out = (rows - int(round(height * (columns / width), 7))) // 2
        return grid[left_out : rows - left_out]
    left_out = (columns - int(round(width * (rows / height), 7))) // 2
    return grid[:, left_out : columns - left_out]
