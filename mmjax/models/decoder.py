# SPDX-License-Identifier: Apache-2.0
"""The language model: embeds tokens, runs blocks over them (and media beside them), names the next one.

B rows, L tokens, S cache places, D width, V vocabulary (padded), T media tokens a row.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax.nn import stack
from mmjax.nn.block import Block, CrossBranch, GatedBlock
from mmjax.nn.cache import KeyValue, recall, zeros
from mmjax.nn.layers import Embed, Linear, Norm, Unembedding, parameter
from mmjax.nn.mlp import Transform
from mmjax.nn.positions import Learned, Rotary, Sinusoidal
from mmjax.sharding import P, w_DV, w_VD


class Cache(NamedTuple):
    """What decoding keeps: keys and values of every block, and those of the media for every inserted block."""

    text: KeyValue  # each [depth, B, S, K, H]
    media: KeyValue | None = None  # each [inserted, B, T, K, H]


class Decoder(nnx.Module):
    """A Transformer over tokens. What they may see is the caller's business: spans make it a decoder or an encoder."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        vocab: int
        width: int
        depth: int
        block: Block.Config
        embed_norm: Norm.Config | None = None  # of what enters the first block, positions included (BERT)
        norm: Norm.Config | None = dataclasses.field(default_factory=Norm.Config)  # after the last block
        transform: Transform.Config | None = None  # of what leaves, before the head (BERT)
        position: Rotary.Config | Sinusoidal.Config | Learned.Config | None = dataclasses.field(
            default_factory=Rotary.Config
        )
        tied: bool = False  # the head is the embedding table
        head_bias: bool = False
        embed_std: float = 0.02  # of the embedding table at first
        embed_scale: float = 1.0  # of token embeddings only (Gemma: sqrt(width))
        input_scale: float = 1.0  # of everything that enters, spliced media too (Kosmos-2: sqrt(width))
        logit_scale: float = 1.0
        logit_cap: float | None = None  # logits become cap * tanh(logits / cap)
        vocab_multiple: int = 128  # the table is padded to it; 128 * tp keeps every shard a multiple of TPU lanes
        remat: str = 'none'  # what the backward pass computes again: 'none', 'block', 'dots'

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
        self.vocab, self.depth, self.remat = c.vocab, c.depth, c.remat
        self.embed_scale, self.input_scale = c.embed_scale, c.input_scale
        self.logit_scale, self.logit_cap = c.logit_scale, c.logit_cap
        attn = c.block.attn
        self.kv_shape = (attn.kv_heads or attn.heads, attn.width_of_head(c.width))
        self.embed = Embed(c.padded_vocab, c.width, spec=w_VD, std=c.embed_std, rngs=rngs)
        turns = isinstance(c.position, Rotary.Config)
        self.rotary = c.position.build(self.kv_shape[1]) if turns else None
        self.position = c.position.build(c.width, rngs=rngs) if c.position and not turns else None
        self.blocks = stack.build(lambda r: c.block.build(c.width, rngs=r), c.depth, rngs)
        self.every, self.first = every, first
        inserted = lambda r: cross.build(c.width, media_width, rngs=r)
        self.xattn = stack.build(inserted, len(stack.crossings(c.depth, every, first)), rngs) if cross else None
        self.inside = isinstance(cross, CrossBranch.Config)
        self.embed_norm = c.embed_norm.build(c.width, rngs=rngs) if c.embed_norm else None
        self.norm = c.norm.build(c.width, rngs=rngs) if c.norm else None
        self.transform = c.transform.build(c.width, rngs=rngs) if c.transform else None
        self.head = None if c.tied else Linear(c.width, c.padded_vocab, bias=c.head_bias, spec=w_DV, rngs=rngs)
        self.bias = parameter(jnp.zeros(c.padded_vocab), P('tp')) if c.tied and c.head_bias else None

    def embed_tokens(self, tokens: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns the vectors of tokens, before positions; media may be spliced among them."""
        x = self.embed(tokens)
        # Rounded to the table's type first: that is how models with scaled embeddings were trained.
        return x if self.embed_scale == 1 else x * jnp.asarray(self.embed_scale, x.dtype)

    def enter(self, x: Float[Array, 'B L D'], position: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns what the first block gets: everything scaled, with the positions that are added, and normed."""
        if self.input_scale != 1:
            x = x * jnp.asarray(self.input_scale, x.dtype)
        x = x if self.position is None else x + self.position(position).astype(x.dtype)
        return x if self.embed_norm is None else self.embed_norm(x)

    def __call__(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L'],
        *,
        media: Float[Array, 'B T E'] | None = None,
        media_span: Int[Array, 'B L 2'] | None = None,
        expert: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L D']:
        """Returns the hidden states after the last norm; media are for the parts that look at them only.

        Without media a model with CrossBranches runs as if it had none: BLIP's text encoder alone. `expert` names the
        tokens that the blocks' second set of weights reads, where they have one.
        """
        return self._fold(x, span, position, media=media, media_span=media_span, expert=expert)[0]

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
            table, axis, bias = self.embed.table[...], 0, None if self.bias is None else self.bias[...]
        else:
            table, axis, bias = self.head.kernel[...], 1, None if self.head.bias is None else self.head.bias[...]
            if self.head.lora is not None:
                table = table + self.head.lora.kernel()
        return Unembedding(table, axis, bias, self.vocab, self.logit_scale, self.logit_cap)

    def init_cache(self, rows: int, length: int, dtype: DTypeLike) -> Cache:
        """Returns an empty cache for `rows` rows of at most `length` tokens."""
        return Cache(zeros(self.depth, rows, length, *self.kv_shape, dtype))

    def prefill(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L'],
        cache: Cache,
        *,
        media: Float[Array, 'B T E'] | None = None,
        media_span: Int[Array, 'B L 2'] | None = None,
        expert: Int[Array, 'B L'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Reads a prompt: returns what __call__ does, and the cache with places 0..L-1 written, media too."""
        kept = None
        if self.xattn is not None:
            # Computed here for all inserted blocks, so that a step reads them and never sees the media again.
            kept = jax.lax.scan(lambda _, block: (None, block.keys_values(media)), None, self.xattn)[1]
            kept = jax.tree.map(lambda x: x.astype(cache.text.k.dtype), kept)
        hidden, text = self._fold(x, span, position, text=cache.text, kept=kept, media_span=media_span, expert=expert)
        return hidden, Cache(text, kept)

    def step(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L'],
        write: Int[Array, 'B'],
        cache: Cache,
        *,
        media_span: Int[Array, 'B L 2'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Goes on by L tokens (usually one): row b's are written at places write[b]..; spans speak of cache places."""
        hidden, text = self._fold(
            x, span, position, text=cache.text, write=write, kept=cache.media, media_span=media_span
        )
        return hidden, Cache(text, cache.media)

    def _fold(
        self, x, span, position, *, text=None, write=None, kept=None, media=None, media_span=None, expert=None
    ) -> tuple[Array, KeyValue | None]:
        x = self.enter(x, position)
        turn = self.rotary(position) if self.rotary is not None else None
        place = None if write is None else write[:, None] + jnp.arange(x.shape[1])

        def body(carry, block, layer, inserted=None):
            (x, text), look = carry, None
            remember = None if text is None else lambda fresh: recall(text, fresh, layer, write)
            if inserted is not None:
                part, kv = inserted
                kv = part.keys_values(media) if kv is None else kv
                look = lambda x: part(x, kv, media_span)
            x = x if look is None or self.inside else look(x)
            between = look if self.inside else None
            return block(x, span, turn, remember=remember, place=place, expert=expert, between=between)

        if self.xattn is None or (self.inside and media is None and kept is None):
            x, text = stack.run(body, (x, text), self.blocks, policy=self.remat)
        else:
            x, text = stack.run_crossed(
                body, (x, text), self.blocks, (self.xattn, kept),
                every=self.every, first=self.first, policy=self.remat,
            )  # fmt: skip
        x = x if self.norm is None else self.norm(x)
        return x if self.transform is None else self.transform(x), text
