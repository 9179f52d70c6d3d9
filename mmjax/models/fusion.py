# SPDX-License-Identifier: Apache-2.0
"""Fusion: how media tokens reach the text. They stand among it, or the text looks at them through cross-attention."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.block import CrossBranch, GatedBlock


class Splice:
    """Media tokens take the places of placeholder tokens."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        pass


class CrossAttention:
    """A token looks at the media of its media_span, before some of the decoder's layers or within them (BLIP)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        block: GatedBlock.Config | CrossBranch.Config
        every: int = 4
        first: int | None = None  # they stand at the layers first, first + every, ...; None: every - 1

        @property
        def start(self) -> int:
            """The first layer that has one."""
            return self.every - 1 if self.first is None else self.first


def splice(text: Float[Array, 'B L D'], media: Float[Array, 'B S D'], slot: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    """Puts media token slot[b, l] at text[b, l] wherever slot >= 0."""
    found = jax.vmap(lambda media, slot: media[slot])(media, jnp.maximum(slot, 0))
    return jnp.where((slot >= 0)[..., None], found.astype(text.dtype), text)


def of_media(slot: Int[Array, 'B L'], signs: int) -> Bool[Array, 'B L']:
    """Says which tokens belong to media, their signs on either side included (signs = 1).

    slot   - - 0 1 2 - -
           . 1 1 1 1 1 .
    """
    there = slot >= 0
    for _ in range(signs):
        padded = jnp.pad(there, ((0, 0), (1, 1)))
        there = there | padded[:, 2:] | padded[:, :-2]
    return there


def together(x: Float[Array, 'N P D'], count: Int[Array, 'N'], frames: int) -> Float[Array, 'N P D']:
    """Moves the tokens of all frames of a medium, `count` at the front of each frame, to its front without gaps.

    count 2, frames of 3      a b . c d .   ->   a b c d . .
    """
    most, p = x.shape[1] // frames, jnp.arange(x.shape[1])
    one = jnp.maximum(count, 1)[:, None]
    index = jnp.minimum(p // one * most + p % one, p[-1])
    return jax.vmap(lambda x, i: x[i])(x, index)
