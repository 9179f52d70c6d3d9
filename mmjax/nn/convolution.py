# SPDX-License-Identifier: Apache-2.0
"""A convolution over maps [N, h, w, C], and how maps change their size.

N maps, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mmjax.nn.layers import normal, parameter
from mmjax.sharding import P, b_D, reshape_rows


class Convolution(nnx.Module):
    """A square window in steps of one, with a bias; `padding` zeros on every side."""

    def __init__(self, channels: int, out: int, side: int, *, padding: int = 0, rngs: nnx.Rngs):
        self.padding = padding
        std = (2 / (side * side * channels)) ** 0.5
        self.kernel = parameter(normal(rngs.params(), (side, side, channels, out), std), P(None, None, None, None))
        self.bias = parameter(jnp.zeros(out), b_D)

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N i j E']:
        """Returns the map."""
        kernel = self.kernel[...]
        dimensions, padding = ('NHWC', 'HWIO', 'NHWC'), [(self.padding, self.padding)] * 2
        y = jax.lax.conv_general_dilated(x.astype(kernel.dtype), kernel, (1, 1), padding, dimension_numbers=dimensions)
        return y + self.bias[...]


def halved(x: Float[Array, 'N h w C']) -> Float[Array, 'N i j C']:
    """Returns the largest of every square of 2 x 2; an odd last row or column is left out."""
    n, h, w, c = x.shape
    squares = reshape_rows(x[:, : h // 2 * 2, : w // 2 * 2], (n, h // 2, 2, w // 2, 2, c))
    return squares.max(axis=(2, 4))


def stretched(x: Float[Array, 'N h w C'], size: tuple[int, int]) -> Float[Array, 'N i j C']:
    """Returns maps of another size, linear in between, the corners on the corners."""
    down, across = (jnp.asarray(_between(old, new), x.dtype) for old, new in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum('ih,jw,NhwC->NijC', down, across, x)


def _between(old: int, new: int) -> np.ndarray:
    at = np.arange(new)[:, None] * ((old - 1) / max(new - 1, 1))
    return np.maximum(1 - np.abs(at - np.arange(old)), 0).astype(np.float32)
