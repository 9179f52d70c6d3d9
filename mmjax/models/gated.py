# SPDX-License-Identifier: Apache-2.0
"""A connector with a gated MLP, and learned tokens at either end of each medium (CogVLM, CogVLM2).

N media, T frames, n features of a frame, E features' width, P tokens a medium, D width.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.models.connector import Grid, merge, merged_grid
from mmjax.nn import layers, mlp
from mmjax.nn.layers import Norm, normal, parameter
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.sharding import w_DE, w_LD


class GatedConnector(nnx.Module):
    """down(silu(gate h) * up h) of h = act(norm(linear x)); x are features, or one for each square of them."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        hidden: int  # width of the gated part
        act: str = 'gelu'
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)
        merge: int = 1  # side of the square of features that one affine map makes one of (a convolution as wide)
        ends: int = 0  # 1: a learned token stands before each medium's tokens, and one behind them

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens, given those of one frame's features."""
            rows, columns = merged_grid(frames, features, self.merge)
            return (1, rows * columns + 2 * self.ends) if self.ends else (rows, columns)

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'GatedConnector':
            """Builds the part; width None: tokens as wide as features. `features` is one frame's grid of them."""
            return GatedConnector(self, width_in, width or width_in, frames, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, frames: int, features: Grid | None, *, rngs: nnx.Rngs):
        if c.act not in ACTIVATIONS:
            raise ValueError(f'GatedConnector.Config.act is {c.act!r}; choose one of {sorted(ACTIVATIONS)}')
        if c.ends not in (0, 1):
            raise ValueError(f'GatedConnector.Config.ends is {c.ends}; a medium has 0 or 1 learned tokens at each end')
        if c.ends and frames > 1:
            raise ValueError(
                f'GatedConnector.Config.ends with media of up to {frames} frames: the token behind a shorter one would '
                'stand behind frames that are not there; set Vlm.Config.frames to 1'
            )
        self.act, self.width, self.merge, self.features = c.act, width, c.merge, features
        self.fold = (
            layers.Linear(c.merge**2 * width_in, width_in, bias=True, spec=w_DE, rngs=rngs) if c.merge > 1 else None
        )
        self.linear = layers.Linear(width_in, width, bias=False, spec=w_DE, rngs=rngs)
        self.norm = c.norm.build(width, rngs=rngs)
        self.mlp = mlp.Mlp.Config(width=c.hidden, act='silu', gated=True, bias=False).build(width, rngs=rngs)
        self.ends = parameter(normal(rngs.params(), (2, width), 0.02), w_LD) if c.ends else None

    def __call__(self, features: Float[Array, 'N n E'], count: Int[Array, 'N']) -> Float[Array, 'N P D']:
        """Returns one token for each feature, or for each square of them, between the learned ones."""
        x = merge(features, self.features, self.merge)
        x = x if self.fold is None else self.fold(x)
        x = self.mlp(ACTIVATIONS[self.act](self.norm(self.linear(x))))
        if self.ends is None:
            return x
        ends = sharding.broadcast_rows(self.ends[...].astype(x.dtype), x.shape[0])
        return jnp.concatenate([ends[:, :1], x, ends[:, 1:]], axis=1)
