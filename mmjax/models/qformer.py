# SPDX-License-Identifier: Apache-2.0
"""The Q-Former: learned queries look at a medium's features in some layers, beside words in all of them (BLIP-2).

    two-way         q q q w w .      (0,5) (0,5) (0,5) (0,5) (0,5) (0,0)     instructions, matching
    captions        q q q w w .      (0,3) (0,3) (0,3) (0,4) (0,5) (0,0)     queries never see the words
    apart           q q q w w .      (0,3) (0,3) (0,3) (3,5) (3,5) (0,0)     contrast: two encoders with shared weights

Queries and words share self-attention; each kind has an MLP of its own, and only queries look at features.

N media, T frames, n features of a frame, E features' width, Q queries, W words, D width.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.models.connector import Grid
from mmjax.models.heads import Heads, padded
from mmjax.models.vision import everything
from mmjax.nn import layers, stack
from mmjax.nn.attention import Attention, Planned
from mmjax.nn.block import CrossBranch
from mmjax.nn.layers import Embed, Norm, normal, parameter
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.sharding import w_DE, w_LD, w_VD

SEEING = ('two-way', 'captions', 'apart')


class Words(nnx.Module):
    """What enters for words: their vectors and those of their places."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        vocab: int = 30523  # BERT's, and behind it a sign
        begin: int = 30522  # the sign that takes the place of a caption's first word where it is to be written
        most: int = 32  # W: the most words of a medium
        places: int = 512  # learned positions

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        self.begin = c.begin
        self.embed = Embed(padded(c.vocab), width, spec=w_VD, rngs=rngs)
        self.position = Learned.Config(length=c.places).build(width, rngs=rngs)

    def __call__(self, words: Int[Array, 'N W']) -> Float[Array, 'N W D']:
        """Returns the vectors of words; -1 stands for none, and for it something arbitrary."""
        place = jnp.broadcast_to(jnp.arange(words.shape[1]), words.shape)
        return self.embed(jnp.maximum(words, 0)) + self.position(place)


class QformerBlock(nnx.Module):
    """norm(x + attn x); what queries alone do; norm(x + mlp x) with one MLP for queries and one for words."""

    def __init__(self, c: 'Qformer.Config', *, rngs: nnx.Rngs):
        norm = lambda: c.norm.build(c.width, rngs=rngs)
        self.attn, self.attn_norm = c.attn.build(c.width, rngs=rngs), norm()
        self.mlp, self.mlp_norm = c.mlp.build(c.width, rngs=rngs), norm()
        self.word_mlp = c.mlp.build(c.width, rngs=rngs) if c.words else None
        self.word_norm = norm() if c.words else None

    def __call__(
        self,
        x: Float[Array, 'N S D'],
        span: Int[Array, 'N S 2'] | Planned,
        queries: int,
        look: Callable[[Array], Array] | None,
    ) -> Float[Array, 'N S D']:
        """Returns the block's output for queries and the words behind them."""
        x = self.attn_norm(x + self.attn(x, self.attn.keys_values(x), span))
        asked, words = x[:, :queries], x[:, queries:]
        asked = asked if look is None or not queries else look(asked)
        asked = self.mlp_norm(asked + self.mlp(asked))
        if not words.shape[1]:
            return asked
        return jnp.concatenate([asked, self.word_norm(words + self.word_mlp(words))], axis=1)


class Qformer(nnx.Module):
    """Gives Q tokens of a medium, or of each of its frames, which may depend on words that stand beside it."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        width: int = 768
        depth: int = 12
        attn: Attention.Config
        mlp: Mlp.Config
        norm: Norm.Config = dataclasses.field(default_factory=lambda: Norm.Config(eps=1e-12))
        queries: int = 32
        every: int = 2  # layers 0, every, 2 * every ... look at the features
        words: Words.Config | None = None  # None: it cannot read
        instructed: bool = False  # the tokens depend on the words (InstructBLIP); False: only objectives read them
        heads: Heads.Config | None = None  # what objectives of pairs need (BLIP-2's first stage)
        per_frame: bool = False  # each frame gives Q tokens (InstructBLIP-Video); False: all frames together do
        remat: str = 'none'

        @property
        def most_words(self) -> int:
            """The most words that are read beside a medium."""
            return self.words.most if self.words else 0

        @property
        def words_vocab(self) -> int:
            """How many ids of words it knows."""
            return self.words.vocab if self.words else 0

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return (frames if self.per_frame else 1), self.queries

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'Qformer':
            """Builds the part; what the queries collect is mapped to `width` where one is given."""
            return Qformer(self, width_in, width, frames, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int | None, frames: int, *, rngs: nnx.Rngs):
        if (c.instructed or c.heads) and not c.words:
            what = 'instructed' if c.instructed else 'heads'
            raise ValueError(f'Qformer.Config.{what} needs words to be read, but Qformer.Config.words is None')
        self.remat, self.every, self.width = c.remat, c.every, width or c.width
        self.instructed, self.frames = c.instructed, frames if c.per_frame else 1
        self.latents = parameter(normal(rngs.params(), (c.queries, c.width), 0.02), w_LD)
        self.words = Words(c.words, c.width, rngs=rngs) if c.words else None
        self.norm = c.norm.build(c.width, rngs=rngs)
        self.blocks = stack.build(lambda r: QformerBlock(c, rngs=r), c.depth, rngs)
        branch = CrossBranch.Config(attn=c.attn, norm=None, sum_norm=c.norm)
        looks = len(stack.crossings(c.depth, c.every, 0))
        self.xattn = stack.build(lambda r: branch.build(c.width, width_in, rngs=r), looks, rngs)
        self.out = layers.Linear(c.width, width, bias=True, spec=w_DE, rngs=rngs) if width else None
        self.heads = c.heads.build(c.width, c.words.vocab, rngs=rngs) if c.heads else None

    def __call__(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N'], words: Int[Array, 'N W'] | None = None
    ) -> Float[Array, 'N P D']:
        """Returns the tokens of every medium."""
        if self.instructed and words is None:
            raise ValueError('instructed queries stand beside words, and there are none: set layout.beside')
        media, each = features.shape[0], features.shape[1] // self.frames
        if self.frames > 1:
            count = jnp.clip(count[:, None] - jnp.arange(self.frames) * each, 0, each).reshape(-1)
            features = sharding.reshape_rows(features, (media * self.frames, each, features.shape[2]))
            if words is not None:
                each = jnp.broadcast_to(words[:, None], (media, self.frames, words.shape[1]))
                words = sharding.reshape_rows(each, (media * self.frames, words.shape[1]))
        hidden, _ = self.read(features, count, words if self.instructed else None, 'two-way')
        hidden = hidden if self.out is None else self.out(hidden)
        return sharding.reshape_rows(hidden, (media, self.frames * hidden.shape[1], hidden.shape[2]))

    def read(
        self,
        features: Float[Array, 'N n E'] | None,
        count: Int[Array, 'N'] | None,
        words: Int[Array, 'N W'] | None,
        seeing: str,
    ) -> tuple[Float[Array, 'N Q D'], Float[Array, 'N W D']]:
        """Returns what leaves the last block: (of the queries, of the words, -1 behind their last one).

        `count` features of each medium are real. Without features words are read alone, and queries are left out.
        """
        if seeing not in SEEING:
            raise ValueError(f'a Q-Former sees {seeing!r}; choose one of {SEEING}')
        if words is not None and self.words is None:
            raise ValueError('these queries stand beside no words: set Qformer.Config.words')
        rows = len(words) if features is None else len(features)
        queries = 0 if features is None else self.latents.shape[0]
        parts = [sharding.broadcast_rows(self.latents[...], rows)] if queries else []
        x = self.norm(jnp.concatenate([*parts, *([] if words is None else [self.words(words)])], axis=1))
        length = jnp.zeros(rows, jnp.int32) if words is None else (words >= 0).sum(axis=1)
        span = self.blocks.attn.plan(spans(queries, x.shape[1] - queries, length, seeing), x.shape[1])
        looks = None
        if queries:
            looks = self.xattn.attn.plan(everything(rows, queries, 1) * count[:, None, None], features.shape[1])

        def body(x: Array, block: QformerBlock, layer: Array, branch: CrossBranch | None) -> Array:
            look = None
            if branch is not None and queries:
                look = lambda asked: branch(asked, branch.keys_values(features), looks)
            return block(x, span, queries, look)

        x = stack.run_crossed(body, x, self.blocks, self.xattn, every=self.every, first=0, policy=self.remat)
        return x[:, :queries], x[:, queries:]


def spans(queries: int, words: int, length: Int[Array, 'N'], seeing: str) -> Int[Array, 'N S 2']:
    """Returns what queries and the `length` words behind them see of each other, drawn at the top of this file."""
    place = jnp.arange(queries + words)
    is_query, end = place < queries, queries + length[:, None]
    # Sums with `end`, not broadcasts: what comes out lies where the rows lie.
    two_way = end + 0 * place
    first, last = 0 * two_way, two_way
    if seeing != 'two-way':
        of_words = two_way if seeing == 'apart' else 0 * end + place + 1
        last = jnp.where(is_query, queries, of_words)
    if seeing == 'apart':
        first = 0 * end + jnp.where(is_query, 0, queries)
    there = (place < end)[..., None]
    return jnp.where(there, jnp.stack([first, last], axis=-1), 0)
