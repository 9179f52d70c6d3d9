# SPDX-License-Identifier: Apache-2.0
"""The product that all affine maps are, and its gradients on a mesh."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array

from mmjax import sharding
from mmjax.sharding import P
from pallas_kernels.platform import platform


def contract(x: Array, kernel: Array, num_in: int, out_axes: P, dtype: DTypeLike | None = None) -> Array:
    """Returns x @ kernel over the last `num_in` axes of x, laid out as x in front of them and as `out_axes` behind."""
    x, mesh = x.astype(kernel.dtype), sharding.current()
    if mesh is None:
        return _product(num_in, None, dtype, x, kernel)
    lead, place = x.ndim - num_in, jax.typeof(x).sharding.spec
    out_axes = sharding.fit(out_axes, kernel.shape[num_in:], mesh, 'the output of a Linear')
    # Only we can say where a sum over tp lands, and that a gathered fsdp axis does not come back.
    out = P(*place[:lead], *out_axes)
    stored = jax.typeof(kernel).sharding.spec
    gathered = [None if axis == 'fsdp' else axis for axis in stored]
    split = mesh.shape['fsdp'] > 1 and 'fsdp' in stored and 'fsdp' in _names(place[:lead])
    if split and gathered == [*place[lead:], *out_axes]:
        return _scattering(num_in, (out, stored), dtype, x, kernel)
    return _product(num_in, out, dtype, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scattering(num_in: int, specs: tuple[P, P], dtype: DTypeLike | None, x: Array, kernel: Array) -> Array:
    """Does what `_product` does; each device sends of a kernel's gradient what others store of it, and no more.

    XLA sums the gradient of a whole kernel on every device and throws most of it away: its pass that would see the
    reduce-scatter in that does not look through a scan's body. That is twice the bytes. (libtpu 0.0.52 takes it so on
    v5e and v6e; on v5p, where fsdp runs through three dimensions of the torus, it makes a sum of it again.)
    """
    return _product(num_in, specs[0], dtype, x, kernel)


def _forward(num_in, specs, dtype, x, kernel):
    y = _product(num_in, specs[0], dtype, x.value, kernel.value)
    return y, (x.value if kernel.perturbed else None, kernel.value if x.perturbed else None)


def _backward(num_in, specs, dtype, saved, grad):
    if isinstance(grad, SymbolicZero):
        return None, None
    (out, stored), (x, kernel) = specs, saved
    to_kernel = None if x is None else _kernel_gradient(num_in, stored, x, grad)
    if kernel is None:
        return None, to_kernel
    lead = grad.ndim - (kernel.ndim - num_in)
    place = P(*out[:lead], *(None if axis == 'fsdp' else axis for axis in stored[:num_in]))
    zeros = jnp.zeros((*grad.shape[:lead], *kernel.shape[:num_in]), kernel.dtype, out_sharding=place)
    # Linear in x, so that it may be pulled back at any x.
    return jax.vjp(lambda x: _product(num_in, out, dtype, x, kernel), zeros)[1](grad)[0], to_kernel


_scattering.defvjp(_forward, _backward, symbolic_zeros=True)


def _kernel_gradient(num_in: int, stored: P, x: Array, grad: Array) -> Array:
    """Returns x^T grad, summed over all rows, each device's part on it."""
    place, lead = jax.typeof(x).sharding.spec, x.ndim - num_in
    others = tuple(name for name in _names(place[:lead]) if name != 'fsdp')

    def local(x: Array, grad: Array) -> Array:
        flat = lambda a: a.reshape(math.prod(a.shape[:lead]), math.prod(a.shape[lead:]))  # rows may be none
        sums = jnp.dot(flat(x).T, flat(grad).astype(x.dtype))
        sums = sums.reshape(*x.shape[lead:], *grad.shape[lead:])
        sums = jax.lax.psum_scatter(sums, 'fsdp', scatter_dimension=stored.index('fsdp'), tiled=True)
        return jax.lax.psum(sums, others) if others else sums

    specs = place, jax.typeof(grad).sharding.spec
    return jax.shard_map(local, in_specs=specs, out_specs=stored, check_vma=False)(x, grad)


def _product(num_in: int, out: P | None, dtype: DTypeLike | None, x: Array, kernel: Array) -> Array:
    """Returns the product, laid out as `out` says."""
    lead = x.ndim - num_in
    if platform() == 'cpu' and (specs := _flat_specs(x, kernel, num_in, out)):
        # The gradient of a kernel sums over all of x's first axes. On a CPU that is one matrix product when they are
        # one axis, and a transposed copy of the activations when they are several: a step took 1.3 times as long.
        rows, inputs = math.prod(x.shape[:lead]), math.prod(x.shape[lead:])
        flat_x = jnp.reshape(x, (rows, inputs), out_sharding=specs[0])
        flat_kernel = jnp.reshape(kernel, (inputs, -1), out_sharding=specs[1])
        y = jnp.dot(flat_x, flat_kernel, preferred_element_type=dtype, out_sharding=specs[2])
        return jnp.reshape(y, (*x.shape[:lead], *kernel.shape[num_in:]), out_sharding=out)
    axes = (tuple(range(lead, x.ndim)), tuple(range(num_in)))
    return jax.lax.dot_general(x, kernel, (axes, ((), ())), preferred_element_type=dtype, out_sharding=out)


def _flat_specs(x: Array, kernel: Array, num_in: int, out: P | None) -> tuple[P | None, P | None, P | None] | None:
    """Returns the specs of [rows, inputs], [inputs, outputs], [rows, outputs]; None where axes cannot be merged."""
    if out is None:
        return None, None, None
    lead, place = x.ndim - num_in, jax.typeof(x).sharding.spec
    stored = jax.typeof(kernel).sharding.spec
    groups = [place[:lead], place[lead:], stored[:num_in], stored[num_in:], out[lead:]]
    # Merged axes keep their places only if no axis but the first is split.
    if not all(groups) or any(axis is not None for group in groups for axis in group[1:]):
        return None
    rows, inputs, kernel_in, kernel_out, outputs = (group[0] for group in groups)
    return P(rows, inputs), P(kernel_in, kernel_out), P(rows, outputs)


def _names(spec: tuple) -> list[str]:
    """Returns the axes of the mesh that a spec names."""
    return [name for axis in spec if axis for name in ((axis,) if isinstance(axis, str) else axis)]
