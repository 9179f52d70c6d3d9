# SPDX-License-Identifier: Apache-2.0
"""The feed-forward part: plain or gated."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmjax.nn.layers import Linear, Norm
from mmjax.sharding import b_F, w_DE, w_DF, w_FD

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
    'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
    'relu': jax.nn.relu,
    'relu2': lambda x: jnp.square(jax.nn.relu(x)),
    'silu': jax.nn.silu,
}


class Mlp(nnx.Module):
    """down(norm(act(up x))), or down(norm(act(gate x) * up x)); the norm is Magneto's (sub-LN), usually none."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        width: int
        act: str = 'gelu'
        gated: bool = False
        bias: bool = True
        inner_norm: Norm.Config | None = None

        def build(
            self, width_in: int, *, width_out: int | None = None, out_scale: float = 1.0, rngs: nnx.Rngs
        ) -> 'Mlp':
            """Builds the part; `out_scale` shrinks the initial deviation of the last kernel."""
            return Mlp(self, width_in, width_out or width_in, out_scale, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width_out: int, out_scale: float, *, rngs: nnx.Rngs):
        if c.act not in ACTIVATIONS:
            raise ValueError(f'Mlp.Config.act is {c.act!r}; choose one of {sorted(ACTIVATIONS)}')
        self.act = c.act
        self.up = Linear(width_in, c.width, bias=c.bias, spec=w_DF, rngs=rngs)
        self.gate = Linear(width_in, c.width, bias=c.bias, spec=w_DF, rngs=rngs) if c.gated else None
        self.inner_norm = c.inner_norm.build(c.width, spec=b_F, rngs=rngs) if c.inner_norm else None
        self.down = Linear(c.width, width_out, bias=c.bias, spec=w_FD, scale=out_scale, rngs=rngs)

    @jax.named_scope('mlp')
    def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... E']:
        """Returns the part's output, without the residual."""
        act, h = ACTIVATIONS[self.act], self.up(x)
        h = act(h) if self.gate is None else act(self.gate(x)) * h
        return self.down(h if self.inner_norm is None else self.inner_norm(h))


class Transform(nnx.Module):
    """norm(act(dense x)), of the same width: what stands before the head of a masked language model (BERT)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        act: str = 'gelu'
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'Transform':
            """Builds the part."""
            return Transform(self, width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        self.act = c.act
        self.dense = Linear(width, width, bias=True, spec=w_DE, rngs=rngs)
        self.norm = c.norm.build(width, rngs=rngs)

    def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
        """Returns the transformed vectors."""
        return self.norm(ACTIVATIONS[self.act](self.dense(x)))
