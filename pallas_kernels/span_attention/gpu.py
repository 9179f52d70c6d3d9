# SPDX-License-Identifier: Apache-2.0
"""Attention over key intervals on GPUs: Triton kernels that walk only what some query of a tile sees.

The forward pass and the queries' gradients give a program to each tile of queries, the keys' gradients to each tile of
keys and all query heads that share it: nothing is summed through memory, and results are equal from run to run. Which
tiles a program walks is computed once from the spans, in both directions.

B rows, L queries (Lp with padding), S keys (Sp), N heads, K key heads, G = N / K, H and Hv widths of heads (Hp, the
next powers of two, in the kernels).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.span_attention.fused import NOTHING, folded
from pallas_kernels.span_attention.gpu_kernels import Shape, forward_kernel, keys_kernel, queries_kernel


class Tile(NamedTuple):
    """A kernel's tile of scores, and how Triton spreads and pipelines it."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


class Passes(NamedTuple):
    """The tiles of the forward pass, of the queries' gradients and of the keys'."""

    forward: Tile
    queries: Tile
    keys: Tile

    @classmethod
    def of(cls, width: int, dtype) -> 'Passes':
        """Chooses by what a Hopper's registers and shared memory hold of heads this wide."""
        if width <= 128 and dtype == jnp.bfloat16:
            return cls(Tile(128, 64, 4 if width <= 64 else 8, 3), Tile(128, 32), Tile(32, 128))
        small = Tile(64, 32) if width <= 128 else Tile(32, 32)
        return cls(small, small, small._replace(queries=small.keys, keys=small.queries))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A fused.Kernel for Hopper-class GPUs."""

    scale: float
    soft_cap: float | None = None
    tiles: Passes | None = None  # None: chosen by the heads' width and type
    interpret: bool = False  # run on any backend, for tests

    def forward(self, q, k, v, span):
        """See fused.Kernel.forward."""
        return folded(self._forward)(q, k, v, span)

    def backward(self, q, k, v, span, grad, lse, mean):
        """See fused.Kernel.backward."""
        return folded(self._backward)(q, k, v, span, grad, lse, mean)

    def _forward(self, planned, q, k, v):
        span = planned.span
        cut = Cut.of(q, k, v, self._tiles(q, v).forward)
        arrays, bounds = (cut.queries(q), cut.keys(k), cut.keys(v)), cut.bounds(span, by_query=True)
        rows, length, heads, width = arrays[0].shape
        value_width = arrays[2].shape[-1]
        out, lse = self._run(
            forward_kernel, cut, (length // cut.tile.queries, heads, rows), (*arrays, *bounds),
            in_specs=[*cut.tile_specs(width, value_width), *cut.bound_specs()],
            out_specs=[cut.query_spec(value_width), cut.number_spec()],
            out_shape=[((rows, length, heads, value_width), v.dtype), ((rows, heads, length), jnp.float32)],
            name='span_attention_forward',
        )  # fmt: skip
        return out[:, : q.shape[1], :, : v.shape[-1]], lse.transpose(0, 2, 1)[:, : q.shape[1]]

    def _backward(self, planned, q, k, v, grad, lse, mean):
        span = planned.span
        tiles = self._tiles(q, v)
        dq = self._queries(Cut.of(q, k, v, tiles.queries), q, k, v, span, grad, lse, mean)
        dk, dv = self._keys(Cut.of(q, k, v, tiles.keys), q, k, v, span, grad, lse, mean)
        return dq, dk, dv

    def _queries(self, cut, q, k, v, span, grad, lse, mean):
        arrays, bounds = (cut.queries(q), cut.keys(k), cut.keys(v)), cut.bounds(span, by_query=True)
        more = cut.queries(grad), cut.numbers(lse, NOTHING), cut.numbers(mean, 0.0)
        rows, length, heads, width = arrays[0].shape
        value_width = arrays[2].shape[-1]
        (dq,) = self._run(
            queries_kernel, cut, (length // cut.tile.queries, heads, rows), (*arrays, *bounds, *more),
            in_specs=[
                *cut.tile_specs(width, value_width), *cut.bound_specs(),
                cut.query_spec(value_width), cut.number_spec(), cut.number_spec(),
            ],
            out_specs=[cut.query_spec(width)],
            out_shape=[(arrays[0].shape, q.dtype)],
            name='span_attention_queries',
        )  # fmt: skip
        return dq[:, : q.shape[1], :, : q.shape[-1]]

    def _keys(self, cut, q, k, v, span, grad, lse, mean):
        arrays, bounds = (cut.queries(q), cut.keys(k), cut.keys(v)), cut.bounds(span, by_query=False)
        more = cut.queries(grad), cut.numbers(lse, NOTHING), cut.numbers(mean, 0.0)
        rows, length, _, width = arrays[0].shape
        num_keys, kv_heads, value_width = arrays[2].shape[1:]
        spec, whole = pl.BlockSpec, lambda j, h, b: (b, 0)
        of_head = lambda width: spec((None, length, cut.groups, width), lambda j, h, b: (b, 0, h, 0))
        of_tile = lambda width: spec((None, cut.tile.keys, None, width), lambda j, h, b: (b, j, h, 0))
        number = spec((None, cut.groups, length), lambda j, h, b: (b, h, 0))
        dk, dv = self._run(
            keys_kernel, cut, (num_keys // cut.tile.keys, kv_heads, rows), (*arrays, *bounds, *more),
            in_specs=[
                of_head(width), of_tile(width), of_tile(value_width), spec((None, length), whole),
                spec((None, length), whole), spec((None, None, 4), lambda j, h, b: (b, j, 0)), spec((None, 2), whole),
                of_head(value_width), number, number,
            ],
            out_specs=[of_tile(width), of_tile(value_width)],
            out_shape=[(arrays[1].shape, k.dtype), (arrays[2].shape, v.dtype)],
            name='span_attention_keys',
        )  # fmt: skip
        return dk[:, : k.shape[1], :, : k.shape[-1]], dv[:, : v.shape[1], :, : v.shape[-1]]

    def _tiles(self, q, v) -> Passes:
        return self.tiles or Passes.of(max(q.shape[-1], v.shape[-1]), q.dtype)

    def _run(self, kernel, cut, grid, arrays, *, in_specs, out_specs, out_shape, name):
        tile = cut.tile
        shape = Shape(tile.queries, tile.keys, cut.groups, self.scale, self.soft_cap)
        call = pl.pallas_call(
            functools.partial(kernel, shape=shape),
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            out_shape=[jax.ShapeDtypeStruct(*x) for x in out_shape],
            compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
            interpret=self.interpret,
            name=name,
        )
        return call(*arrays)


class Cut(NamedTuple):
    """How arrays are padded for a kernel, and which of their blocks a program needs."""

    tile: Tile
    groups: int
    length: int  # L
    num_keys: int  # S

    @classmethod
    def of(cls, q, k, v, tile: Tile) -> 'Cut':
        """Takes the numbers of the arrays."""
        return cls(tile, q.shape[2] // k.shape[2], q.shape[1], k.shape[1])

    def queries(self, x: Float[Array, 'B L N H']) -> Float[Array, 'B Lp N Hp']:
        """Pads queries or what belongs to them."""
        return _pad(x, self.tile.queries)

    def keys(self, x: Float[Array, 'B S K H']) -> Float[Array, 'B Sp K Hp']:
        """Pads keys or values."""
        return _pad(x, self.tile.keys)

    def numbers(self, x: Float[Array, 'B L N'], fill: float) -> Float[Array, 'B N Lp']:
        """Pads and orders one number a query."""
        padding = ((0, 0), (0, 0), (0, -self.length % self.tile.queries))
        return jnp.pad(x.astype(jnp.float32).transpose(0, 2, 1), padding, constant_values=fill)

    def bounds(
        self, span: Int[Array, 'B L 2'], by_query: bool
    ) -> tuple[Int[Array, 'B Lp'], Int[Array, 'B Lp'], Int[Array, 'B tiles 4'], Int[Array, 'B 2']]:
        """Returns every query's bounds, the ends of what tiles walk, and what some query of a row sees at all.

        by_query: tiles of queries walk tiles of keys; otherwise tiles of keys walk tiles of queries.
        """
        span = jnp.pad(span, ((0, 0), (0, -self.length % self.tile.queries), (0, 0))).astype(jnp.int32)
        low, high = span[..., 0].clip(0, self.num_keys), span[..., 1].clip(0, self.num_keys)
        seeing = low < high
        start, end = jnp.where(seeing, low, self.num_keys), jnp.where(seeing, high, 0)
        limits = jnp.stack([start.min(axis=1), end.max(axis=1)], axis=-1)
        by_tile = lambda x: x.reshape(x.shape[0], -1, self.tile.queries)
        start, end = by_tile(start), by_tile(end)
        first = jnp.arange(-(-self.num_keys // self.tile.keys)) * self.tile.keys
        last = first + self.tile.keys
        some = (start.min(2)[..., None] < last) & (first < end.max(2)[..., None])
        whole = (start.max(2)[..., None] <= first) & (last <= end.min(2)[..., None])
        turn = (lambda x: x) if by_query else (lambda x: x.swapaxes(1, 2))
        return low, high, ends(turn(some), turn(whole)), limits

    def query_spec(self, width: int) -> pl.BlockSpec:
        """A tile of queries, or what belongs to them: [Q, width]."""
        return pl.BlockSpec((None, self.tile.queries, None, width), lambda i, h, b: (b, i, h, 0))

    def number_spec(self) -> pl.BlockSpec:
        """One number a query: [Q]."""
        return pl.BlockSpec((None, None, self.tile.queries), lambda i, h, b: (b, h, i))

    def tile_specs(self, width: int, value_width: int) -> list[pl.BlockSpec]:
        """A tile of queries, and all keys and values of its head."""
        keys = -(-self.num_keys // self.tile.keys) * self.tile.keys
        groups = self.groups
        row = lambda width: pl.BlockSpec((None, keys, None, width), lambda i, h, b: (b, 0, jax.lax.div(h, groups), 0))
        return [self.query_spec(width), row(width), row(value_width)]

    def bound_specs(self) -> list[pl.BlockSpec]:
        """A tile of queries' bounds, the ends of its walk, and its row's limits."""
        bound = pl.BlockSpec((None, self.tile.queries), lambda i, h, b: (b, i))
        walk = pl.BlockSpec((None, None, 4), lambda i, h, b: (b, i, 0))
        return [bound, bound, walk, pl.BlockSpec((None, 2), lambda i, h, b: (b, 0))]


def ends(some: Bool[Array, 'B I J'], whole: Bool[Array, 'B I J']) -> Int[Array, 'B I 4']:
    """Returns (first, whole_first, whole_last, last) of each line's `some`, the middle two round its `whole` ones.

    Where whole ones do not stand together, all are taken for cut. A line of none walks nothing.
    """
    place = jnp.arange(some.shape[-1], dtype=jnp.int32)
    begin = lambda x: jnp.where(x, place, some.shape[-1]).min(axis=-1)
    stop = lambda x: jnp.where(x, place + 1, 0).max(axis=-1)
    first, last = begin(some), stop(some)
    whole_first, whole_last = begin(whole), stop(whole)
    together = whole.sum(axis=-1) == whole_last - whole_first
    whole_first, whole_last = (jnp.where(together, x, last) for x in (whole_first, whole_last))
    return jnp.stack([jnp.minimum(first, last), whole_first, whole_last, last], axis=-1).astype(jnp.int32)


def _pad(x: Float[Array, 'B L N H'], size: int) -> Float[Array, 'B Lp N Hp']:
    wide = max(pl.next_power_of_2(x.shape[-1]), 16)
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0), (0, wide - x.shape[-1])))
