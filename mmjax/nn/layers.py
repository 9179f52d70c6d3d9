# SPDX-License-Identifier: Apache-2.0
"""The smallest parts: Linear, Norm, Embed.

A part computes in the type of its parameters (the caller casts those); statistics of norms are float32.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn.contract import contract
from mmjax.sharding import P


def normal(key: Array, shape: tuple[int, ...], std: float) -> Array:
    """Draws from a normal distribution cut at two deviations, rescaled so that `std` is what comes out.

    A hash of each element's number takes the place of jax.random's threefry: XLA compiles it seven times faster on a
    CPU, where building a small model took 10 s. Each element depends on the key and its number alone, so it also
    stays the same however the array is sharded.
    """
    number = row = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        number = number * shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        row = row if axis else number
    low, high = jax.random.key_data(key)
    # The row's number enters again, since an element's own wraps round in tables of 2^32 elements and more.
    bits = _mix(_mix(number ^ low) + (row * jnp.uint32(0x9E3779B9) ^ high))
    edge = math.erf(2 / math.sqrt(2))
    uniform = (bits >> 9).astype(jnp.float32) * 2.0**-22 - (1 - 2.0**-23)  # in (-1, 1), 2^23 values
    return jax.lax.erf_inv(edge * uniform) * (math.sqrt(2) * std / 0.87962566)


def _mix(x: Array) -> Array:
    # The integer hash `lowbias32`: every input bit changes every output bit with a probability close to one half.
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


def parameter(value: Array, spec: P) -> nnx.Param:
    """Wraps a value with the spec of its own axes; a depth axis that vmap puts in front is not part of the spec."""
    if value.ndim != len(spec):
        raise ValueError(f'{spec} names {len(spec)} axes of a parameter with shape {value.shape}')
    return nnx.Param(value, spec=spec)


class Linear(nnx.Module):
    """An affine map from the last axes of its input to new ones: kernel [in..., out...], bias [out...].

    `scale` multiplies the initial deviation 1 / sqrt(fan in). `lora` is None or a low-rank addition (nn/lora.py).
    """

    def __init__(
        self,
        shape_in: int | tuple[int, ...],
        shape_out: int | tuple[int, ...],
        *,
        bias: bool,
        spec: P,
        rngs: nnx.Rngs,
        scale: float = 1.0,
    ):
        shape_in = (shape_in,) if isinstance(shape_in, int) else tuple(shape_in)
        shape_out = (shape_out,) if isinstance(shape_out, int) else tuple(shape_out)
        self.num_in, self.spec = len(shape_in), spec
        # fsdp shards the storage of a weight, never an activation.
        self.out_axes = P(*(None if axis == 'fsdp' else axis for axis in spec[self.num_in :]))
        std = scale / math.sqrt(math.prod(shape_in))
        self.kernel = parameter(normal(rngs.params(), shape_in + shape_out, std), spec)
        self.bias = parameter(jnp.zeros(shape_out), self.out_axes) if bias else None
        self.lora = nnx.data(None)

    def __call__(self, x: Float[Array, '...'], dtype: DTypeLike | None = None) -> Float[Array, '...']:
        """Returns x @ kernel + bias over the last `num_in` axes of x, of type `dtype` (None: the kernel's)."""
        y = contract(x, self.kernel[...], self.num_in, self.out_axes, dtype)
        if self.lora is not None:
            y = y + self.lora(x)
        return y if self.bias is None else y + self.bias[...]


class Norm(nnx.Module):
    """RMS or layer normalisation over the last axes, in float32."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        kind: str = 'layer'  # 'layer' or 'rms'
        eps: float = 1e-5
        bias: bool = True  # of a layer norm
        offset: float = 0.0  # added to the stored scale (Gemma stores scale - 1)

        def build(self, shape: int | tuple[int, ...], *, spec: P | None = None, rngs: nnx.Rngs) -> 'Norm':
            """Builds the norm over the last axes of the given shape."""
            return Norm(self, (shape,) if isinstance(shape, int) else tuple(shape), spec)

    def __init__(self, c: Config, shape: tuple[int, ...], spec: P | None):
        if c.kind not in ('layer', 'rms'):
            raise ValueError(f"Norm.Config.kind is {c.kind!r}; choose 'layer' or 'rms'")
        spec = spec or P(*(None,) * len(shape))
        self.centre, self.eps, self.offset, self.ndim = c.kind == 'layer', c.eps, c.offset, len(shape)
        self.scale = parameter(jnp.full(shape, 1.0 - c.offset), spec)
        self.bias = parameter(jnp.zeros(shape), spec) if c.bias and c.kind == 'layer' else None

    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        """Returns x normalised over the last axes, scaled and shifted, in x's type."""
        axes = tuple(range(-self.ndim, 0))
        y = x.astype(jnp.float32)
        if self.centre:
            y = y - y.mean(axes, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(axes, keepdims=True) + self.eps)
        y = y * (self.scale[...].astype(jnp.float32) + self.offset)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Embed(nnx.Module):
    """A table of vectors [V, D], looked up by id; the same table may serve as the head."""

    def __init__(self, num: int, width: int, *, spec: P, std: float = 0.02, rngs: nnx.Rngs):
        self.table = parameter(normal(rngs.params(), (num, width), std), spec)

    def __call__(self, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
        """Returns the vectors of ids."""
        table = self.table[...]
        if not sharding.current():
            return table.at[ids].get(mode='clip')
        # By hand: each device looks up the ids it holds and the sum over tp completes them. The partitioner would
        # gather every row's vectors on every device.
        specs = (P('tp', None), sharding.act_BL)
        args = (sharding.place(x, s) for x, s in zip((table, ids), specs, strict=True))
        return jax.shard_map(_look_up, in_specs=specs, out_specs=sharding.act_BLD)(*args)

    def attend(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        """Returns the products of x with every vector, in float32."""
        return jnp.einsum(
            'BLD,VD->BLV',
            x.astype(self.table.dtype),
            self.table[...],
            preferred_element_type=jnp.float32,
            out_sharding=sharding.where(sharding.act_BLV),
        )


class Unembedding(NamedTuple):
    """What scores of the next token are made of, for who never holds them all: cap(scale * (x @ table + bias))."""

    table: Float[Array, '...']  # [V, D] or [D, V]
    vocab_axis: int  # of the table
    bias: Float[Array, 'V'] | None
    vocab: int  # columns behind it are padding and have no score
    scale: float = 1.0
    soft_cap: float | None = None  # scores become cap * tanh(scores / cap)


def _look_up(table: Float[Array, 'v D'], ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    own = ids - jax.lax.axis_index('tp') * table.shape[0]
    found = table.at[own].get(mode='clip')
    here = (own >= 0) & (own < table.shape[0])
    return jax.lax.psum(jnp.where(here[..., None], found, 0), 'tp')
