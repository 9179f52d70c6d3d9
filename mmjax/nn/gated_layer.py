# SPDX-License-Identifier: Apache-2.0
"""Layers of small heads: an affine map, by weights of a learned length (Salimans & Kingma 2016), and what follows it.

E width of what enters, D of what leaves.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmjax.nn.contract import contract
from mmjax.nn.layers import Linear, normal, parameter
from mmjax.sharding import P, b_D, w_DE


class Directed(nnx.Module):
    """An affine map whose kernel gives a direction alone: its length, over all entries, is a parameter of its own."""

    def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs):
        kernel = normal(rngs.params(), (width_in, width), width_in**-0.5)
        self.kernel = parameter(kernel, w_DE)
        # At first that of the kernel as it was drawn: the map begins as a Linear's.
        self.length = parameter(jnp.linalg.norm(kernel), P())
        self.bias = parameter(jnp.zeros(width), b_D)

    def __call__(self, x: Float[Array, '... E']) -> Float[Array, '... D']:
        """Returns the map of the last axis."""
        square = jnp.square(self.kernel[...].astype(jnp.float32)).sum()
        gain = self.length[...].astype(jnp.float32) * jax.lax.rsqrt(square)
        y = contract(x, self.kernel[...], 1, b_D)
        return y * gain.astype(y.dtype) + self.bias[...]


def affine(width_in: int, width: int, *, normed: bool, rngs: nnx.Rngs) -> Linear | Directed:
    """Returns a Linear with a bias; `normed`: one whose kernel gives a direction alone."""
    if normed:
        return Directed(width_in, width, rngs=rngs)
    return Linear(width_in, width, bias=True, spec=w_DE, rngs=rngs)


class Layer(nnx.Module):
    """relu(map x), or tanh(map x) * sigmoid(gate x): the gated tanh of Teney et al. 2018."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        gated: bool = False  # tanh and a gate in the place of relu
        normed: bool = False  # kernels give directions, their lengths are parameters of their own

        def build(self, width_in: int, width: int, *, rngs: nnx.Rngs) -> 'Layer':
            """Builds the layer."""
            return Layer(self, width_in, width, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, *, rngs: nnx.Rngs):
        self.map = affine(width_in, width, normed=c.normed, rngs=rngs)
        self.gate = affine(width_in, width, normed=c.normed, rngs=rngs) if c.gated else None

    def __call__(self, x: Float[Array, '... E']) -> Float[Array, '... D']:
        """Returns what leaves the layer."""
        y = self.map(x)
        return jax.nn.relu(y) if self.gate is None else jnp.tanh(y) * jax.nn.sigmoid(self.gate(x))
