# SPDX-License-Identifier: Apache-2.0
"""The encoder of media that something else has read already: a picture comes as vectors of the things found in it, a
sound as those of its moments.

B rows, M media a row, n vectors of a medium, E width.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax.nn.layers import Norm


class Regions(nnx.Module):
    """Gives the vectors as they come (bottom-up features, Anderson et al. 2018), or normed."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        width: int = 2048  # E
        most: int = 36  # vectors of a medium; of more the first are taken
        norm: Norm.Config | None = None  # of each vector; None: it has no parameters

        patch = 1  # a "picture" is one row of `most` vectors
        varying = True

        @property
        def size(self) -> tuple[int, int]:
            """One row of vectors."""
            return self.grid

        @property
        def grid(self) -> tuple[int, int]:
            """One row of vectors."""
            return 1, self.most

        def build(self, *, rngs: nnx.Rngs) -> 'Regions':
            """Builds the part."""
            return Regions(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        self.width = c.width
        self.norm = c.norm.build(c.width, rngs=rngs) if c.norm else None

    def __call__(
        self, features: Float[Array, 'B M n E'], size: Int[Array, 'B M 3'] | None = None
    ) -> Float[Array, 'B M 1 n E']:
        """Returns the vectors of the media's one frame, zero for those beyond a medium's size (1, 1, vectors)."""
        features = features if self.norm is None else self.norm(features)
        if size is not None:
            there = jnp.arange(features.shape[2]) < size[..., :1] * size[..., 2:]
            features = jnp.where(there[..., None], features, 0)
        return features[:, :, None]
