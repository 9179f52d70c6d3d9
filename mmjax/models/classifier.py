# SPDX-License-Identifier: Apache-2.0
"""A tower with a head that names what a picture shows.

N pictures.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float, UInt8

from mmjax.models.vision import Vit
from mmjax.nn.layers import Linear
from mmjax.sharding import w_DE


class Classifier(nnx.Module):
    """Scores classes by what a tower makes of a whole picture."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        encoder: Vit.Config
        classes: int

        def build(self, *, rngs: nnx.Rngs) -> 'Classifier':
            """Builds the model."""
            return Classifier(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        self.encoder = c.encoder.build(rngs=rngs)
        self.head = Linear(c.encoder.width, c.classes, bias=True, spec=w_DE, rngs=rngs)

    def __call__(self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3']) -> Float[Array, 'N C']:
        """Returns the score of every class."""
        return self.head(self.encoder.pooled(pixels))
