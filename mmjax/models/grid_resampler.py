# SPDX-License-Identifier: Apache-2.0
"""A grid of queries looks once at a grid of features, and both know their places (Qwen-VL, Bai et al. 2023).

N media, P features of a medium, E width of features, Q queries, D width.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.models.connector import Grid
from mmjax.models.vision import everything, resized, sincos
from mmjax.nn import layers
from mmjax.nn.attention import Attention
from mmjax.nn.cache import KeyValue
from mmjax.nn.layers import Norm, normal, parameter
from mmjax.sharding import P, w_DE, w_LD


class GridResampler(nnx.Module):
    """out(norm(attn(norm queries + places, x + places, values x))) with x = norm(linear features).

    One table of places [Q, D] serves the queries and, resized to their grid, the features. It begins as sines and
    cosines; leave `position` out of a stage's trainable paths to keep them.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config
        queries: tuple[int, int] = (16, 16)  # rows, columns
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return frames * self.queries[0], self.queries[1]

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'GridResampler':
            """Builds the part; width None: tokens as wide as features. `features` is one frame's grid of them."""
            if features is None:
                raise ValueError('GridResampler knows the places of features: build it with their grid')
            return GridResampler(self, width_in, width or width_in, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, features: Grid, *, rngs: nnx.Rngs):
        self.width, self.queries, self.features = width, tuple(c.queries), tuple(features)
        self.position = parameter(sincos(self.queries, width), w_LD)
        self.query = parameter(normal(rngs.params(), (self.queries[0] * self.queries[1], width), 0.02), w_LD)
        self.linear = layers.Linear(width_in, width, bias=False, spec=w_DE, rngs=rngs)
        self.query_norm = c.norm.build(width, rngs=rngs)
        self.norm = c.norm.build(width, rngs=rngs)
        self.attn = c.attn.build(width, rngs=rngs)
        self.out_norm = c.norm.build(width, rngs=rngs)
        self.out = layers.Linear(width, width, bias=False, spec=w_DE, rngs=rngs)

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N Q D']:
        """Returns the tokens of every frame, one frame after the other."""
        n, size, _ = features.shape
        one = self.features[0] * self.features[1]
        rows = n * (size // one)
        x = self.norm(self.linear(sharding.reshape_rows(features, (rows, one, features.shape[2]))))
        table = sharding.place(self.position[...], P()).astype(x.dtype)
        keys = x + resized(table, self.queries, self.features)
        kv = KeyValue(self.attn.k(keys), self.attn.v(x))
        queries = sharding.broadcast_rows(self.query_norm(self.query[...]) + table, rows)
        y = self.attn(queries.astype(x.dtype), kv, everything(rows, table.shape[0], one))
        return sharding.reshape_rows(self.out(self.out_norm(y)), (n, size // one * table.shape[0], self.width))
