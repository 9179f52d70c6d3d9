# SPDX-License-Identifier: Apache-2.0
"""Features of several depths of a tower, each through a map of its own: further depths enter further layers of the
decoder (DeepStack, Meng et al. 2024; Qwen3-VL).

N media, n features of a medium, P tokens a medium, E width of features of all depths, D of tokens of all depths.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax.models.connector import Grid, Mlp
from mmjax.nn import stack


class DeepStack(nnx.Module):
    """Maps channels of `levels` + 1 depths; those of token p are its own, then what is added to it, layer by layer."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        first: Mlp.Config  # of what leaves the tower
        deep: Mlp.Config  # of each further depth
        levels: int  # further depths

        @property
        def merge(self) -> int:
            """Side of the square of features that becomes one token."""
            return self.first.merge

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens, given those of one frame's features."""
            return self.first.grid(frames, features)

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'DeepStack':
            """Builds the part; `width` is that of the tokens of one depth."""
            return DeepStack(self, width_in, width, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int | None, features: Grid | None, *, rngs: nnx.Rngs):
        if width is None:
            raise ValueError('DeepStack adds to the layers of a decoder: media must stand among the words (Splice)')
        if width_in % (1 + c.levels) or c.first.merge != c.deep.merge:
            raise ValueError(
                f'DeepStack.Config: {1 + c.levels} depths cannot share features of {width_in} channels, or merge by '
                f'{c.first.merge} and {c.deep.merge}; levels is how many blocks the tower names in `deep`'
            )
        self.width, self.levels, one = width, c.levels, width_in // (1 + c.levels)
        self.first = c.first.build(one, width, features=features, rngs=rngs)
        self.deep = stack.build(lambda r: c.deep.build(one, width, features=features, rngs=r), c.levels, rngs)

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N P D']:
        """Returns the tokens of all depths, side by side."""
        own, *more = jnp.split(features, 1 + self.levels, axis=-1)
        deep = jax.lax.scan(lambda _, x: (None, x[0](x[1], count)), None, (self.deep, jnp.stack(more)))[1]
        return jnp.concatenate([self.first(own, count), *deep], axis=-1)
