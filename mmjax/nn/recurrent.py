# SPDX-License-Identifier: Apache-2.0
"""A gated recurrent unit (Cho et al. 2014), with torch's split of its biases.

N rows, L places, E width of what enters, H of the state.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mmjax.nn.layers import Linear
from mmjax.sharding import P


class Gru(nnx.Module):
    """One layer, one direction, from a state of zeros: h = (1 - z) * tanh(W x + r * U h) + z * h."""

    def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs):
        part = lambda size: Linear(size, (3, width), bias=True, spec=P('fsdp', None, None), rngs=rngs)
        self.width = width
        self.input, self.state = part(width_in), part(width)  # (reset, update, new)

    def __call__(self, x: Float[Array, 'N L E'], there: Bool[Array, 'N L'] | None = None) -> Float[Array, 'N H']:
        """Returns the state behind the last place; what is not `there` leaves the state as it is."""
        entered = jnp.moveaxis(self.input(x), 1, 0)
        seen = jnp.ones(entered.shape[:2], bool) if there is None else there.T

        def step(h: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
            (reset, update, new), (r, z, n) = (jnp.moveaxis(a, 1, 0) for a in (one[0], self.state(h)))
            update = jax.nn.sigmoid(update + z)
            new = jnp.tanh(new + jax.nn.sigmoid(reset + r) * n)
            return jnp.where(one[1][:, None], (1 - update) * new + update * h, h), None

        return jax.lax.scan(step, jnp.zeros_like(entered[0, :, 0]), (entered, seen))[0]
