# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer for pictures and videos of any shape: rotary places, windows, features square by square
(Qwen2-VL, Wang et al. 2024; Qwen2.5-VL and Qwen3-VL, Bai et al. 2025).

B rows, M media a row, T frames, Z patches in time, N = B * M * Z frames of patches, P patches of the largest frame,
D width, S squares.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from mmjax import sharding
from mmjax.models.vision import normalise, patches
from mmjax.nn import stack
from mmjax.nn.block import Block
from mmjax.nn.layers import Linear, Norm, normal, parameter
from mmjax.nn.positions import Turn
from mmjax.sharding import ROWS, P, w_LD


class NativeVit(nnx.Module):
    """A tower whose patches see those of their own frame, or of their window of it, and nothing beyond the picture.

    Pictures stand at the top left of the largest one. Inside of the tower the patches that are there come first,
    window by window, square by square, so that what a patch sees is an interval; squares leave in raster order. With a
    budget the tower computes so many patches of each frame, however many the grid has.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        width: int
        depth: int
        block: Block.Config
        patch: int = 14
        grid: tuple[int, int] = (64, 64)  # rows, columns of patches of the largest picture
        budget: int = 0  # the most patches of a picture; 0: all that the grid has
        merge: int = 2  # side of the squares in whose order features leave; rows and columns are multiples of it
        temporal: int = 2  # frames that one patch spans; a picture is shown so many times
        window: int | None = None  # squares on the side of a window; None: every block looks at the whole frame
        full: tuple[int, ...] = ()  # with windows: the blocks that look at the whole frame
        theta: float = 10_000.0  # of the rotary places: half of a head turns by the row, half by the column
        table: tuple[int, int] | None = None  # rows, columns of learned places, stretched over every picture
        deep: tuple[int, ...] = ()  # what leaves these blocks stands behind the features, as further channels
        patch_bias: bool = False
        norm: Norm.Config | None = None  # after the last block
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels in 0..1
        std: tuple[float, float, float] = (0.5, 0.5, 0.5)
        remat: str = 'none'

        @property
        def varying(self) -> bool:
            """Pictures keep their shape."""
            return True

        @property
        def size(self) -> tuple[int, int]:
            """Height and width of the largest picture in pixels."""
            return self.grid[0] * self.patch, self.grid[1] * self.patch

        def build(self, *, rngs: nnx.Rngs) -> 'NativeVit':
            """Builds the tower."""
            return NativeVit(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if c.budget % c.merge**2 or c.budget > c.grid[0] * c.grid[1]:
            raise ValueError(
                f'NativeVit.Config.budget of {c.budget} patches: it is a whole number of squares of {c.merge} x '
                f'{c.merge}, at most the {c.grid[0] * c.grid[1]} of the grid, or 0'
            )
        if c.grid[0] % c.merge or c.grid[1] % c.merge:
            raise ValueError(f'NativeVit.Config.grid {c.grid} is no whole number of squares of {c.merge} x {c.merge}')
        if list(c.deep) != sorted(set(c.deep)) or not all(0 <= i < c.depth for i in (*c.deep, *c.full)):
            raise ValueError(
                f'NativeVit.Config: deep {c.deep} and full {c.full} name blocks 0 to {c.depth - 1}, deep in order'
            )
        head = c.block.attn.width_of_head(c.width)
        if head % 4:
            raise ValueError(f'heads of {head}: a row and a column turn pairs of it each, so 4 must divide it')
        self.c, self.width, self.quarter = c, c.width * (1 + len(c.deep)), head // 4
        self.patch = Linear(c.temporal * c.patch**2 * 3, c.width, bias=c.patch_bias, spec=w_LD, rngs=rngs)
        cells = c.table and (c.table[0] * c.table[1], c.width)
        self.places = parameter(normal(rngs.params(), cells, 0.02), w_LD) if cells else None
        self.blocks = stack.build(lambda r: c.block.build(c.width, rngs=r), c.depth, rngs)
        self.norm = c.norm.build(c.width, rngs=rngs) if c.norm else None

    def __call__(
        self,
        pixels: UInt8[Array, 'B M T h w 3'] | Float[Array, 'B M T h w 3'],
        size: Int[Array, 'B M 3'],
    ) -> Float[Array, 'B M Z P D']:
        """Returns the features of every Z frames, square by square, without gaps; what follows them is arbitrary.

        Float pixels are taken as already normalised.
        """
        if pixels.shape[3:5] != self.c.size:
            raise ValueError(
                f'pictures in frames of {pixels.shape[3:5]} pixels for a tower of {self.c.size}: '
                'set model.encoder.grid to that of the layout, in patches'
            )
        b, m, t = pixels.shape[:3]
        steps = -(-t // self.c.temporal)
        rows, columns = (_repeated(size[..., i], steps) for i in (1, 2))
        place = places(self.c, rows, columns)
        x = self._embed(pixels, size[..., 0], steps)
        if self.places is not None:
            x = x + self._stretched(rows, columns).astype(x.dtype)
        x, turn = _take(x, place.raster), place.turn(self.quarter, self.c.theta)
        whole = jnp.asarray(np.isin(np.arange(self.c.depth), self.c.full) | (self.c.window is None))
        body = lambda x, block, layer: block(x, jnp.where(whole[layer], place.whole, place.windows), turn)[0]
        left, start = [], 0
        for end in dict.fromkeys([*(i + 1 for i in self.c.deep), self.c.depth]):
            some = jax.tree.map(lambda p, a=start, z=end: p[a:z], self.blocks)
            x = stack.run(body, x, some, first=start, policy=self.c.remat)
            start, left = end, [*left, x]
        last = x if self.norm is None else self.norm(x)
        x = jnp.concatenate([last, *left[: len(self.c.deep)]], axis=-1)
        x = _take(x, place.leave)
        return sharding.reshape_rows(x, (b, m, steps, *x.shape[1:]))

    def _embed(self, pixels: Array, frames: Int[Array, 'B M'], steps: int) -> Float[Array, 'N P D']:
        """Returns embedded patches in raster order; where frames end within a patch, the last one is repeated."""
        b, m, t, span = *pixels.shape[:3], self.c.temporal
        if t > 1:
            index = jnp.clip(jnp.arange(steps * span), 0, jnp.maximum(frames - 1, 0)[..., None])
            pixels = jax.vmap(jax.vmap(lambda x, i: x[i]))(pixels, index)
        flat = sharding.reshape_rows(pixels, (b * m * pixels.shape[2], *pixels.shape[3:]))
        x = patches(normalise(flat, self.c.mean, self.c.std), self.c.patch)
        if t == 1:
            return self.patch(jnp.concatenate([x] * span, axis=-1))
        x = sharding.reshape_rows(x, (b * m * steps, span, *x.shape[1:])).swapaxes(1, 2)
        return self.patch(sharding.reshape_rows(x, (b * m * steps, x.shape[1], span * x.shape[3])))

    def _stretched(self, rows: Int[Array, 'N'], columns: Int[Array, 'N']) -> Float[Array, 'N P D']:
        """Returns the learned places, corners on corners of each picture, linear in between."""

        def weights(count: Array, most: int, cells: int) -> Array:
            at = jnp.arange(most) * ((cells - 1) / jnp.maximum(count - 1, 1))[:, None]
            return jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(cells)), 0)

        table = sharding.place(self.places[...], P()).astype(jnp.float32).reshape(*self.c.table, self.c.width)
        down, across = (weights(n, g, s) for n, g, s in zip((rows, columns), self.c.grid, self.c.table, strict=True))
        y = jnp.einsum('nrs,nct,stD->nrcD', down, across, table)
        return sharding.reshape_rows(y, (y.shape[0], y.shape[1] * y.shape[2], y.shape[3]))


def _repeated(x: Int[Array, 'B M'], times: int) -> Int[Array, 'N']:
    x = sharding.reshape_rows(x, (x.shape[0] * x.shape[1], 1))
    return sharding.reshape_rows(jnp.broadcast_to(x, (x.shape[0], times)), (x.shape[0] * times,))


class Places(NamedTuple):
    """Where the patches of each frame stand: in raster order outside, window by window and without gaps inside.

    picture of 2 x 6 in a grid of 2 x 8, windows of one square of 2 x 2:

    0 1 | 2 3 | 4 5 | . .          0 1 8 9 | 2 3 10 11 | 4 5 12 13 | . . . .
    8 9 |10 11|12 13| . .
    """

    raster: Int[Array, 'N P']  # of the patch at each place inside, its place in the grid
    row: Int[Array, 'N P']
    column: Int[Array, 'N P']
    leave: Int[Array, 'N P']  # of each patch that leaves, square by square in raster order, its place inside
    whole: Int[Array, 'N P 2']  # spans that end with the frame
    windows: Int[Array, 'N P 2']  # spans that end with the window

    def turn(self, quarter: int, theta: float) -> Turn:
        """Returns the angles: a head's first quarter of pairs turns by the row, the second by the column."""
        rate = theta ** (-jnp.arange(quarter) / quarter)
        angle = jnp.concatenate([x[..., None] * rate for x in (self.row, self.column)], axis=-1)
        return Turn(jnp.cos(angle), jnp.sin(angle), None, False)


def places(c: NativeVit.Config, rows: Int[Array, 'N'], columns: Int[Array, 'N']) -> Places:
    """Returns the places of frames of `rows` x `columns` patches."""
    if not sharding.current():
        return _places(c, rows, columns)
    # Every device for its own frames: sorting and gathering need no word from the others.
    local = jax.shard_map(
        lambda rows, columns: _places(c, rows, columns), in_specs=P(ROWS), out_specs=P(ROWS), check_vma=False
    )
    return local(rows, columns)


def _places(c: NativeVit.Config, rows: Array, columns: Array) -> Places:
    side, (row, column) = c.merge, (x.ravel() for x in np.indices(c.grid))
    many = max(c.grid) if c.window is None else c.window
    window = row // (side * many) * c.grid[1] + column // (side * many)
    sorted_ = np.lexsort((column % side, row % side, column // side, row // side, window))
    row, column, window = row[sorted_], column[sorted_], window[sorted_]
    there = (row < rows[:, None]) & (column < columns[:, None])
    order = jnp.argsort(~there, axis=1, stable=True)[:, : c.budget or None]
    raster, row, column = (jnp.asarray(x, jnp.int32)[order] for x in (sorted_, row, column))
    exists = jnp.arange(order.shape[1]) < there.sum(axis=1, keepdims=True)
    # How many are there before each window begins, and before it ends.
    before = jnp.pad(jnp.cumsum(there, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
    start, end = (_take(before[:, np.searchsorted(window, window, side)], order) for side in ('left', 'right'))
    count = jnp.broadcast_to(there.sum(axis=1, keepdims=True, dtype=jnp.int32), start.shape)
    spans = [jnp.stack(span, axis=-1) for span in ((jnp.zeros_like(start), count), (start, end))]
    square = row // side * (columns[:, None] // side) + column // side
    place = square * side**2 + row % side * side + column % side
    leave = jnp.argsort(jnp.where(exists, place, order.shape[1]), axis=1, stable=True)
    return Places(raster, row, column, leave, *(jnp.where(exists[..., None], span, 0) for span in spans))


def _take(x: Array, index: Array) -> Array:
    return jax.vmap(lambda x, i: x[i])(x, index)
