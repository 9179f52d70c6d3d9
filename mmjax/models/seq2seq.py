# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder: one reads the input both ways, the other writes and looks at what the first one read (T5, BART).

Both run over one row, which holds the input and then the output; what a token belongs to is said by its spans:

    places        0  1  2  3 | 4  5  6          4 is the token that starts the output
    span          0-4 (each) | 4-5 4-6 4-7      what it sees of its own stack: the input all, the output causally
    media_span    empty      | 0-4 (each)       places of the row, as the encoder left them, that the decoder looks at

So packed rows, spliced media, caches and losses are those of a decoder alone, at the price of L tokens in both stacks.
Media stand among the input's words: the arguments `media` and `expert` are there for the sake of the decoder's
signature and must be None. To read the input and write the output as arrays of their own, call `encode` and `decoder`.

B rows, L tokens, D width, V vocabulary.
"""

import dataclasses

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax.models.decoder import Decoder
from mmjax.models.trunk import Cache, Position, Trunk
from mmjax.nn.block import Block, CrossBranch
from mmjax.nn.layers import Unembedding


class Seq2seq(nnx.Module):
    """A trunk that encodes, and a decoder whose every block looks at it. Both embed tokens by one table."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        encoder: Trunk.Config
        decoder: Decoder.Config
        cross: CrossBranch.Config  # in each of the decoder's blocks

        @property
        def width(self) -> int:
            """D: of both stacks."""
            return self.decoder.width

        @property
        def vocab(self) -> int:
            """The number of words."""
            return self.decoder.vocab

        @property
        def position(self) -> Position | None:
            """The decoder's positions."""
            return self.decoder.position

        @property
        def block(self) -> Block.Config:
            """The decoder's block."""
            return self.decoder.block

        def build(self, *, rngs: nnx.Rngs) -> 'Seq2seq':
            """Builds the model."""
            return Seq2seq(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        self.vocab = c.vocab
        self.encoder = c.encoder.build(c.width, rngs=rngs)
        self.decoder = c.decoder.build(cross=c.cross, rngs=rngs)

    def embed_tokens(self, tokens: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns the vectors of tokens, before positions; media may be spliced among them."""
        return self.decoder.embed_tokens(tokens)

    def encode(
        self, x: Float[Array, 'B L D'], span: Int[Array, 'B L 2'], position: Int[Array, 'B L']
    ) -> Float[Array, 'B L D']:
        """Returns what the decoder looks at."""
        return self.encoder(x, span, position)

    def __call__(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L'],
        *,
        media: None = None,
        media_span: Int[Array, 'B L 2'],
        expert: None = None,
    ) -> Float[Array, 'B L D']:
        """Returns the decoder's hidden states after the last norm, of which those of outputs have a meaning."""
        source = self.encode(x, span, position)
        return self.decoder(x, span, position, media=source, media_span=media_span)

    def logits(self, hidden: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        """Returns float32 scores of the next token; those of the vocabulary's padding are -inf."""
        return self.decoder.logits(hidden)

    def unembedding(self) -> Unembedding:
        """Returns what `logits` computes with."""
        return self.decoder.unembedding()

    def init_cache(self, rows: int, length: int, dtype: DTypeLike) -> Cache:
        """Returns an empty cache for `rows` rows of at most `length` tokens."""
        return self.decoder.init_cache(rows, length, dtype)

    def prefill(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L'],
        cache: Cache,
        *,
        media: None = None,
        media_span: Int[Array, 'B L 2'],
        expert: None = None,
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Reads inputs, with the first tokens of their outputs behind them: what __call__ does, and the cache."""
        source = self.encode(x, span, position)
        return self.decoder.prefill(x, span, position, cache, media=source, media_span=media_span)

    def step(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L'],
        write: Int[Array, 'B'],
        cache: Cache,
        *,
        media_span: Int[Array, 'B L 2'],
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Goes on by L tokens of the output, as Trunk.step; they look at the input of their row again."""
        return self.decoder.step(x, span, position, write, cache, media_span=media_span)
