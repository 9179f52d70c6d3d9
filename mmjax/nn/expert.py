# SPDX-License-Identifier: Apache-2.0
"""A block's second set of weights: some tokens are read by it, all others by the first; all see each other.

B rows, L tokens, D width.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from mmjax.nn.attention import Attention
from mmjax.nn.mlp import Mlp

Tree = TypeVar('Tree')


class Expert(nnx.Module):
    """Queries, keys, values, output and MLP of its own (the visual expert of CogVLM, Wang et al. 2023).

    Which tokens it reads the host decides. Both sets compute every token and one result is taken: places of pictures
    change from row to row, and an array cut out by them would have no fixed size.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config  # heads and their width are those of the first set
        mlp: Mlp.Config

        def build(self, width: int, first: Attention.Config, *, out_scale: float = 1.0, rngs: nnx.Rngs) -> 'Expert':
            """Builds the part beside attention `first`."""
            shape = lambda c: (c.heads, c.kv_heads or c.heads, c.width_of_head(width))
            if shape(self.attn) != shape(first):
                raise ValueError(
                    f'Expert: attn has (heads, kv_heads, head width) {shape(self.attn)}, the block {shape(first)}; '
                    'both write into one attention, so they must be equal'
                )
            return Expert(self, width, out_scale, rngs=rngs)

    def __init__(self, c: Config, width: int, out_scale: float, *, rngs: nnx.Rngs):
        self.attn = c.attn.build(width, out_scale=out_scale, rngs=rngs)
        self.mlp = c.mlp.build(width, out_scale=out_scale, rngs=rngs)


def choose(expert: Int[Array, 'B L'], first: Tree, second: Tree) -> Tree:
    """Returns `second` where expert is 1, else `first`; arrays begin with [B, L]."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(expert.reshape(*expert.shape, *(1,) * (a.ndim - 2)) == 1, b, a)

    return jax.tree.map(pick, first, second)
