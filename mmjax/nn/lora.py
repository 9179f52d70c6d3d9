# SPDX-License-Identifier: Apache-2.0
"""Low-rank additions to the Linears of a built model: kernel + a @ b * alpha / rank, where b starts at zero.

`add` puts them in, a stage trains them by the paths `.*/lora/[ab]`, `merge` folds them into the kernels.
"""

import math
import re
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmjax.nn.contract import contract
from mmjax.nn.layers import Linear, normal
from mmjax.sharding import P


class Lora(nnx.Module):
    """The factors a [in..., R] and b [R, out...] of a Linear's addition, stacked where the Linear is stacked."""

    def __init__(self, linear: Linear, rank: int, alpha: float, *, rngs: nnx.Rngs):
        shape, spec, num_in = linear.kernel.shape, linear.spec, linear.num_in
        lead = len(shape) - len(spec)
        depth, inner, outer = shape[:lead], shape[lead : lead + num_in], shape[lead + num_in :]
        self.scale, self.num_in, self.out_axes = alpha / rank, num_in, linear.out_axes
        a = normal(rngs.params(), (*depth, *inner, rank), 1 / math.sqrt(math.prod(inner)))
        self.a = nnx.Param(a.astype(linear.kernel.dtype), spec=P(*spec[:num_in], None))
        self.b = nnx.Param(jnp.zeros((*depth, rank, *outer), linear.kernel.dtype), spec=P(None, *spec[num_in:]))

    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        """Returns x @ a @ b * alpha / rank."""
        small = contract(x, self.a[...], self.num_in, P(None))
        return contract(small, self.b[...], 1, self.out_axes) * self.scale

    def kernel(self) -> Float[Array, '...']:
        """Returns a @ b * alpha / rank, in the shape of the Linear's kernel."""
        a, b, lead = self.a[...], self.b[...], self.a.ndim - self.num_in - 1
        flat = a.reshape(*a.shape[:lead], -1, a.shape[-1]) @ b.reshape(*b.shape[: lead + 1], -1)
        return flat.reshape(*a.shape[:-1], *b.shape[lead + 1 :]) * self.scale


def add(model: nnx.Module, patterns: Sequence[str], *, rank: int, alpha: float, rngs: nnx.Rngs) -> list[str]:
    """Adds to every Linear whose path fully matches a pattern, and returns the paths; outputs stay as they were.

    A path is e.g. `decoder/blocks/attn/q`. Each pattern must match, or it is an error.
    """
    linears = {'/'.join(map(str, path)): part for path, part in nnx.iter_modules(model) if isinstance(part, Linear)}
    found = {pattern: [path for path in linears if re.fullmatch(pattern, path)] for pattern in patterns}
    for pattern, matches in found.items():
        if not matches:
            raise ValueError(f'no Linear matches {pattern!r}; this model has {sorted(linears)}')
    paths = sorted(set().union(*found.values()))
    for path in paths:
        linears[path].lora = nnx.data(Lora(linears[path], rank, alpha, rngs=rngs))
    return paths


def merge(model: nnx.Module) -> None:
    """Folds every addition into its kernel and removes it."""
    for _, part in list(nnx.iter_modules(model)):
        if isinstance(part, Linear) and part.lora is not None:
            part.kernel[...] = part.kernel[...] + part.lora.kernel().astype(part.kernel.dtype)
            part.lora = nnx.data(None)
