# SPDX-License-Identifier: Apache-2.0
"""CLIP's ResNet: three convolutions at the entrance, strides by averaging, attention for a pool (Radford et al. 2021).

Its batch norms are frozen: they scale by stored means and variances, as in a trained tower, and gather none.

N pictures, C channels, P places of the last map, D its channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from mmjax import sharding
from mmjax.models.vision import by_frame, everything, normalise
from mmjax.nn.attention import attend
from mmjax.nn.cache import KeyValue
from mmjax.nn.layers import Linear, normal, parameter
from mmjax.sharding import P, w_DNH, w_LD, w_NHD

EXPANSION = 4  # how much wider a block's output is than its middle
EPS = 1e-5


class Convolution(nnx.Module):
    """A convolution without bias that keeps the size, or halves it, and the frozen batch norm behind it."""

    def __init__(self, channels: int, out: int, side: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.stride, self.padding = stride, side // 2
        std = (2 / (side * side * channels)) ** 0.5
        self.kernel = parameter(normal(rngs.params(), (side, side, channels, out), std), P(None, None, None, None))
        self.scale, self.var = (parameter(jnp.ones(out), P(None)) for _ in range(2))
        self.bias, self.mean = (parameter(jnp.zeros(out), P(None)) for _ in range(2))

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N i j E']:
        """Returns the normed map."""
        kernel = self.kernel[...]
        y = jax.lax.conv_general_dilated(
            x.astype(kernel.dtype),
            kernel,
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        gain = self.scale[...].astype(jnp.float32) * jax.lax.rsqrt(self.var[...].astype(jnp.float32) + EPS)
        shift = self.bias[...].astype(jnp.float32) - self.mean[...].astype(jnp.float32) * gain
        return (y.astype(jnp.float32) * gain + shift).astype(kernel.dtype)


class Bottleneck(nnx.Module):
    """relu(x + wide(middle(narrow x))); where the size is halved, an average takes the place of the stride."""

    def __init__(self, channels: int, middle: int, *, stride: int, rngs: nnx.Rngs):
        self.stride, out = stride, EXPANSION * middle
        self.narrow = Convolution(channels, middle, 1, rngs=rngs)
        self.middle = Convolution(middle, middle, 3, rngs=rngs)
        self.wide = Convolution(middle, out, 1, rngs=rngs)
        self.skip = Convolution(channels, out, 1, rngs=rngs) if stride > 1 or channels != out else None

    def __call__(self, x: Float[Array, 'N h w C']) -> Float[Array, 'N i j E']:
        """Returns the block's map."""
        y = jax.nn.relu(self.middle(jax.nn.relu(self.narrow(x))))
        y = self.wide(average(y, self.stride))
        return jax.nn.relu(y + (x if self.skip is None else self.skip(average(x, self.stride))))


class AttentionPool(nnx.Module):
    """The mean of all places asks among them and itself; places are learned."""

    def __init__(self, width: int, heads: int, out: int, places: int, *, rngs: nnx.Rngs):
        head = width // heads
        self.position = parameter(normal(rngs.params(), (places + 1, width), width**-0.5), w_LD)
        self.q, self.k, self.v = (Linear(width, (heads, head), bias=True, spec=w_DNH, rngs=rngs) for _ in range(3))
        self.o = Linear((heads, head), out, bias=True, spec=w_NHD, rngs=rngs)
        self.scale = head**-0.5

    def __call__(self, x: Float[Array, 'N P D']) -> Float[Array, 'N E']:
        """Returns one vector a picture."""
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + sharding.place(self.position[...], P()).astype(x.dtype)
        span = everything(x.shape[0], 1, x.shape[1])
        y = attend(self.q(x[:, :1]), KeyValue(self.k(x), self.v(x)), span, scale=self.scale, soft_cap=None)
        return self.o(y)[:, 0]


class ResNet(nnx.Module):
    """A tower of four stages of bottleneck blocks."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        size: tuple[int, int] = (224, 224)  # height, width of the picture in pixels
        stem: int = 64  # channels behind the entrance; the last map has 32 times as many
        depths: tuple[int, int, int, int] = (3, 4, 6, 3)
        heads: int = 32  # of the pool
        out: int = 1024  # width of a picture's vector
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels in 0..1
        std: tuple[float, float, float] = (0.5, 0.5, 0.5)

        @property
        def patch(self) -> int:
            """Pixels for each side of a place of the last map."""
            return 32

        @property
        def width(self) -> int:
            """D: channels of the last map."""
            return 32 * self.stem

        @property
        def pooled_width(self) -> int:
            """The width of a picture's vector."""
            return self.out

        @property
        def grid(self) -> tuple[int, int]:
            """Rows and columns of the last map."""
            return self.size[0] // self.patch, self.size[1] // self.patch

        @property
        def tokens(self) -> int:
            """P: how many features a frame gives."""
            return self.grid[0] * self.grid[1]

        def build(self, *, rngs: nnx.Rngs) -> 'ResNet':
            """Builds the tower."""
            return ResNet(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if c.size[0] % c.patch or c.size[1] % c.patch:
            raise ValueError(f'picture of {c.size[0]}x{c.size[1]} pixels: the tower halves it five times, to 1 / 32')
        self.size, self.width, self.mean, self.std = tuple(c.size), c.width, tuple(c.mean), tuple(c.std)
        half = c.stem // 2
        convolution = lambda a, b, stride: Convolution(a, b, 3, stride=stride, rngs=rngs)
        self.stem = nnx.List([convolution(3, half, 2), convolution(half, half, 1), convolution(half, c.stem, 1)])
        channels, stages = c.stem, []
        for stage, depth in enumerate(c.depths):
            blocks = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(Bottleneck(channels, c.stem * 2**stage, stride=stride, rngs=rngs))
                channels = EXPANSION * c.stem * 2**stage
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.pool = AttentionPool(c.width, c.heads, c.out, c.tokens, rngs=rngs)

    def __call__(
        self,
        pixels: UInt8[Array, 'B M T h w 3'] | Float[Array, 'B M T h w 3'],
        size: Int[Array, 'B M 3'] | None = None,
    ) -> Float[Array, 'B M T P D']:
        """Returns the last map of every frame, zero for those beyond a medium's size (frames, rows, columns)."""
        b, m, t = pixels.shape[:3]
        x = self.features(sharding.reshape_rows(pixels, (b * m * t, *pixels.shape[3:])))
        return by_frame(x, (b, m, t), size)

    def pooled(self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3']) -> Float[Array, 'N E']:
        """Returns one vector a picture."""
        return self.pool(self.features(pixels))

    def features(self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3']) -> Float[Array, 'N P D']:
        """Returns the places of the last map in raster order. Float pixels are taken as already normalised."""
        if pixels.shape[1:3] != self.size:
            raise ValueError(
                f'pictures of {pixels.shape[1:3]} pixels for a tower of {self.size}; fit them in the layout'
            )
        x = normalise(pixels, self.mean, self.std)
        for convolution in self.stem:
            x = jax.nn.relu(convolution(x))
        x = average(x, 2)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return sharding.reshape_rows(x, (x.shape[0], x.shape[1] * x.shape[2], x.shape[3]))


def average(x: Float[Array, 'N h w C'], side: int) -> Float[Array, 'N i j C']:
    """Returns the means of squares of side x side places."""
    if side == 1:
        return x
    n, height, width, channels = x.shape
    return sharding.reshape_rows(x, (n, height // side, side, width // side, side, channels)).mean(axis=(2, 4))
