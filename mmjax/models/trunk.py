# SPDX-License-Identifier: Apache-2.0
"""What lies between words and words: positions, blocks (and what looks at media beside them), the last norm.

B rows, L tokens, S cache places, D width, N heads, T media tokens a row, E their width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn import stack
from mmjax.nn.attention import narrow
from mmjax.nn.block import Block, CrossBranch
from mmjax.nn.cache import KeyValue, recall, zeros
from mmjax.nn.layers import Norm, normal, parameter
from mmjax.nn.positions import Learned, Relative, Rotary, Sinusoidal
from mmjax.sharding import w_LD

Position = Rotary.Config | Sinusoidal.Config | Learned.Config | Relative.Config


class Cache(NamedTuple):
    """What decoding keeps: keys and values of every block, and those of the media for every part that looks at them."""

    text: KeyValue  # each [depth, B, S, K, H]
    media: KeyValue | None = None  # each [inserted, B, T, K, H]


class Local:
    """Some layers see a window only: all but each `every`-th (Gemma 2 and 3)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        window: int  # keys that a query of such a layer sees at most, its own included
        every: int = 2  # layers every - 1, 2 * every - 1, ... see all that the spans let them
        position: Rotary.Config | None = None  # of the layers with a window; None: that of the others


class Trunk(nnx.Module):
    """A Transformer over vectors. What they may see is the caller's business: spans make it a decoder or an encoder."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        depth: int
        block: Block.Config
        embed_norm: Norm.Config | None = None  # of what enters the first block, positions included (BERT)
        norm: Norm.Config | None = dataclasses.field(default_factory=Norm.Config)  # after the last block
        position: Position | None = dataclasses.field(default_factory=Rotary.Config)
        local: Local.Config | None = None
        kinds: int = 0  # of tokens, with a learned vector each that is added where positions are (BERT's segments)
        input_scale: float = 1.0  # of everything that enters, spliced media too (Kosmos-2: sqrt(width))
        remat: str = 'none'  # what the backward pass computes again: 'none', 'block', 'dots'

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'Trunk':
            """Builds a trunk that looks at nothing but its own tokens."""
            return Trunk(self, width, rngs=rngs)

    def __init__(
        self, c: Config, width: int, cross: Any = None, every: int = 1, first: int = 0, media_width: int = 0, *, rngs
    ):
        self.depth, self.remat, self.input_scale = c.depth, c.remat, c.input_scale
        attn, kind = c.block.attn, c.position
        self.kv_shape = (attn.kv_heads or attn.heads, attn.width_of_head(width))
        turns, added = isinstance(kind, Rotary.Config), isinstance(kind, Sinusoidal.Config | Learned.Config)
        self.rotary = kind.build(self.kv_shape[1]) if turns else None
        self.position = kind.build(width, rngs=rngs) if added else None
        self.relative = kind.build(attn.heads, rngs=rngs) if isinstance(kind, Relative.Config) else None
        near = c.local and (c.local.position or (kind if turns else None))
        self.near_rotary = near.build(self.kv_shape[1]) if near else None
        self.window, self.global_every = (c.local.window, c.local.every) if c.local else (None, 1)
        self.blocks = stack.build(lambda r: c.block.build(width, rngs=r), c.depth, rngs)
        self.every, self.first, self.inside = every, first, isinstance(cross, CrossBranch.Config)
        inserted = lambda r: cross.build(width, media_width, rngs=r)
        self.xattn = stack.build(inserted, len(stack.crossings(c.depth, every, first)), rngs) if cross else None
        self.kinds = parameter(normal(rngs.params(), (c.kinds, width), 0.02), w_LD) if c.kinds else None
        self.embed_norm = c.embed_norm.build(width, rngs=rngs) if c.embed_norm else None
        self.norm = c.norm.build(width, rngs=rngs) if c.norm else None

    def enter(
        self, x: Float[Array, 'B L D'], position: Int[Array, 'B L *axes'], kind: Int[Array, 'B L'] | None = None
    ) -> Float[Array, 'B L D']:
        """Returns what the first block gets: everything scaled, with the positions that are added, and normed.

        `kind` says which of Config.kinds each token is; None: all are of the first.
        """
        if self.input_scale != 1:
            x = x * jnp.asarray(self.input_scale, x.dtype)
        if self.position is not None:
            x = x + self.position(position).astype(x.dtype)
        if self.kinds is not None:
            table = sharding.place(self.kinds[...], sharding.P()).astype(x.dtype)
            one = table[0] if kind is None else table.at[kind].get(out_sharding=sharding.where(sharding.act_BLD))
            x = x + one
        return x if self.embed_norm is None else self.embed_norm(x)

    def leave(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
        """Returns what leaves the last block, normed."""
        return x if self.norm is None else self.norm(x)

    def __call__(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L *axes'],
        *,
        media: Float[Array, 'B T E'] | None = None,
        media_span: Int[Array, 'B L 2'] | None = None,
        expert: Int[Array, 'B L'] | None = None,
        deep: Float[Array, 'G B L D'] | None = None,
        kind: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L D']:
        """Returns the hidden states after the last norm; media are for the parts that look at them only.

        Without media a model with CrossBranches runs as if it had none: BLIP's text encoder alone. `expert` names the
        tokens that the blocks' second set of weights reads, where they have one; `kind` is for `enter`.
        """
        more = dict(media=media, media_span=media_span, expert=expert, deep=deep)
        return self._fold(self.enter(x, position, kind), span, position, **more)[0]

    def init_cache(self, rows: int, length: int, dtype: DTypeLike) -> Cache:
        """Returns an empty cache for `rows` rows of at most `length` tokens."""
        return Cache(zeros(self.depth, rows, length, *self.kv_shape, dtype))

    def prefill(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L *axes'],
        cache: Cache,
        *,
        media: Float[Array, 'B T E'] | None = None,
        media_span: Int[Array, 'B L 2'] | None = None,
        expert: Int[Array, 'B L'] | None = None,
        deep: Float[Array, 'G B L D'] | None = None,
        kind: Int[Array, 'B L'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Reads a prompt: returns what __call__ does, and the cache with places 0..L-1 written, media too."""
        kept = None
        if self.xattn is not None:
            # Computed here for all inserted blocks, so that a step reads them and never sees the media again.
            kept = jax.lax.scan(lambda _, block: (None, block.keys_values(media)), None, self.xattn)[1]
            kept = jax.tree.map(lambda x: x.astype(cache.text.k.dtype), kept)
        more = dict(kept=kept, media_span=media_span, expert=expert, deep=deep)
        x = self.enter(x, position, kind)
        hidden, text = self._fold(x, span, position, text=cache.text, **more)
        return hidden, Cache(text, kept)

    def step(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L *axes'],
        write: Int[Array, 'B'],
        cache: Cache,
        *,
        media_span: Int[Array, 'B L 2'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Goes on by L tokens (usually one): row b's are written at places write[b]..; spans speak of cache places."""
        more = dict(kept=cache.media, media_span=media_span)
        hidden, text = self._fold(self.enter(x, position), span, position, text=cache.text, write=write, **more)
        return hidden, Cache(text, cache.media)

    def _fold(
        self,
        x,
        span,
        position,
        *,
        text=None,
        write=None,
        kept=None,
        media=None,
        media_span=None,
        expert=None,
        deep=None,
    ) -> tuple[Array, KeyValue | None]:
        place = None if write is None else write[:, None] + jnp.arange(x.shape[1])
        # A prompt looks at itself, what follows it at the whole row of the cache.
        view, bias = self._views(span, position, place, x.shape[1] if write is None else text.k.shape[2]), None
        if self.relative is not None:
            bias = self.relative(_own(span, place), x.shape[1] if write is None else text.k.shape[2])

        def body(carry, block, layer, inserted=None):
            (x, text), look, (span, turn) = carry, None, view(layer)
            remember = None if text is None else lambda fresh: recall(text, fresh, layer, write)
            if inserted is not None:
                part, kv = inserted
                kv = part.keys_values(media) if kv is None else kv
                look = lambda x: part(x, kv, media_span)
            x = x if look is None or self.inside else look(x)
            between = look if self.inside else None
            more = dict(between=between, expert=expert, bias=bias)
            x, kept = block(x, span, turn, remember=remember, place=place, **more)
            return (x if deep is None else deepened(x, deep, layer)), kept

        if self.xattn is None or (self.inside and media is None and kept is None):
            x, text = stack.run(body, (x, text), self.blocks, policy=self.remat, looped=write is not None)
        else:
            media_span = self.xattn.attn.plan(media_span, media.shape[1] if kept is None else kept.k.shape[2])
            x, text = stack.run_crossed(
                body, (x, text), self.blocks, (self.xattn, kept),
                every=self.every, first=self.first, policy=self.remat, looped=write is not None,
            )  # fmt: skip
        return self.leave(x), text

    def _views(self, span: Array, position: Array, place: Array | None, num_keys: int) -> Callable[[Array], tuple]:
        """Returns the function of a layer's number that gives its spans and turns; what spans need is computed once."""
        plan = lambda span: span if self.relative is not None else self.blocks.attn.plan(span, num_keys, place)
        far = plan(span), None if self.rotary is None else self.rotary(position)
        if self.window is None:
            return lambda layer: far
        near = (
            plan(narrow(span, _own(span, place), self.window)),
            None if self.near_rotary is None else self.near_rotary(position),
        )

        def view(layer: Array) -> tuple:
            everything = (layer + 1) % self.global_every == 0
            return jax.tree.map(lambda far, near: jnp.where(everything, far, near), far, near)

        return view


def _own(span: Array, place: Array | None) -> Array:
    """Returns which key is each query's own: query l's is key l where `place` says nothing."""
    return jnp.arange(span.shape[1])[None] if place is None else place


def deepened(x: Float[Array, 'B L D'], deep: Float[Array, 'G B L D'], layer: Int[Array, '']) -> Float[Array, 'B L D']:
    """Returns x with deep[layer] added, where there is one for this layer (DeepStack)."""
    more = jax.lax.dynamic_index_in_dim(deep, jnp.minimum(layer, len(deep) - 1), 0, keepdims=False)
    return x + jnp.where(layer < len(deep), more, 0).astype(x.dtype)
