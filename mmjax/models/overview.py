# SPDX-License-Identifier: Apache-2.0
"""A connector that passes every feature on, its place added, behind the mean of all (Florence-2, Xiao et al. 2023).

N media, n features of a medium, E features' width, P tokens (n + 1), D width.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.models.connector import Grid
from mmjax.nn import layers
from mmjax.nn.layers import Norm, normal, parameter
from mmjax.sharding import P, w_DE, w_LD


class Overview(nnx.Module):
    """norm(linear [mean x ; x]) with x = features + places: of a column, then of a row, half of the width each.

    A picture counts as the first frame of a film, so the sines and cosines of time 0 (0, 1, 0, 1 ...) are added too.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        places: int = 50  # rows of the tables of rows and columns
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return 1, 1 + features[0] * features[1]

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'Overview':
            """Builds the part; width None: tokens as wide as features. `features` is one frame's grid of them."""
            if frames > 1 or features is None:
                raise ValueError(
                    f'Overview reads pictures of one size, not {frames} frames: set Vlm.Config.frames to 1'
                )
            if max(features) > self.places:
                raise ValueError(
                    f'{features[0]} x {features[1]} features, but Overview.Config.places knows {self.places} rows and '
                    'columns: raise it, or choose smaller pictures'
                )
            return Overview(self, width_in, width or width_in, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, features: Grid, *, rngs: nnx.Rngs):
        self.width, self.features = width, tuple(features)
        table = lambda width: parameter(normal(rngs.params(), (c.places, width), 0.02), w_LD)
        self.row, self.column = table(width_in // 2), table(width_in - width_in // 2)
        self.linear = layers.Linear(width_in, width, bias=False, spec=w_DE, rngs=rngs)
        self.norm = c.norm.build(width, rngs=rngs)

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N P D']:
        """Returns the tokens."""
        rows, columns = self.features
        row, column = (sharding.place(table[...], P()) for table in (self.row, self.column))
        place = [jnp.tile(column[:columns], (rows, 1)), jnp.repeat(row[:rows], columns, axis=0)]
        place = jnp.concatenate(place, axis=1) + jnp.arange(features.shape[2]) % 2
        x = features + place.astype(features.dtype)
        return self.norm(self.linear(jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)))
