# SPDX-License-Identifier: Apache-2.0
"""Which patches of a batch's pictures are hidden: any of them, or blocks of neighbours.

N pictures, P patches of a picture.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.sharding import ROWS, P


def pictures(batch: Batch) -> tuple[Array, Bool[Array, 'N']]:
    """Returns all frames of a batch, [N, h, w, 3], and which of them are there."""
    if batch.pixels is None:
        raise ValueError('the batch has no pictures: set layout.max_media')
    b, m, t = batch.pixels.shape[:3]
    there = jnp.arange(t) < batch.media_size[..., :1]
    flat = lambda x: sharding.reshape_rows(x, (b * m * t, *x.shape[3:]))
    return flat(batch.pixels), flat(there)


def unseen(target: Float[Array, 'N P C'], there: Bool[Array, 'N']) -> Float[Array, 'N P C']:
    """Returns the mean of the batch's pictures at each place: the best guess of one who knows the place alone."""
    real = jnp.where(there[:, None, None], target, 0)
    mean = real.sum(axis=0, keepdims=True) / jnp.maximum(there.sum(), 1)
    return jnp.broadcast_to(mean, target.shape)


def random_order(key: Array, pictures: int, patches: int) -> Int[Array, 'N P']:
    """Returns the patches of every picture in a random order; a picture's order depends on the key and its number."""
    noise = sharding.place(jax.random.uniform(key, (pictures, patches)), P(ROWS, None))
    return jnp.argsort(noise, axis=1)


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class Blocks:
    """Rectangles of random sizes and shapes until `count` patches are hidden (Bao et al. 2022, BEiT).

    A rectangle has an area between `least` and what is left to hide, and sides in a ratio between `aspect` and its
    inverse. One that hides nothing new, or too much, is drawn again; after ten such in a row no more is hidden.
    """

    count: int
    least: int = 16
    aspect: float = 0.3
    tries: int = 64  # rectangles drawn in all, unfit ones included

    def __call__(self, key: Array, pictures: int, grid: tuple[int, int]) -> Bool[Array, 'N P']:
        """Returns what is hidden of each picture."""
        if not 0 < self.count <= grid[0] * grid[1]:
            raise ValueError(f'Blocks.count is {self.count}: a picture has {grid[0]} x {grid[1]} patches')
        draws = sharding.place(jax.random.uniform(key, (pictures, self.tries, 4)), P(ROWS, None, None))
        hide = jax.vmap(lambda draws: self._hidden(draws, grid))
        return sharding.reshape_rows(hide(draws), (pictures, grid[0] * grid[1]))

    def _hidden(self, draws: Array, grid: tuple[int, int]) -> Bool[Array, 'r c']:
        rows, columns = jnp.arange(grid[0])[:, None], jnp.arange(grid[1])[None]
        low = math.log(self.aspect)

        def put(carry: tuple[Array, Array], draw: Array) -> tuple[tuple[Array, Array], None]:
            hidden, failed = carry
            left = self.count - hidden.sum()
            area = self.least + draw[0] * (left - self.least)
            ratio = jnp.exp(low + draw[1] * -2 * low)
            height, width = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (area * ratio, area / ratio))
            top = jnp.floor(draw[2] * (grid[0] - height + 1)).astype(jnp.int32)
            start = jnp.floor(draw[3] * (grid[1] - width + 1)).astype(jnp.int32)
            inside = (rows >= top) & (rows < top + height) & (columns >= start) & (columns < start + width)
            new = (inside & ~hidden).sum()
            fits = (height < grid[0]) & (width < grid[1]) & (new > 0) & (new <= left) & (failed < 10)
            return (hidden | (inside & fits), jnp.where(fits, 0, failed + 1)), None

        start = jnp.zeros(grid, bool) & (draws[0, 0] > 2), jnp.zeros((), jnp.int32) + 0 * draws[0, 0].astype(jnp.int32)
        return jax.lax.scan(put, start, draws)[0][0]
