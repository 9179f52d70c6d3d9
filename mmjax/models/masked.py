# SPDX-License-Identifier: Apache-2.0
"""A tower that predicts features of hidden patches (Baevski et al. 2022, data2vec; Bao et al. 2022, BEiT).

N pictures, P patches of a picture, D width.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from mmjax.batch import MediaSpec
from mmjax.models.vision import Vit, plain_norm, spec_of_pictures
from mmjax.nn.layers import Linear
from mmjax.sharding import w_DE


class Masked(nnx.Module):
    """A tower in which a learned token stands for hidden patches, and a map from its features to those predicted."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        encoder: Vit.Config

        def media_spec(self) -> MediaSpec:
            """Returns what the data side needs to know."""
            return spec_of_pictures(self.encoder)

        @property
        def vocab(self) -> int | None:
            """None: it reads no tokens."""
            return None

        def build(self, *, rngs: nnx.Rngs) -> 'Masked':
            """Builds the model."""
            return Masked(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if not c.encoder.mask:
            raise ValueError('patches are hidden by a token of the tower: set Vit.Config.mask')
        self.encoder = c.encoder.build(rngs=rngs)
        self.head = Linear(c.encoder.width, c.encoder.width, bias=True, spec=w_DE, rngs=rngs)
        self.extra = int(c.encoder.cls)

    def __call__(
        self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3'], hidden: Bool[Array, 'N P']
    ) -> Float[Array, 'N P D']:
        """Returns what is predicted of every patch, those that are seen too."""
        tower = self.encoder
        x = tower.encode(tower.enter(pixels, hidden), tower.depth)
        return self.head((x if tower.norm is None else tower.norm(x))[:, self.extra :])

    def targets(self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3'], last: int) -> Float[Array, 'N P D']:
        """Returns the normed mean of what the last blocks make of every patch, float32; nothing is hidden."""
        tower = self.encoder
        return plain_norm(tower.average(tower.enter(pixels), last))[:, self.extra :]
