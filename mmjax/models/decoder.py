# SPDX-License-Identifier: Apache-2.0
"""The language model: embeds tokens, runs blocks over them (and media beside them), names the next one.

B rows, L tokens, D width, V vocabulary (padded).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax.models.trunk import Cache, Trunk
from mmjax.nn.block import CrossBranch, GatedBlock
from mmjax.nn.layers import Embed, Linear, Unembedding, parameter
from mmjax.nn.mlp import Transform
from mmjax.sharding import P, w_DV, w_VD

__all__ = ['Cache', 'Decoder']


class Decoder(Trunk):
    """A trunk with words at both ends."""

    @dataclasses.dataclass(kw_only=True)
    class Config(Trunk.Config):
        vocab: int
        width: int
        transform: Transform.Config | None = None  # between the last block and the head (BERT)
        tied: bool = False  # the head is the embedding table
        head_bias: bool = False
        embed_std: float = 0.02  # of the embedding table at first
        embed_scale: float = 1.0  # of token embeddings only (Gemma: sqrt(width))
        logit_scale: float = 1.0
        logit_cap: float | None = None  # logits become cap * tanh(logits / cap)
        vocab_multiple: int = 128  # the table is padded to it; 128 * tp keeps every shard a multiple of TPU lanes

        @property
        def padded_vocab(self) -> int:
            """V: the rows of the table."""
            return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

        def build(
            self,
            *,
            cross: GatedBlock.Config | CrossBranch.Config | None = None,
            every: int = 1,
            first: int = 0,
            media_width: int | None = None,
            rngs: nnx.Rngs,
        ) -> 'Decoder':
            """Builds the model; parts that look at media stand at the layers first, first + every, ...

            A GatedBlock stands before its layer, a CrossBranch within it, between its attention and its MLP.
            """
            return Decoder(self, cross, every, first, media_width or self.width, rngs=rngs)

    def __init__(self, c: Config, cross: Any, every: int, first: int, media_width: int, *, rngs: nnx.Rngs):
        self.vocab, self.embed_scale = c.vocab, c.embed_scale
        self.logit_scale, self.logit_cap = c.logit_scale, c.logit_cap
        self.embed = Embed(c.padded_vocab, c.width, spec=w_VD, std=c.embed_std, rngs=rngs)
        super().__init__(c, c.width, cross, every, first, media_width, rngs=rngs)
        self.transform = c.transform.build(c.width, rngs=rngs) if c.transform else None
        self.head = None if c.tied else Linear(c.width, c.padded_vocab, bias=c.head_bias, spec=w_DV, rngs=rngs)
        self.bias = parameter(jnp.zeros(c.padded_vocab), P('tp')) if c.tied and c.head_bias else None

    def embed_tokens(self, tokens: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns the vectors of tokens, before positions; media may be spliced among them."""
        x = self.embed(tokens)
        # Rounded to the table's type first: that is how models with scaled embeddings were trained.
        return x if self.embed_scale == 1 else x * jnp.asarray(self.embed_scale, x.dtype)

    def leave(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
        """Returns what the head gets: what leaves the last block normed, and transformed where the head asks for it."""
        x = super().leave(x)
        return x if self.transform is None else self.transform(x)

    def logits(self, hidden: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        """Returns float32 scores of the next token; those of the vocabulary's padding are -inf."""
        y = self.embed.attend(hidden) if self.head is None else self.head(hidden, jnp.float32)
        y = y if self.bias is None else y + self.bias[...]
        y = y * self.logit_scale
        if self.logit_cap is not None:
            y = self.logit_cap * jnp.tanh(y / self.logit_cap)
        if y.shape[-1] == self.vocab:
            return y
        return jnp.where(jax.lax.broadcasted_iota(jnp.int32, (1, 1, y.shape[-1]), 2) < self.vocab, y, -jnp.inf)

    def unembedding(self) -> Unembedding:
        """Returns what `logits` computes with."""
        if self.head is None:
            table, axis, bias = self.embed.table[...], 0, self.bias
        else:
            table, axis, bias = self.head.kernel[...], 1, self.head.bias
            if self.head.lora is not None:
                table = table + self.head.lora.kernel()
        bias = None if bias is None else bias[...]
        return Unembedding(table, axis, bias, self.vocab, self.logit_scale, self.logit_cap)
