# SPDX-License-Identifier: Apache-2.0
"""Fusion: how media tokens reach the text. They stand among it, or the text looks at them through cross-attention."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
