# SPDX-License-Identifier: Apache-2.0
"""The vision tower: pixels to patch features.

B rows, M media a row, T frames, P patches a frame, N = B * M * T frames, D width.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from mmjax import sharding
from mmjax.batch import MediaSpec
from mmjax.nn import stack
from mmjax.nn.attention import Attention, Planned
from mmjax.nn.block import Block
from mmjax.nn.layers import Linear, Norm, normal, parameter
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import GridOffsets, Learned
from mmjax.sharding import P, b_D, w_LD

RELATIVE = ('', 'shared', 'own')


class Pool(nnx.Module):
    """One learned probe collects the features of a picture: x = attn(probe, features), x + mlp(norm x)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        attn: Attention.Config
        mlp: Mlp.Config
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'Pool':
            """Builds the part."""
            return Pool(self, width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        self.probe = parameter(normal(rngs.params(), (width,), 1.0), b_D)
        self.attn = c.attn.build(width, rngs=rngs)
        self.norm = c.norm.build(width, rngs=rngs)
        self.mlp = c.mlp.build(width, rngs=rngs)

    def __call__(self, x: Float[Array, 'N P D']) -> Float[Array, 'N D']:
        """Returns one vector a picture."""
        probe = sharding.broadcast_rows(self.probe[...][None], x.shape[0])
        y = self.attn(probe, self.attn.keys_values(x), everything(x.shape[0], 1, x.shape[1]))
        return (y + self.mlp(self.norm(y)))[:, 0]


class Vit(nnx.Module):
    """A Vision Transformer over the patches of fixed-size pictures."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        size: tuple[int, int] = (224, 224)  # height, width of the picture in pixels
        patch: int
        width: int
        depth: int
        block: Block.Config
        patch_bias: bool = True
        film: int = 1  # frames of which a token is made: a picture is shown so often
        overlap: int = 0  # a token is made of its own patch and so many on every side (overlapping patch embedding)
        # Channels of convolutions in front of the patches (Xiao et al. 2021): windows of six in steps of two, and ReLU.
        # Each halves the picture, so a small tower need not learn a shape anew for every place in a patch.
        stem: tuple[int, ...] = ()
        # Of the position table at first. Large towers learn places in time; a small one, trained for minutes, sees none
        # while its patches, whose deviation is about 1, drown them.
        position_std: float = 0.02
        table: bool = True  # positions are added to the patches
        relative: str = ''  # a number for each offset of two patches is added to scores: '', 'shared' by blocks, 'own'
        mask: bool = False  # a learned token for the places of hidden patches
        sincos: bool = False  # the table begins as sines and cosines of rows and columns, to be frozen (see `sincos`)
        position_grid: tuple[int, int] | None = None  # of the table, resized to that of the picture; None: the same
        cls: bool = False  # a learned token in front of the patches, with position 0
        pre_norm: Norm.Config | None = None  # before the first block
        norm: Norm.Config | None = dataclasses.field(default_factory=Norm.Config)  # after the last
        pool: Pool.Config | None = None  # for `pooled`; None: the cls token
        pool_mean: bool = False  # without a pool: the mean of the patches, cls left out
        layer: int = -1  # the features are what leaves this block: -1 the last, -2 the one before it ...
        features_normed: bool = True  # apply `norm` to them
        keep_cls: bool = False  # leave the cls token among the features
        deep: tuple[int, ...] = ()  # blocks whose output stands behind the features' own channels, without the norm
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels in 0..1
        std: tuple[float, float, float] = (0.5, 0.5, 0.5)
        remat: str = 'none'

        @property
        def grid(self) -> tuple[int, int]:
            """Rows and columns of patches."""
            return self.size[0] // self.patch, self.size[1] // self.patch

        @property
        def pooled_width(self) -> int:
            """The width of a picture's vector."""
            return self.width

        @property
        def tokens(self) -> int:
            """P: how many features a frame gives."""
            return self.grid[0] * self.grid[1] + (self.cls and self.keep_cls)

        def build(self, *, rngs: nnx.Rngs) -> 'Vit':
            """Builds the tower."""
            return Vit(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if c.size[0] % c.patch or c.size[1] % c.patch:
            raise ValueError(f'picture of {c.size[0]}x{c.size[1]} pixels is no multiple of the patch, {c.patch}')
        if c.patch % 2 ** len(c.stem):
            raise ValueError(f'patch {c.patch} cannot be halved by each of the {len(c.stem)} convolutions of the stem')
        if not -c.depth <= c.layer < 0:
            raise ValueError(f'layer {c.layer} of a tower of depth {c.depth}: choose -1 (the last block) to {-c.depth}')
        if list(c.deep) != sorted(set(c.deep)) or not all(0 <= i <= c.depth + c.layer for i in c.deep):
            raise ValueError(f'Vit.Config.deep {c.deep} names blocks 0 to {c.depth + c.layer}, in order')
        if c.relative not in RELATIVE:
            raise ValueError(f'Vit.Config.relative is {c.relative!r}; choose one of {RELATIVE}')
        if c.sincos and not c.table:
            raise ValueError('Vit.Config.sincos fills the table of positions: set table to True')
        self.size, self.patch_size, self.mean, self.std = tuple(c.size), c.patch, tuple(c.mean), tuple(c.std)
        self.grid = c.grid
        self.deep, self.width = tuple(c.deep), c.width * (1 + len(c.deep))
        self.depth, self.run, self.remat = c.depth, c.depth + 1 + c.layer, c.remat
        self.pool_mean = c.pool_mean
        self.features_normed, self.drop_cls = c.features_normed, c.cls and not c.keep_cls
        channels = (3, *c.stem)
        self.stem = nnx.List(
            Linear(36 * a, b, bias=True, spec=w_LD, rngs=rngs) for a, b in itertools.pairwise(channels)
        )
        self.overlap, side = c.overlap, c.patch // 2 ** len(c.stem) * (1 + 2 * c.overlap)
        self.film = c.film
        self.patch = Linear(c.film * side * side * channels[-1], c.width, bias=c.patch_bias, spec=w_LD, rngs=rngs)
        self.cls = parameter(normal(rngs.params(), (c.width,), 0.02), b_D) if c.cls else None
        self.mask = parameter(normal(rngs.params(), (c.width,), 0.02), b_D) if c.mask else None
        self.cells, self.grid = tuple(c.position_grid or c.grid), c.grid
        places = Learned.Config(length=self.cells[0] * self.cells[1] + c.cls, std=c.position_std)
        self.position = places.build(c.width, rngs=rngs) if c.table else None
        if c.sincos:
            self.position.table.set_value(sincos(c.grid, c.width, extra=int(c.cls)))
        self.pre_norm = c.pre_norm.build(c.width, rngs=rngs) if c.pre_norm else None
        self.blocks = stack.build(lambda r: c.block.build(c.width, rngs=r), c.depth, rngs)
        offsets = lambda r: GridOffsets.Config(grid=c.grid, extra=int(c.cls)).build(c.block.attn.heads, rngs=r)
        self.own_relative = c.relative == 'own'
        tables = {'own': lambda: stack.build(offsets, c.depth, rngs), 'shared': lambda: offsets(rngs), '': lambda: None}
        self.relative = tables[c.relative]()
        self.norm = c.norm.build(c.width, rngs=rngs) if c.norm else None
        self.pool = c.pool.build(c.width, rngs=rngs) if c.pool else None

    def __call__(
        self,
        pixels: UInt8[Array, 'B M T h w 3'] | Float[Array, 'B M T h w 3'],
        size: Int[Array, 'B M 3'] | None = None,
    ) -> Float[Array, 'B M T P D']:
        """Returns the features of every frame, zero for those beyond a medium's size (frames, rows, columns).

        Float pixels are taken as already normalised.
        """
        b, m, t = pixels.shape[:3]
        x, deep, start = self.enter(sharding.reshape_rows(pixels, (b * m * t, *pixels.shape[3:]))), [], 0
        for end in (i + 1 for i in self.deep):
            x, start = self.encode(x, end, start=start), end
            deep.append(x)
        x = self.encode(x, self.run, start=start) if start < self.run else x
        if self.features_normed and self.norm is not None:
            x = self.norm(x)
        x = jnp.concatenate([x, *deep], axis=-1) if deep else x
        x = x[:, 1:] if self.drop_cls else x
        return by_frame(x, (b, m, t), size)

    def pooled(self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3']) -> Float[Array, 'N D']:
        """Returns one vector a picture: what the pool collects, or the normed cls token or mean."""
        x = self.encode(self.enter(pixels), self.depth)
        if self.pool is None:
            mean = self.pool_mean or self.cls is None
            x = x[:, int(self.cls is not None) :].mean(axis=1) if mean else x[:, 0]
            return x if self.norm is None else self.norm(x)
        return self.pool(x if self.norm is None else self.norm(x))

    def enter(
        self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3'], hidden: Bool[Array, 'N n'] | None = None
    ) -> Float[Array, 'N P D']:
        """Returns what enters the first block: embedded patches, those that are hidden masked, with cls and places."""
        if pixels.shape[1:3] != self.size:
            raise ValueError(
                f'pictures of {pixels.shape[1:3]} pixels for a tower of {self.size}; fit them in the layout'
            )
        x = normalise(pixels, self.mean, self.std)
        for convolution in self.stem:
            x = jax.nn.relu(convolution(windows(x, 2, 1)))
        rows, columns = (side // self.patch_size for side in self.size)
        x = windows(x, x.shape[1] // rows, self.overlap)
        x = x if self.film == 1 else jnp.concatenate([x] * self.film, axis=-1)
        x = self.patch(sharding.reshape_rows(x, (x.shape[0], rows * columns, x.shape[3])))
        if hidden is not None:
            x = jnp.where(hidden[..., None], self.mask[...].astype(x.dtype), x)
        if self.cls is not None:
            x = jnp.concatenate([sharding.broadcast_rows(self.cls[...][None], x.shape[0]), x], axis=1)
        if self.position is not None:
            places = sharding.place(self.position.table[...], P())
            x = x + resized(places, self.cells, self.grid, extra=int(self.cls is not None))
        return x if self.pre_norm is None else self.pre_norm(x)

    def encode(
        self, x: Float[Array, 'N P D'], layers: int, span: Int[Array, 'N P 2'] | None = None, *, start: int = 0
    ) -> Float[Array, 'N P D']:
        """Runs blocks `start` to `layers`; each patch sees all of its row, or its span where pictures share a row."""
        span = self._plan(everything(*x.shape[:2], x.shape[1]) if span is None else span)
        return self._fold(lambda x, block, _: block(x, span), x, layers, start)

    def average(self, x: Float[Array, 'N P D'], last: int) -> Float[Array, 'N P D']:
        """Returns the mean of what leaves the last blocks, each normed without scale and bias, in float32."""
        if not 0 < last <= self.depth:
            raise ValueError(f'the mean of {last} blocks of a tower of depth {self.depth}')
        span = self._plan(everything(*x.shape[:2], x.shape[1]))

        def body(carry: tuple[Array, Array], block: Callable[..., Array], layer: Array) -> tuple[Array, Array]:
            x = block(carry[0], span)
            return x, carry[1] + jnp.where(layer >= self.depth - last, plain_norm(x), 0)

        total = jnp.zeros_like(x, jnp.float32)
        return self._fold(body, (x, total), self.depth)[1] / last

    def _plan(self, span: Int[Array, 'N P 2']) -> Int[Array, 'N P 2'] | Planned:
        return span if self.relative is not None else self.blocks.attn.plan(span, span.shape[1])

    def _fold(self, body: Callable[..., Any], carry: Any, layers: int, start: int = 0) -> Any:
        """Folds body(carry, block, layer) over blocks `start` to `layers`; a block is a function of (x, span)."""
        parts = (self.blocks, self.relative) if self.own_relative else (self.blocks,)
        whole = layers == self.depth and not start
        parts = parts if whole else jax.tree.map(lambda p: p[start:layers], parts)
        # One table for all blocks is spread out once.
        shared = self.relative() if self.relative is not None and not self.own_relative else None

        def step(carry: Any, parts: tuple[Any, ...], layer: Array) -> Any:
            bias = parts[1]() if self.own_relative else shared
            return body(carry, lambda x, span: parts[0](x, span, bias=bias)[0], layer)

        return stack.run(step, carry, parts, first=start, policy=self.remat)


def plain_norm(x: Float[Array, '... D'], eps: float = 1e-5) -> Float[Array, '... D']:
    """Returns x less its mean, by its deviation, over the last axis, float32: a layer norm without parameters."""
    x = x.astype(jnp.float32)
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + eps)


def by_frame(
    x: Float[Array, 'N P D'], lead: tuple[int, int, int], size: Int[Array, 'B M 3'] | None
) -> Float[Array, 'B M T P D']:
    """Returns the features of frames by medium, `lead` = (B, M, T), zero beyond its size; None: all are there."""
    x = sharding.reshape_rows(x, (*lead, *x.shape[1:]))
    return x if size is None else jnp.where((jnp.arange(lead[2]) < size[..., :1])[..., None, None], x, 0)


def everything(rows: int, queries: int, keys: int) -> Int[Array, '{rows} {queries} 2']:
    """Returns spans with which every query sees every key."""
    return jnp.broadcast_to(jnp.array([0, keys], jnp.int32), (rows, queries, 2))


def spec_of_pictures(c: Vit.Config) -> MediaSpec:
    """Returns what the data side needs to know of a tower that reads pictures alone: they have no places."""
    one = lambda frames, rows, columns: (1, 1)
    height, width = c.size
    return MediaSpec(
        height=height, width=width, patch=c.patch, tokens=1, grid=one, in_sequence=False, apart=True, text=False
    )


def sincos(grid: tuple[int, int], width: int, extra: int = 0) -> Float[Array, 'L D']:
    """Returns fixed positions of a grid: [sin | cos] of the column, then of the row; zeros for `extra` tokens before.

    A table of them learns like any other, unless a stage leaves its path out of `trainable` (MAE, DiT).
    """
    if width % 4:
        raise ValueError(f'width {width} is no multiple of 4: sines and cosines of rows and columns need four parts')
    rate = 10_000.0 ** (-jnp.arange(width // 4) / (width // 4))
    wave = lambda places: jnp.concatenate([f(places[:, None] * rate) for f in (jnp.sin, jnp.cos)], axis=1)
    row, column = (x.ravel() for x in jnp.indices(grid).astype(jnp.float32))
    return jnp.pad(jnp.concatenate([wave(column), wave(row)], axis=1), ((extra, 0), (0, 0)))


def normalise(pixels: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Returns (pixels / 255 - mean) / std of bytes; floats are taken as already normalised."""
    if pixels.dtype != jnp.uint8:
        return pixels
    return (pixels.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)


def patches(pixels: Array, patch: int) -> Array:
    """Cuts [N, height, width, 3] into [N, P, patch * patch * 3]: raster order, each (row, column, channel)."""
    n, height, width, channels = pixels.shape
    rows, columns = height // patch, width // patch
    x = sharding.reshape_rows(pixels, (n, rows, patch, columns, patch, channels)).transpose(0, 1, 3, 2, 4, 5)
    return sharding.reshape_rows(x, (n, rows * columns, patch * patch * channels))


def windows(
    x: Float[Array, 'N h w C'], patch: int, reach: int
) -> Float[Array, 'N {x.shape[1]//patch} {x.shape[2]//patch} {(2*reach+1)**2*patch**2*x.shape[3]}']:
    """Cuts a picture into patches and puts those round each one beside it: (2 reach + 1)^2 of them in raster order.

    Beyond the edges are zeros.
    """
    rows, columns = x.shape[1] // patch, x.shape[2] // patch
    x = sharding.reshape_rows(patches(x, patch), (x.shape[0], rows, columns, patch * patch * x.shape[3]))
    if not reach:
        return x
    x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    steps = range(2 * reach + 1)
    return jnp.concatenate([x[:, i : i + rows, j : j + columns] for i in steps for j in steps], axis=-1)


def resized(
    table: Float[Array, 'L D'], old: tuple[int, int], new: tuple[int, int], *, extra: int = 0
) -> Float[Array, 'P D']:
    """Returns a position table for another grid: `resize_positions`, inside of a program."""
    if old == new:
        return table
    rows, columns = (jnp.asarray(_resize_matrix(o, n, 'bicubic'), jnp.float32) for o, n in zip(old, new, strict=True))
    body = table[extra:].astype(jnp.float32).reshape(*old, -1)
    out = jnp.einsum('ir,jc,rcD->ijD', rows, columns, body).reshape(new[0] * new[1], -1)
    return jnp.concatenate([table[:extra], out.astype(table.dtype)])


def resize_positions(
    table: np.ndarray, old: tuple[int, int], new: tuple[int, int], *, method: str = 'bicubic', extra: int = 0
) -> np.ndarray:
    """Resizes a position table [extra + rows * columns, D] to a new grid, as torch's interpolate does (no antialias).

    The first `extra` positions (cls) stay. Corners are not aligned; bicubic is Keys' with a = -0.75.
    """
    head, body = table[:extra], table[extra:].reshape(*old, -1).astype(np.float64)
    rows, columns = (_resize_matrix(o, n, method) for o, n in zip(old, new, strict=True))
    out = np.einsum('ir,jc,rcd->ijd', rows, columns, body).reshape(new[0] * new[1], -1)
    return np.concatenate([head, out.astype(table.dtype)])


def _resize_matrix(old: int, new: int, method: str) -> np.ndarray:
    kernels = {'bilinear': (1, lambda d: np.maximum(1 - d, 0)), 'bicubic': (2, _keys)}
    if method not in kernels:
        raise ValueError(f'resize method {method!r}; choose one of {sorted(kernels)}')
    reach, weight = kernels[method]
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        centre = max(centre, 0.0) if method == 'bilinear' else centre
        for j in range(int(np.floor(centre)) - reach + 1, int(np.floor(centre)) + reach + 1):
            matrix[i, min(max(j, 0), old - 1)] += weight(abs(centre - j))
    return matrix


def _keys(d: float, a: float = -0.75) -> float:
    return (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
