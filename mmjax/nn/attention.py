# SPDX-License-Identifier: Apache-2.0
"""Attention over key intervals: self, cross, grouped; with or without a cache.

B rows, L queries, S keys, D width, N heads, K key/value heads, H head width.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn.cache import KeyValue
from mmjax.nn.layers import Linear, Norm
from mmjax.nn.positions import Turn, rotate
from mmjax.sharding import ROWS, P, act_BLNH, b_NH, w_DKH, w_DNH, w_NHD
from pallas_kernels.span_attention import Planned, planner, span_attention


class Attention(nnx.Module):
    """softmax(q k^T) v with a span of keys for every query."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        heads: int
        kv_heads: int | None = None  # None: as many as heads
        head_width: int | None = None  # None: width / heads
        q_bias: bool = False
        k_bias: bool = False
        v_bias: bool = False
        o_bias: bool = False
        qk_norm: Norm.Config | None = None  # over each head's entries, before positions
        inner_norm: Norm.Config | None = None  # over all heads, before the output projection (Magneto's sub-LN)
        scale: float | None = None  # of the scores; None: head_width ** -0.5
        soft_cap: float | None = None  # scores become cap * tanh(scores / cap)
        window: int | None = None  # a query sees at most this many keys, its own included

        def build(
            self, width: int, *, source_width: int | None = None, out_scale: float = 1.0, rngs: nnx.Rngs
        ) -> 'Attention':
            """Builds the part; keys and values come from `source_width` wide inputs (None: from the queries' own)."""
            return Attention(self, width, source_width or width, out_scale, rngs=rngs)

        def width_of_head(self, width: int) -> int:
            """Returns H for a model of the given width."""
            if self.head_width is None and width % self.heads:
                raise ValueError(f'width {width} is no multiple of heads {self.heads}; set head_width')
            return self.head_width or width // self.heads

    def __init__(self, c: Config, width: int, source_width: int, out_scale: float, *, rngs: nnx.Rngs):
        heads, kv_heads, head = c.heads, c.kv_heads or c.heads, c.width_of_head(width)
        if heads % kv_heads:
            raise ValueError(f'heads {heads} is no multiple of kv_heads {kv_heads}: each group shares one key head')
        self.scale, self.soft_cap, self.window = c.scale or head**-0.5, c.soft_cap, c.window
        self.q = Linear(width, (heads, head), bias=c.q_bias, spec=w_DNH, rngs=rngs)
        self.k = Linear(source_width, (kv_heads, head), bias=c.k_bias, spec=w_DKH, rngs=rngs)
        self.v = Linear(source_width, (kv_heads, head), bias=c.v_bias, spec=w_DKH, rngs=rngs)
        self.q_norm = c.qk_norm.build(head, rngs=rngs) if c.qk_norm else None
        self.k_norm = c.qk_norm.build(head, rngs=rngs) if c.qk_norm else None
        self.inner_norm = c.inner_norm.build((heads, head), spec=b_NH, rngs=rngs) if c.inner_norm else None
        self.o = Linear((heads, head), width, bias=c.o_bias, spec=w_NHD, scale=out_scale, rngs=rngs)

    @jax.named_scope('attn')
    def keys_values(self, source: Float[Array, 'B S E'], turn: Turn | None = None) -> KeyValue:
        """Returns the keys and values of a source: the queries' own input, or media."""
        k = self.k(source)
        k = k if self.k_norm is None else self.k_norm(k)
        return KeyValue(rotate(k, turn, key=True), self.v(source))

    def __call__(
        self,
        x: Float[Array, 'B L D'],
        kv: KeyValue,
        span: Int[Array, 'B L 2'] | Planned,
        turn: Turn | None = None,
        place: Int[Array, 'B L'] | None = None,
        bias: Float[Array, '#B N L S'] | None = None,
    ) -> Float[Array, 'B L D']:
        """Returns what each query collects; exactly zero (before the output's bias) where its span is empty.

        `place` says which key is the query's own, for the window (None: query l is key l); `bias` is added to scores.
        """
        return self.out(self.collect(self.queries(x, turn), kv, span, place, bias))

    @jax.named_scope('attn')
    def queries(self, x: Float[Array, 'B L D'], turn: Turn | None = None) -> Float[Array, 'B L N H']:
        """Returns the queries, normed and turned."""
        q = self.q(x)
        return rotate(q if self.q_norm is None else self.q_norm(q), turn, key=False)

    def collect(
        self,
        q: Float[Array, 'B L N H'],
        kv: KeyValue,
        span: Int[Array, 'B L 2'] | Planned,
        place: Int[Array, 'B L'] | None = None,
        bias: Float[Array, '#B N L S'] | None = None,
    ) -> Float[Array, 'B L N H']:
        """Returns the values that each query collects, head by head."""
        if not isinstance(span, Planned):
            span = self._windowed(span, place)
        return attend(q, kv, span, bias, scale=self.scale, soft_cap=self.soft_cap)

    def plan(
        self, span: Int[Array, 'B L 2'], num_keys: int, place: Int[Array, 'B L'] | None = None
    ) -> Int[Array, 'B L 2'] | Planned:
        """Returns what takes the place of spans in all layers like this one: computed here once, their window included.

        Where no implementation gains by that, these are the spans themselves. The part may be a stack of such layers.
        num_keys: keys a row. place: as for __call__. An attention with a bias has no use for it.
        """
        (heads, width), kv_heads = self.q.kernel.shape[-2:], self.k.kernel.shape[-2]
        make = _planner(span.shape, heads, kv_heads, width, num_keys, self.q.kernel.dtype)
        return span if make is None else make(self._windowed(span, place))

    def _windowed(self, span: Int[Array, 'B L 2'], place: Int[Array, 'B L'] | None) -> Int[Array, 'B L 2']:
        if self.window is None:
            return span
        return narrow(span, jnp.arange(span.shape[1])[None] if place is None else place, self.window)

    @jax.named_scope('attn')
    def out(self, y: Float[Array, 'B L N H']) -> Float[Array, 'B L D']:
        """Returns what was collected, mapped back to the width."""
        return self.o(y if self.inner_norm is None else self.inner_norm(y))


def narrow(span: Int[Array, 'B L 2'], place: Int[Array, '#B L'], window: int) -> Int[Array, 'B L 2']:
    """Returns the spans without the keys that are `window` places or more before the query's own, `place`."""
    return jnp.stack([jnp.maximum(span[..., 0], place + 1 - window), span[..., 1]], axis=-1)


@jax.named_scope('attention')  # of which `plan` counts the products by their arrays' shapes
def attend(
    q: Float[Array, 'B L N H'],
    kv: KeyValue,
    span: Int[Array, 'B L 2'] | Planned,
    bias: Float[Array, '#B N L S'] | None = None,
    *,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, 'B L N H']:
    """Calls the kernel, on each device for its rows and heads."""
    mesh, heads = sharding.current(), kv.k.shape[-2]
    act = None if mesh is None else sharding.fit(act_BLNH, q.shape, mesh, 'the queries of an attention')
    groups = mesh.shape['tp'] // heads if act and act[2] else 1
    if groups > 1 or kv.k.dtype != q.dtype:
        kv = kv.alone()  # of all layers, only this one is copied
    k, v, layer = kv.k.astype(q.dtype), kv.v.astype(q.dtype), kv.layer
    kernel = lambda q, k, v, span, bias, layer: span_attention(
        q, k, v, span, scale=scale, soft_cap=soft_cap, bias=bias, layer=layer
    )
    if mesh is None:
        return kernel(q, k, v, span, bias, layer)
    if groups > 1:
        # Fewer key heads than devices: each device gets a copy of the one head that its queries share.
        k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    keys = act if layer is None else P(None, *act)
    added = None if bias is None else P(None if bias.shape[0] == 1 else ROWS, act[2], None, None)
    specs = (act, keys, keys, P(ROWS), added, P())
    place = lambda x, spec: jax.tree.map(lambda x: sharding.place(x, P(*spec, *[None] * (x.ndim - len(spec)))), x)
    args = [place(x, spec) for x, spec in zip((q, k, v, span, bias, layer), specs, strict=True)]
    return jax.shard_map(kernel, in_specs=specs, out_specs=act, check_vma=False)(*args)


def _planner(
    shape: tuple[int, ...], heads: int, kv_heads: int, width: int, num_keys: int, dtype: DTypeLike
) -> Callable[[Array], Planned] | None:
    """Returns the kernel's planner for spans [B, L, 2], which plans on each device for its rows and heads.

    The axes of what it makes run over the devices that hold the rows: each finds in it what is its own.
    """
    (rows, length, _), mesh = shape, sharding.current()
    if mesh is not None:
        act = sharding.fit(act_BLNH, (rows, length, heads, width), mesh, 'the queries of an attention')
        rows //= mesh.shape['data'] * mesh.shape['fsdp']
        parts = mesh.shape['tp'] if act[2] else 1
        heads, kv_heads = heads // parts, max(kv_heads // parts, 1)
    like = lambda length, heads: jax.ShapeDtypeStruct((rows, length, heads, width), dtype)
    make = planner(like(length, heads), like(num_keys, kv_heads))
    if make is None or mesh is None:
        return make
    local = jax.shard_map(make, in_specs=P(ROWS), out_specs=P(ROWS), check_vma=False)
    return lambda span: local(sharding.place(span, P(ROWS, None, None)))
