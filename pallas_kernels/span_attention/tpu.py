# SPDX-License-Identifier: Apache-2.0
"""Attention over key intervals on TPUs: two Mosaic kernels that run over the list of tiles that some query sees.

Both walk the tiles of one key head line by line (`tiles.py`). The forward kernel keeps a line's running maximum, sum
and output in VMEM. The backward kernel computes a tile's scores once for all three gradients: those of a line's queries
stand in VMEM until the line ends, those of all keys of the batch row until the row ends, so nothing is summed in HBM.
Rows whose keys do not fit are cut along the keys, and the queries' gradients of the parts are added. Where queries are
few, the forward pass is `tpu_decode.py`'s.

B rows, L queries (Lp with padding), Q of them a tile, S keys, J of them a tile, K key heads, G query heads each,
R = G * Q rows of scores a tile, H and Hv widths of heads.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from pallas_kernels.platform import chip
from pallas_kernels.span_attention import tpu_decode
from pallas_kernels.span_attention.fused import NOTHING, folded
from pallas_kernels.span_attention.tiles import Format, Planned, Tile, list_tiles
from pallas_kernels.span_attention.tpu_kernels import LANES, LOG2_E, Shape, backward_kernel, forward_kernel


class Sizes(NamedTuple):
    """How scores are cut: rows (queries of all heads of a group) and keys a tile, and those of its parts.

    Tiles are large, for a step costs what it costs, and where a span cuts one, only the parts that some query sees are
    computed.
    """

    rows: int = 1024
    keys: int = 1024
    part_rows: int = 512  # if the group is one head; else all
    part_keys: int = 512
    vmem: int = 64 << 20  # bytes that a kernel may use, of those that a core has


# The same for both passes (`docs/kernels.md`); chips as jax names them.
SIZES = {'TPU v4': Sizes(rows=512, keys=512, vmem=15 << 20)}
OTHERS = Sizes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu:
    """A fused.Kernel for TPUs v4 to 7x."""

    scale: float
    soft_cap: float | None = None
    sizes: Sizes | None = None  # None: chosen by the chip
    decode: tpu_decode.Cut | None = None  # None: where queries are few, tiles of the cache by its bytes
    interpret: object = False  # True or pltpu.InterpretParams: run on any backend, for tests

    def forward(self, q, k, v, span):
        """See fused.Kernel.forward."""
        return folded(self._decode if self._few(q) else self._forward)(q, k, v, span)

    def backward(self, q, k, v, span, grad, lse, mean):
        """See fused.Kernel.backward."""
        return folded(self._backward)(q, k, v, span, grad, lse, mean)

    def decode_in_place(self, q, k, v, span, layer):
        """Does what `forward` does for few queries, with one layer of a cache [depth, B, S, K, H] that stays there."""
        planned = span if isinstance(span, Planned) else Planned(span, {})
        return self._decode(planned, q, k, v, layer)

    def plan(self, q, k, span):
        """Lists the tiles of these spans for queries and keys of such shapes: both passes', or those of decoding."""
        if self._few(q):
            return Planned(span, tpu_decode.plan(q, k, span, self._decode_cut(q, k)))
        cut = Cut.of(q, k, self._sizes())
        return Planned(span, {(cut.num_keys, *cut.tile): list_tiles(cut.spans(span), cut.num_keys, cut.tile)})

    def _few(self, q) -> bool:
        return bool(self.decode or (tpu_decode.few(q) and not self.sizes))

    def _decode_cut(self, q, k) -> tpu_decode.Cut:
        return self.decode or tpu_decode.Cut.of(q, k, tpu_decode.TILE_BYTES.get(chip(), tpu_decode.OTHERS))

    def _forward(self, planned, q, k, v):
        cut = Cut.of(q, k, self._sizes())
        span = cut.spans(planned.span)
        q, k, v = cut.by_head(q, self.scale * LOG2_E), cut.keys_by_head(k), cut.keys_by_head(v)
        at, width = Blocks(cut, q.shape[0]), v.shape[-1]
        out, lse = self._run(
            functools.partial(forward_kernel, shape=cut.shape(q, self.soft_cap)),
            planned.tiles(span, cut.num_keys, cut.tile), (q, k, v, cut.on_lanes(span)), cut,
            in_specs=[at.queries(q.shape[-1]), at.keys(q.shape[-1]), at.keys(width), at.spans()],
            out_specs=[at.queries(width), at.line(cut.rows // LANES, LANES)],
            out_shape=[
                jax.ShapeDtypeStruct((*q.shape[:4], width), v.dtype),
                jax.ShapeDtypeStruct((*q.shape[:2], cut.lines_a_row, cut.rows // LANES, LANES), jnp.float32),
            ],
            scratch=[(cut.rows, LANES), (cut.rows, LANES), (cut.rows, width)],
            name='span_attention_forward',
        )  # fmt: skip
        lse = cut.from_lines(lse)
        return cut.from_heads(out), jnp.where(lse < NOTHING, lse * (1 / LOG2_E), NOTHING)

    def _decode(self, planned, q, k, v, layer=0):
        return tpu_decode.forward(
            q, *(x.reshape(-1, *x.shape[-4:]) for x in (k, v)), planned, jnp.asarray(layer, jnp.int32),
            scale=self.scale,
            soft_cap=self.soft_cap,
            cut=self._decode_cut(q, k),
            vmem=self._sizes().vmem,
            interpret=self.interpret,
        )  # fmt: skip

    def _backward(self, planned, q, k, v, grad, lse, mean):
        sizes = self._sizes()
        cut = Cut.of(q, k, sizes)
        # Bytes a key: both gradients in float32, and what is written of them, in two turns.
        pad = lambda x: -(-x.shape[-1] // LANES) * LANES * (4 + 2 * x.dtype.itemsize)
        most = max(sizes.vmem // 2 // (pad(k) + pad(v)) // cut.keys, 1) * cut.keys
        if k.shape[1] <= most:
            return self._backward_part(planned, q, k, v, grad, lse, mean, q.dtype)
        parts = [
            self._backward_part(
                Planned(planned.span - i, {}), q, k[:, i : i + most], v[:, i : i + most], grad, lse, mean, jnp.float32
            )
            for i in range(0, k.shape[1], most)
        ]
        dq, dk, dv = zip(*parts, strict=True)
        return sum(dq).astype(q.dtype), jnp.concatenate(dk, axis=1), jnp.concatenate(dv, axis=1)

    def _backward_part(self, planned, q, k, v, grad, lse, mean, dtype):
        cut = Cut.of(q, k, self._sizes())
        span = cut.spans(planned.span)
        rows = cut.lines(span, lse * LOG2_E, mean)
        q, k, v = cut.by_head(q, self.scale * LOG2_E), cut.keys_by_head(k), cut.keys_by_head(v)
        at, width, value_width = Blocks(cut, q.shape[0]), q.shape[-1], v.shape[-1]
        dq, dk, dv = self._run(
            functools.partial(backward_kernel, shape=cut.shape(q, self.soft_cap), scale=self.scale),
            planned.tiles(span, cut.num_keys, cut.tile),
            (q, k, v, cut.by_head(grad), rows), cut,
            in_specs=[
                at.queries(width), at.keys(width), at.keys(value_width), at.queries(value_width), at.line(4, cut.rows)
            ],
            out_specs=[at.queries(width), at.row(width), at.row(value_width)],
            out_shape=[
                jax.ShapeDtypeStruct(q.shape, dtype),
                jax.ShapeDtypeStruct(k.shape, k.dtype),
                jax.ShapeDtypeStruct(v.shape, v.dtype),
            ],
            scratch=[(cut.rows, width), (cut.num_keys, width), (cut.num_keys, value_width)],
            name='span_attention_backward',
        )  # fmt: skip
        dk, dv = (x.transpose(0, 2, 1, 3)[:, : cut.real_keys] for x in (dk, dv))
        return cut.from_heads(dq), dk, dv

    def _sizes(self) -> Sizes:
        return self.sizes or (OTHERS if self.interpret else SIZES.get(chip(), OTHERS))

    def _run(self, kernel, tiles, arrays, cut, *, in_specs, out_specs, out_shape, scratch, name):
        """Calls a kernel once for every key head and listed tile."""
        grid = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(cut.kv_heads, tiles[0]),
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        )
        # Heads may run on different cores of a chip; a head's tiles stand in order.
        # No list names a tile beyond the arrays; looking after that would cost scalar work at each step.
        params = pltpu.CompilerParams(
            dimension_semantics=('parallel', 'arbitrary'),
            vmem_limit_bytes=self._sizes().vmem,
            disable_bounds_checks=True,
        )
        call = pl.pallas_call(
            kernel, grid_spec=grid, out_shape=out_shape, compiler_params=params, interpret=self.interpret, name=name
        )
        return call(tiles, *arrays)


class Cut(NamedTuple):
    """How arrays are padded and ordered for the kernels."""

    kv_heads: int
    groups: int
    queries: int  # a tile
    keys: int
    parts: int  # of the queries of a tile
    chunks: int  # of its keys
    length: int  # before padding
    real_keys: int

    @classmethod
    def of(cls, q, k, sizes: Sizes) -> 'Cut':
        """Chooses the tile: as large as asked for, no larger than the arrays."""
        kv_heads = k.shape[2]
        groups = q.shape[2] // kv_heads
        up = lambda x, to: -(-x // to) * to
        queries = min(max(sizes.rows // groups // LANES, 1) * LANES, up(q.shape[1], LANES))
        keys = min(sizes.keys, up(k.shape[1], LANES))
        # Queries of several heads do not stand side by side, but tiles have few of them then.
        parts = queries // sizes.part_rows if groups == 1 and queries % sizes.part_rows == 0 else 1
        chunk = next(size for size in range(min(sizes.part_keys, keys), 0, -LANES) if keys % size == 0)
        return cls(kv_heads, groups, queries, keys, parts, keys // chunk, q.shape[1], k.shape[1])

    @property
    def tile(self) -> Tile:
        """A tile and its parts."""
        return Tile(self.queries, self.keys, self.parts, self.chunks)

    @property
    def rows(self) -> int:
        """R: rows of scores a tile."""
        return self.groups * self.queries

    @property
    def lines_a_row(self) -> int:
        """Tiles that a batch row's queries fill."""
        return -(-self.length // self.queries)

    @property
    def num_keys(self) -> int:
        """Keys a row, padding included."""
        return -(-self.real_keys // self.keys) * self.keys

    def tiles(self, rows: int) -> Format:
        """Returns how this many batch rows' tiles are listed."""
        return Format.of(rows, self.lines_a_row * self.queries, self.num_keys, self.tile)

    def shape(self, q: Float[Array, 'B K G Lp H'], soft_cap: float | None) -> Shape:
        """Returns what the kernels are compiled for; float32 arrays are multiplied in float32."""
        precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else lax.Precision.DEFAULT
        return Shape(self.tile, soft_cap, precision, self.tiles(q.shape[0]))

    def spans(self, span: Int[Array, 'B L 2']) -> Int[Array, 'B Lp 2']:
        """Returns the spans within these keys, none of which ends before it begins; padding sees nothing."""
        span = jnp.pad(span, ((0, 0), (0, -self.length % self.queries), (0, 0)))
        low, high = span[..., 0].clip(0, self.real_keys), span[..., 1].clip(0, self.real_keys)
        return jnp.stack([low, jnp.maximum(low, high)], axis=-1).astype(jnp.int32)

    def on_lanes(self, span: Int[Array, 'B Lp 2']) -> Int[Array, 'B 2 Lp 128']:
        """Repeats spans on all lanes."""
        span = span.swapaxes(1, 2)[..., None]
        return jnp.broadcast_to(span, (*span.shape[:3], LANES))

    def by_head(self, x: Float[Array, 'B L N H'], factor: float = 1.0) -> Float[Array, 'B K G Lp H']:
        """Orders queries (or what belongs to them) by head."""
        x = x if factor == 1 else (x.astype(jnp.float32) * factor).astype(x.dtype)
        x = jnp.pad(x, ((0, 0), (0, -self.length % self.queries), (0, 0), (0, 0)))
        x = x.reshape(*x.shape[:2], self.kv_heads, self.groups, x.shape[-1])
        return x.transpose(0, 2, 3, 1, 4)

    def from_heads(self, x: Float[Array, 'B K G Lp H']) -> Float[Array, 'B L N H']:
        """Undoes `by_head`."""
        x = x.transpose(0, 3, 1, 2, 4)
        return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, : self.length]

    def lines(
        self, span: Int[Array, 'B Lp 2'], lse: Float[Array, 'B L N'], mean: Float[Array, 'B L N']
    ) -> Int[Array, 'B K lines 4 R']:
        """Orders what the backward kernel knows of each query as the rows of tiles are, numbers as their bits."""
        pad = lambda x: jnp.pad(x, ((0, 0), (0, -self.length % self.queries), (0, 0)), constant_values=NOTHING)
        bits = [lax.bitcast_convert_type(pad(x), jnp.int32) for x in (lse, mean)]
        spans = [jnp.broadcast_to(span[..., i, None], bits[0].shape) for i in range(2)]
        x = jnp.stack([*spans, *bits], axis=-1)
        x = x.reshape(x.shape[0], -1, self.queries, self.kv_heads, self.groups, 4).transpose(0, 3, 1, 5, 4, 2)
        return x.reshape(*x.shape[:4], -1)

    def from_lines(self, x: Float[Array, 'B K lines n 128']) -> Float[Array, 'B L N']:
        """Orders one number for each of the rows of tiles by query."""
        x = x.reshape(*x.shape[:3], self.groups, self.queries).transpose(0, 2, 4, 1, 3)
        return x.reshape(x.shape[0], -1, self.kv_heads * self.groups)[:, : self.length]

    def keys_by_head(self, x: Float[Array, 'B S K H']) -> Float[Array, 'B K Sp H']:
        """Orders keys or values by head."""
        return jnp.pad(x, ((0, 0), (0, self.num_keys - self.real_keys), (0, 0), (0, 0))).transpose(0, 2, 1, 3)


class Blocks:
    """Which block of an array a tile needs; the kernels' grid is (key head, entry of the list)."""

    def __init__(self, cut: Cut, rows: int):
        self.cut, self.tiles = cut, cut.tiles(rows)

    def queries(self, width: int) -> pl.BlockSpec:
        """The line's queries, or what belongs to them: [G, Q, width]."""
        return self._of_line((None, None, self.cut.groups, self.cut.queries, width), lambda b, h, i: (b, h, 0, i, 0))

    def line(self, *block: int) -> pl.BlockSpec:
        """What stands in one block for the rows of a line."""
        return self._of_line((None, None, None, *block), lambda b, h, i: (b, h, i, 0, 0))

    def spans(self) -> pl.BlockSpec:
        """The spans of the line's queries: [2, Q, 128]."""
        return self._of_line((None, 2, self.cut.queries, LANES), lambda b, h, i: (b, 0, i, 0))

    def row(self, width: int) -> pl.BlockSpec:
        """All keys of the batch row: [Sp, width]."""
        return self._of_line((None, None, self.cut.num_keys, width), lambda b, h, i: (b, h, 0, 0))

    def keys(self, width: int) -> pl.BlockSpec:
        """The tile's keys or values: [J, width]."""
        block = (None, None, self.cut.keys, width)
        return self._of_entry(block, lambda entry, h: (self.tiles.row(entry), h, self.tiles.keys(entry), 0))

    def _of_line(self, block, index) -> pl.BlockSpec:
        return self._of_entry(block, lambda entry, h: index(self.tiles.row(entry), h, self.tiles.line(entry)))

    def _of_entry(self, block, index) -> pl.BlockSpec:
        return pl.BlockSpec(block, lambda h, t, tiles: index(self.tiles.entry(tiles, t), h))
