# SPDX-License-Identifier: Apache-2.0
"""State vectors, a robot's joints for example: each becomes one media token (PaLM-E)."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from mmjax.nn.layers import Linear
from mmjax.sharding import w_LD


class StateVector(nnx.Module):
    """An affine map of a vector of floats."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        size: int  # length of the vector
        bias: bool = True

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'StateVector':
            """Builds the part for tokens of the given width."""
            return StateVector(self, width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        self.linear = Linear(c.size, width, bias=c.bias, spec=w_LD, rngs=rngs)

    def __call__(self, states: Float[Array, 'B S size']) -> Float[Array, 'B S D']:
        """Returns one token for each vector."""
        return self.linear(states)
