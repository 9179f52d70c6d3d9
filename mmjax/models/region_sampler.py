# SPDX-License-Identifier: Apache-2.0
"""One token for a region of any shape: points inside of it gather what lies around them (Ferret, You et al. 2023).

R regions, P features of a picture, E their width, S points, A anchors among them, K neighbours of an anchor, D width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn import layers
from mmjax.nn.layers import Norm
from mmjax.sharding import w_DE


def greatest(x: Float[Array, 'R A K E']) -> Float[Array, 'R A E']:
    """Returns the greatest neighbour of each anchor, channel by channel; its gradient goes to the first of equals."""
    # That of jnp.max asks which entries equal the maximum: none, and then NaN, where XLA computes them anew in the
    # backward pass and rounds otherwise.
    first = jnp.argmax(x, axis=2, keepdims=True) == jnp.arange(x.shape[2])[:, None]
    return jnp.where(first, x, 0).sum(axis=2)


def mean(x: Float[Array, 'R A K E']) -> Float[Array, 'R A E']:
    """Returns the mean of each anchor's neighbours."""
    return x.mean(axis=2)


POOLS = {'max': greatest, 'mean': mean}


class Gather(nnx.Module):
    """Each anchor pools norm(relu(join [difference (neighbour - anchor) ; anchor])) of its nearest points.

    Points are their features and their place, so differences know in which direction a neighbour lies.
    """

    def __init__(self, c: 'RegionSampler.Config', width: int, *, rngs: nnx.Rngs):
        self.pool = POOLS[c.pool]
        self.difference = layers.Linear(width + 2, width + 2, bias=True, spec=w_DE, rngs=rngs)
        self.join = layers.Linear(2 * (width + 2), width, bias=True, spec=w_DE, rngs=rngs)
        self.norm = c.norm.build(width, rngs=rngs)

    def __call__(
        self, x: Float[Array, 'R S E'], place: Float[Array, 'R S 2'], anchors: int, neighbours: int
    ) -> tuple[Float[Array, 'R A E'], Float[Array, 'R A 2']]:
        """Returns what the anchors gathered, and their places."""
        chosen = spread(place, anchors)
        at = pick(place, chosen)
        near = nearest(at, place, neighbours)
        x = jnp.concatenate([x, place.astype(x.dtype)], axis=-1)
        anchor = jnp.broadcast_to(pick(x, chosen)[:, :, None], (*near.shape, x.shape[-1]))
        y = jax.vmap(lambda x, index: x[index])(x, near) - anchor
        y = self.join(jnp.concatenate([self.difference(y), anchor], axis=-1))
        return self.pool(self.norm(jax.nn.relu(y))), at


class RegionSampler(nnx.Module):
    """Reads features at the points of a region, lets fewer and fewer anchors gather them, and joins the last ones."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        points: int = 512  # S: of a region
        anchors: tuple[int, ...] = (128, 32)  # A: after each round of gathering
        neighbours: tuple[int, ...] = (24, 24)  # K: in each round
        pool: str = 'max'  # of neighbours: 'max' or 'mean'
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)

        def build(self, width_in: int, width: int, *, rngs: nnx.Rngs) -> 'RegionSampler':
            """Builds the part for features of width_in and tokens of `width`."""
            return RegionSampler(self, width_in, width, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, *, rngs: nnx.Rngs):
        if c.pool not in POOLS:
            raise ValueError(f'RegionSampler.Config.pool is {c.pool!r}; choose one of {sorted(POOLS)}')
        counts, rounds = (c.points, *c.anchors), len(c.anchors)
        most = [max(pair) for pair in zip(c.anchors, c.neighbours, strict=False)]
        if not 0 < rounds == len(c.neighbours) or any(n > m for n, m in zip(most, counts, strict=False)):
            raise ValueError(
                f'RegionSampler.Config: anchors {c.anchors} and neighbours {c.neighbours} are chosen, round by round, '
                f'among {counts[:-1]} points: as many of one as of the other, and no more than there are'
            )
        self.c, self.width = c, width
        self.rounds = nnx.List(Gather(c, width_in, rngs=rngs) for _ in c.anchors)
        self.flatten = layers.Linear(
            (c.anchors[-1], width_in), width_in, bias=True, spec=sharding.P(None, 'fsdp', 'tp'), rngs=rngs
        )
        self.out = layers.Linear(width_in, width, bias=True, spec=w_DE, rngs=rngs)

    def __call__(
        self, features: Float[Array, 'R P E'], grid: tuple[int, int], points: Float[Array, 'R S 2']
    ) -> Float[Array, 'R D']:
        """Returns one token a region; features are a grid in raster order, points (row, column) in 0..1 of it."""
        x = sample(features, grid, points)
        for gather, anchors, neighbours in zip(self.rounds, self.c.anchors, self.c.neighbours, strict=True):
            x, points = gather(x, points, anchors, neighbours)
        return self.out(self.flatten(x))


def sample(
    features: Float[Array, 'R P E'], grid: tuple[int, int], points: Float[Array, 'R S 2']
) -> Float[Array, 'R S E']:
    """Returns features between those of the grid, linear in both directions; corners are the corner features."""
    rows, columns = grid
    at = points * (jnp.array(grid, jnp.float32) - 1)
    low = jnp.clip(jnp.floor(at), 0, jnp.maximum(jnp.array(grid) - 2, 0)).astype(jnp.int32)
    (down, right), (row, column) = (jnp.moveaxis(x, -1, 0) for x in (at - low, low))
    read = lambda r, c: pick(features, jnp.minimum(r, rows - 1) * columns + jnp.minimum(c, columns - 1))
    mix = lambda a, b, share: a + (b - a) * share[..., None].astype(a.dtype)
    upper, lower = (mix(read(r, column), read(r, column + 1), right) for r in (row, row + 1))
    return mix(upper, lower, down)


def spread(place: Float[Array, 'R S 2'], count: int) -> Int[Array, 'R {count}']:
    """Returns points that lie far apart: the first one, then each time the one farthest from all chosen so far."""

    def body(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        distance, last = carry
        gap = place - pick(place, last[:, None])
        distance = jnp.minimum(distance, jnp.square(gap).sum(axis=-1))
        return (distance, jnp.argmax(distance, axis=1).astype(jnp.int32)), last

    place = jax.lax.stop_gradient(place)
    start = jnp.full_like(place[..., 0], jnp.inf), jnp.zeros_like(place[:, 0, 0], jnp.int32)
    return jax.lax.scan(body, start, None, length=count)[1].T


def nearest(at: Float[Array, 'R A 2'], place: Float[Array, 'R S 2'], count: int) -> Int[Array, 'R A {count}']:
    """Returns the `count` points nearest to each place, itself among them."""
    distance = jnp.square(at[:, :, None] - place[:, None]).sum(axis=-1)
    return jax.lax.top_k(-distance, count)[1]


def pick(x: Float[Array, 'R S E'], index: Int[Array, 'R A']) -> Float[Array, 'R A E']:
    """Returns x at some of its places."""
    return jax.vmap(lambda x, index: x[index])(x, index)
