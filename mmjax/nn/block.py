# SPDX-License-Identifier: Apache-2.0
"""Transformer blocks: one for self-attention, and two parts by which tokens look at something else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.attention import Attention
from mmjax.nn.cache import KeyValue
from mmjax.nn.expert import Expert, choose
from mmjax.nn.layers import Norm, parameter
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Turn
from mmjax.sharding import P, b_D
from pallas_kernels.span_attention import Planned, plain

# Takes a layer's fresh keys and values; returns those to look at, and what is to be kept of them.
Remember = Callable[[KeyValue], tuple[KeyValue, Any]]
# Changes the sums between a block's attention and its MLP: a CrossBranch with what it looks at.
Between = Callable[[Array], Array]


def _build(norm: Norm.Config | None, width: int, rngs: nnx.Rngs) -> Norm | None:
    return norm.build(width, rngs=rngs) if norm else None


def _apply(norm: Norm | None, x: Array) -> Array:
    return x if norm is None else norm(x)


def _seeing(span: Int[Array, 'B L 2'] | Planned) -> Bool[Array, 'B L 1']:
    span = plain(span)
    return (span[..., 0] < span[..., 1])[..., None]


class Block(nnx.Module):
    """x + attn(norm x), then x + mlp(norm x); or both from one x, side by side."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config
        mlp: Mlp.Config
        norm: Norm.Config | None = dataclasses.field(default_factory=Norm.Config)  # of each branch's input
        post_norm: Norm.Config | None = None  # of each branch's output, before the sum
        sum_norm: Norm.Config | None = None  # of each sum (the first Transformer, BERT)
        parallel: bool = False  # x + attn(norm x) + mlp(norm x)
        shared_norm: bool = True  # parallel: one norm for both branches
        expert: Expert.Config | None = None  # a second set of weights, for the tokens that the batch names
        layer_scale: float | None = None  # each branch's output times a learned vector that begins here (CaiT, BEiT)
        out_scale: float = 1.0  # of the initial deviation of both output kernels, e.g. (2 * depth) ** -0.5

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'Block':
            """Builds one block."""
            return Block(self, width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        if c.parallel and c.sum_norm:
            raise ValueError('Block.Config.parallel makes one sum of both branches: sum_norm has no place in it')
        self.parallel = c.parallel
        self.attn_norm = _build(c.norm, width, rngs)
        self.attn = c.attn.build(width, out_scale=c.out_scale, rngs=rngs)
        self.attn_post_norm = _build(c.post_norm, width, rngs)
        self.attn_sum_norm = _build(c.sum_norm, width, rngs)
        self.shared_norm = c.parallel and c.shared_norm
        self.mlp_norm = None if self.shared_norm else _build(c.norm, width, rngs)
        self.mlp = c.mlp.build(width, out_scale=c.out_scale, rngs=rngs)
        self.mlp_post_norm = _build(c.post_norm, width, rngs)
        self.mlp_sum_norm = _build(c.sum_norm, width, rngs)
        gain = lambda: parameter(jnp.full((width,), c.layer_scale), b_D) if c.layer_scale is not None else None
        self.attn_scale, self.mlp_scale = gain(), gain()
        self.expert = c.expert.build(width, c.attn, out_scale=c.out_scale, rngs=rngs) if c.expert else None

    def __call__(
        self,
        x: Float[Array, 'B L D'],
        span: Int[Array, 'B L 2'] | Planned,
        turn: Turn | None = None,
        *,
        remember: Remember | None = None,
        place: Int[Array, 'B L'] | None = None,
        between: Between | None = None,
        expert: Int[Array, 'B L'] | None = None,
        bias: Float[Array, '#B N L S'] | None = None,
    ) -> tuple[Float[Array, 'B L D'], Any]:
        """Returns the block's output and what `remember` kept of its keys and values (None without).

        `expert` is 1 for the tokens of the second set of weights; None: there are none among these. `bias` is added to
        the scores of the attention.
        """
        own = self.expert if expert is not None else None
        either = lambda part, other: part if own is None else choose(expert, part, other(own))
        h = _apply(self.attn_norm, x)
        kv, kept = either(self.attn.keys_values(h, turn), lambda e: e.attn.keys_values(h, turn)), None
        if remember is not None:
            kv, kept = remember(kv)
        q = either(self.attn.queries(h, turn), lambda e: e.attn.queries(h, turn))
        y = self.attn.collect(q, kv, span, place, bias)
        y = _apply(self.attn_post_norm, either(self.attn.out(y), lambda e: e.attn.out(y)))
        y = x + (y if self.attn_scale is None else self.attn_scale[...] * y)
        y = _apply(self.attn_sum_norm, y)
        y = y if between is None else between(y)
        if not self.parallel:
            h = _apply(self.mlp_norm, y)
        elif not self.shared_norm:
            h = _apply(self.mlp_norm, x)
        z = _apply(self.mlp_post_norm, either(self.mlp(h), lambda e: e.mlp(h)))
        y = y + (z if self.mlp_scale is None else self.mlp_scale[...] * z)
        return _apply(self.mlp_sum_norm, y), kept


class CrossBranch(nnx.Module):
    """x + attn(norm x, source), or norm(x + attn(x, source)): what a block of an encoder-decoder has beside the others.

    A token whose span of the source is empty stays as it is, also where there is an output bias or a norm of the sum.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config
        norm: Norm.Config | None = dataclasses.field(default_factory=Norm.Config)  # of the branch's input
        sum_norm: Norm.Config | None = None  # of the sum

        def build(self, width: int, media_width: int, *, rngs: nnx.Rngs) -> 'CrossBranch':
            """Builds a branch that looks at a source of the given width."""
            return CrossBranch(self, width, media_width, rngs=rngs)

    def __init__(self, c: Config, width: int, media_width: int, *, rngs: nnx.Rngs):
        self.norm = _build(c.norm, width, rngs)
        self.attn = c.attn.build(width, source_width=media_width, rngs=rngs)
        self.sum_norm = _build(c.sum_norm, width, rngs)

    def keys_values(self, media: Float[Array, 'B S E']) -> KeyValue:
        """Returns the keys and values of a source, which decoding computes once."""
        return self.attn.keys_values(media)

    @jax.named_scope('cross')
    def __call__(
        self, x: Float[Array, 'B L D'], kv: KeyValue, span: Int[Array, 'B L 2'] | Planned
    ) -> Float[Array, 'B L D']:
        """Returns x with what each token's span of the source adds to it."""
        seen = _seeing(span)
        y = x + self.attn(_apply(self.norm, x), kv, span)
        return jnp.where(seen, _apply(self.sum_norm, y), x)


class GatedBlock(nnx.Module):
    """x + tanh(gate) attn(norm x, media), then x + tanh(gate) mlp(norm x): nothing changes while the gates are zero.

    A token whose span of media tokens is empty gets nothing from the first half, also with an output bias.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config
        mlp: Mlp.Config
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)
        media_norm: Norm.Config | None = None
        vector_gates: bool = False  # one gate for each entry of the width, instead of one for all
        gate_init: float = 0.0

        def build(self, width: int, media_width: int, *, rngs: nnx.Rngs) -> 'GatedBlock':
            """Builds one block that looks at media of the given width."""
            return GatedBlock(self, width, media_width, rngs=rngs)

    def __init__(self, c: Config, width: int, media_width: int, *, rngs: nnx.Rngs):
        gate = lambda: (
            parameter(jnp.full((width,), c.gate_init), b_D)
            if c.vector_gates
            else parameter(jnp.array(c.gate_init), P())
        )
        self.attn_norm = c.norm.build(width, rngs=rngs)
        self.media_norm = _build(c.media_norm, media_width, rngs)
        self.attn = c.attn.build(width, source_width=media_width, rngs=rngs)
        self.attn_gate = gate()
        self.mlp_norm = c.norm.build(width, rngs=rngs)
        self.mlp = c.mlp.build(width, rngs=rngs)
        self.mlp_gate = gate()

    def keys_values(self, media: Float[Array, 'B S E']) -> KeyValue:
        """Returns the keys and values of media, which decoding computes once."""
        return self.attn.keys_values(_apply(self.media_norm, media))

    @jax.named_scope('gated')
    def __call__(
        self, x: Float[Array, 'B L D'], kv: KeyValue, span: Int[Array, 'B L 2'] | Planned
    ) -> Float[Array, 'B L D']:
        """Returns x with what each token's span of the media adds to it."""
        seen = _seeing(span)
        y = jnp.where(seen, self.attn(self.attn_norm(x), kv, span), 0)
        x = x + jnp.tanh(self.attn_gate[...]) * y
        return x + jnp.tanh(self.mlp_gate[...]) * self.mlp(self.mlp_norm(x))
