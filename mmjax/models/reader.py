# SPDX-License-Identifier: Apache-2.0
"""A connector that reads: words that belong to a medium look at its features, and become the tokens passed on.

N media, n features of a medium, E features' width, W words, D width.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax.models.connector import Grid
from mmjax.models.decoder import Decoder
from mmjax.nn.block import CrossBranch


class Reader(nnx.Module):
    """A text encoder with a look at the picture in every block: it gives one token for each word (BLIP's questions)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        text: Decoder.Config
        cross: CrossBranch.Config
        most_words: int = 32  # W: the most words of a medium

        @property
        def words_vocab(self) -> int:
            """How many ids of words it knows."""
            return self.text.vocab

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return 1, self.most_words

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'Reader':
            """Builds the part; its tokens are as wide as its text model, which must be `width` where one is given."""
            if width is not None and width != self.text.width:
                raise ValueError(f'Reader.Config.text is {self.text.width} wide, the tokens must be {width}')
            return Reader(self, width_in, rngs=rngs)

    def __init__(self, c: Config, width_in: int, *, rngs: nnx.Rngs):
        self.width = c.text.width
        self.text = c.text.build(cross=c.cross, media_width=width_in, rngs=rngs)

    def __call__(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N'], words: Int[Array, 'N W'] | None
    ) -> Float[Array, 'N W D']:
        """Returns one token for each word; words are -1 behind the last one, and what stands there is arbitrary."""
        if words is None:
            raise ValueError(
                'a Reader gives tokens for the words beside a picture, and there are none: set layout.beside'
            )
        span, position, looks = reading(words, count)
        x = self.text.embed_tokens(jnp.maximum(words, 0))
        return self.text(x, span, position, media=features, media_span=looks)


def reading(
    words: Int[Array, 'N W'], count: Int[Array, 'N']
) -> tuple[Int[Array, 'N W 2'], Int[Array, 'N W'], Int[Array, 'N W 2']]:
    """Returns the spans over words, the places, and the spans over `count` features of words that see all of both.

    words 7 8 9 -1, count 5      (0,3) (0,3) (0,3) (0,0)      over features (0,5) (0,5) (0,5) (0,0)
    """
    there = words >= 0
    both = lambda end: jnp.stack([end * 0, end], axis=-1)
    length = there.sum(axis=1, keepdims=True)
    position = jnp.broadcast_to(jnp.arange(words.shape[1]), words.shape)
    return both(there * length), position, both(there * count[:, None])
