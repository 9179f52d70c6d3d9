# SPDX-License-Identifier: Apache-2.0
"""DaViT: a tower in stages, whose blocks attend over the places of windows, then over channels (Ding et al. 2022).

N pictures, P places of a map, C channels, G groups of them, c channels of a group.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from mmjax import sharding
from mmjax.models.vision import by_frame, everything, normalise, patches
from mmjax.nn import stack
from mmjax.nn.attention import Attention
from mmjax.nn.layers import Linear, Norm, normal, parameter
from mmjax.nn.mlp import Mlp
from mmjax.sharding import P, w_DNH, w_NHD

REACH = 1  # of the convolutions that keep the size: one place on every side
BIASES = dict(q_bias=True, k_bias=True, v_bias=True, o_bias=True)


class Shrink(nnx.Module):
    """A convolution in steps of `stride`, whose windows overlap by about a half, and a norm before or behind it."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm.Config, *, before: bool, rngs: nnx.Rngs):
        self.stride, self.before, side = stride, before, 2 * stride - 1
        std = (side * side * channels) ** -0.5
        self.kernel = parameter(normal(rngs.params(), (side, side, channels, width), std), P(None, None, None, None))
        self.bias = parameter(jnp.zeros(width), P(None))
        self.norm = norm.build(channels if before else width, rngs=rngs)

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N i j E']:
        """Returns the smaller map."""
        kernel = self.kernel[...]
        y = jax.lax.conv_general_dilated(
            (self.norm(x) if self.before else x).astype(kernel.dtype),
            kernel,
            (self.stride, self.stride),
            [(self.stride - 1, self.stride - 1)] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        y = y + self.bias[...]
        return y if self.before else self.norm(y)


class Near(nnx.Module):
    """x + a convolution of each channel with itself: what tells a place where it lies."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        side = 2 * REACH + 1
        self.kernel = parameter(normal(rngs.params(), (side, side, 1, channels), 0.02), P(None, None, None, None))
        self.bias = parameter(jnp.zeros(channels), P(None))

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N h w C']:
        """Returns the sum. Shifted copies are added up: a convolution of so many groups is slow on CPUs."""
        kernel, (height, width) = self.kernel[..., 0, :], x.shape[1:3]
        beyond = jnp.pad(x, ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0)))
        steps = range(2 * REACH + 1)
        copies = (beyond[:, i : i + height, j : j + width] * kernel[i, j] for i in steps for j in steps)
        return x + sum(copies) + self.bias[...]


class Windows(nnx.Module):
    """Attention among the places of a window; the last windows of a row or column are filled up with zeros."""

    def __init__(self, channels: int, heads: int, side: int, *, rngs: nnx.Rngs):
        self.side = side
        self.attn = Attention.Config(heads=heads, **BIASES).build(channels, rngs=rngs)

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N h w C']:
        """Returns what each place collects; the zeros are looked at too, as in the public code."""
        (n, height, width, channels), side = x.shape, self.side
        x = jnp.pad(x, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        one = sharding.reshape_rows(patches(x, side), (n * rows * columns, side * side, channels))
        y = self.attn(one, self.attn.keys_values(one), everything(len(one), side * side, side * side))
        y = sharding.reshape_rows(y, (n, rows, columns, side, side, channels)).transpose(0, 1, 3, 2, 4, 5)
        return sharding.reshape_rows(y, x.shape)[:, :height, :width]


class Channels(nnx.Module):
    """Attention among the channels of a group: its scores are products over all places."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        shape = groups, channels // groups
        self.q, self.k, self.v = (Linear(channels, shape, bias=True, spec=w_DNH, rngs=rngs) for _ in range(3))
        self.o = Linear(shape, channels, bias=True, spec=w_NHD, rngs=rngs)

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N h w C']:
        """Returns what each channel collects."""
        n, height, width, channels = x.shape
        x = sharding.reshape_rows(x, (n, height * width, channels))
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = jnp.einsum('NPGc,NPGd->NGcd', q, k, preferred_element_type=jnp.float32) * x.shape[1] ** -0.5
        y = jnp.einsum('NGcd,NPGd->NPGc', jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
        return sharding.reshape_rows(self.o(y), (n, height, width, channels))


class Half(nnx.Module):
    """near, x + mixer(norm x), near, x + mlp(norm x)."""

    def __init__(self, channels: int, mixer: nnx.Module, mlp: int, norm: Norm.Config, *, rngs: nnx.Rngs):
        self.near, self.mixer_norm, self.mixer = Near(channels, rngs=rngs), norm.build(channels, rngs=rngs), mixer
        self.mlp_near, self.mlp_norm = Near(channels, rngs=rngs), norm.build(channels, rngs=rngs)
        self.mlp = Mlp.Config(width=mlp).build(channels, rngs=rngs)

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N h w C']:
        """Returns the map."""
        x = self.near(x)
        x = self.mlp_near(x + self.mixer(self.mixer_norm(x)))
        n, height, width, channels = x.shape
        y = self.mlp(self.mlp_norm(sharding.reshape_rows(x, (n, height * width, channels))))
        return x + sharding.reshape_rows(y, x.shape)


class Block(nnx.Module):
    """A half over places, then one over channels."""

    def __init__(self, channels: int, heads: int, groups: int, window: int, mlp: int, norm: Norm.Config, *, rngs):
        self.places = Half(channels, Windows(channels, heads, window, rngs=rngs), mlp, norm, rngs=rngs)
        self.channels = Half(channels, Channels(channels, groups, rngs=rngs), mlp, norm, rngs=rngs)

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N h w C']:
        """Returns the map."""
        return self.channels(self.places(x))


class Stage(nnx.Module):
    """A smaller, wider map, and the blocks that run on it."""

    def __init__(self, shrink: Shrink, blocks: nnx.Module):
        self.shrink, self.blocks = shrink, blocks


class Davit(nnx.Module):
    """A tower of stages; its features are the places of the last map."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        size: tuple[int, int] = (768, 768)  # height, width of the picture in pixels
        widths: tuple[int, ...] = (128, 256, 512, 1024)  # channels of each stage
        depths: tuple[int, ...] = (1, 1, 9, 1)  # blocks of each stage
        heads: tuple[int, ...] = (4, 8, 16, 32)  # over places
        groups: tuple[int, ...] = (4, 8, 16, 32)  # of channels
        strides: tuple[int, ...] = (4, 2, 2, 2)  # by which each stage shrinks the map
        window: int = 12  # side of a window in places
        ratio: int = 4  # width of MLPs, in widths of their stage
        norm: Norm.Config = dataclasses.field(default_factory=Norm.Config)
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of pixels in 0..1
        std: tuple[float, float, float] = (0.229, 0.224, 0.225)
        remat: str = 'none'  # what the backward pass computes again: 'none', 'block', 'dots'

        @property
        def patch(self) -> int:
            """Pixels for each side of a place of the last map."""
            return math.prod(self.strides)

        @property
        def width(self) -> int:
            """D: channels of the last map."""
            return self.widths[-1]

        @property
        def grid(self) -> tuple[int, int]:
            """Rows and columns of the last map."""
            return self.size[0] // self.patch, self.size[1] // self.patch

        def build(self, *, rngs: nnx.Rngs) -> 'Davit':
            """Builds the tower."""
            return Davit(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        numbers = dict(widths=c.widths, depths=c.depths, heads=c.heads, groups=c.groups, strides=c.strides)
        if len({len(each) for each in numbers.values()}) > 1:
            raise ValueError(f'Davit.Config says of each stage one number, but there are {numbers}')
        for width, parts in zip(c.widths * 2, c.heads + c.groups, strict=True):
            if width % parts:
                raise ValueError(f'Davit.Config: {width} channels cannot be parted into {parts} heads or groups')
        if c.size[0] % c.patch or c.size[1] % c.patch:
            raise ValueError(
                f'picture of {c.size[0]}x{c.size[1]} pixels is no multiple of {c.patch}, by which the stages shrink it'
            )
        self.size, self.width, self.remat = tuple(c.size), c.width, c.remat
        self.mean, self.std = tuple(c.mean), tuple(c.std)
        stages, channels = [], 3
        for width, depth, heads, groups, stride in zip(*numbers.values(), strict=True):
            numbers = (width, heads, groups, c.window, c.ratio * width, c.norm)
            shrink = Shrink(channels, width, stride, c.norm, before=bool(stages), rngs=rngs)
            blocks = stack.build(lambda r, numbers=numbers: Block(*numbers, rngs=r), depth, rngs)
            stages, channels = [*stages, Stage(shrink, blocks)], width
        self.stages = nnx.List(stages)

    def __call__(
        self,
        pixels: UInt8[Array, 'B M T h w 3'] | Float[Array, 'B M T h w 3'],
        size: Int[Array, 'B M 3'] | None = None,
    ) -> Float[Array, 'B M T P D']:
        """Returns the last map of every frame, zero for those beyond a medium's size (frames, rows, columns).

        Float pixels are taken as already normalised.
        """
        b, m, t = pixels.shape[:3]
        if pixels.shape[3:5] != self.size:
            raise ValueError(
                f'pictures of {pixels.shape[3:5]} pixels for a tower of {self.size}; fit them in the layout'
            )
        x = normalise(sharding.reshape_rows(pixels, (b * m * t, *pixels.shape[3:])), self.mean, self.std)
        body = lambda x, block, layer: block(x)
        for stage in self.stages:
            x = stack.run(body, stage.shrink(x), stage.blocks, policy=self.remat)
        x = sharding.reshape_rows(x, (b * m * t, x.shape[1] * x.shape[2], x.shape[3]))
        return by_frame(x, (b, m, t), size)
