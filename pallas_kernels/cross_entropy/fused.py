# SPDX-License-Identifier: Apache-2.0
"""The rule of differentiation and the way over a mesh, for implementations that make gradients on their way forward.

The loss is one number, so its gradients are known up to a factor as soon as the scores of a token are: the forward pass
makes them and the backward pass scales them. No score is computed twice, and none is kept.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float


class Sums(NamedTuple):
    """Weighted sums over tokens."""

    nll: Float[Array, '*T']
    z_loss: Float[Array, '*T']
    correct: Float[Array, '*T']  # 1 where no score is above the label's


def weighted(parts: Sums, weight: Float[Array, 'T']) -> Sums:
    """Returns the sums; a token without weight adds nothing, whatever its label."""
    return Sums(*(jnp.sum(jnp.where(weight != 0, weight * x, 0.0)) for x in parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """How scores come of hidden states: cap(scale * (hidden @ table + bias)), and what the loss adds to them."""

    vocab: int  # columns that count, over all devices; those behind them are padding
    vocab_axis: int = 0  # of the table: 0 for [V, D], 1 for [D, V]
    scale: float = 1.0
    soft_cap: float | None = None  # scores become cap * tanh(scores / cap)
    z_loss: float = 0.0


class Gradients(NamedTuple):
    """The loss's gradients; None for those that nobody asked for."""

    hidden: Float[Array, 'T D'] | None
    table: Float[Array, '...'] | None
    bias: Float[Array, 'V'] | None


@runtime_checkable
class Kernel(Protocol):
    """An implementation with its settings, which jax compiles once for each.

    T tokens, D width, V columns of the table, all as one device has them.
    """

    scores: Scores

    def run(self, hidden, table, bias, labels, weight, *, wanted: Gradients, axes: tuple[str, ...]):
        """Returns (Sums, Gradients) of these tokens, in float32.

        wanted: which gradients to make. axes: of the mesh, over which the columns are split; a gradient of hidden
        states is of this device's columns alone.
        """


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def cross_entropy(kernel: Kernel, hidden, table, bias, labels, weight):
    """Returns (loss, Sums). Only the loss has gradients: to hidden states, table and bias."""
    sums, _ = _on_mesh(kernel, Gradients(False, False, False), hidden, table, bias, labels, weight)
    return sums.nll + sums.z_loss, sums


def _forward(kernel, *primals):
    # What is frozen gets no gradient: the one of a table is a third of the work.
    wanted = Gradients(*(x is not None and x.perturbed for x in primals[:3]))
    sums, grads = _on_mesh(kernel, wanted, *(None if x is None else x.value for x in primals))
    return (sums.nll + sums.z_loss, sums), grads


def _backward(kernel, grads, cotangents):
    factor = cotangents[0]
    if isinstance(factor, jax.custom_derivatives.SymbolicZero):
        return (None,) * 5
    return *(None if x is None else (x * factor).astype(x.dtype) for x in grads), None, None


cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _on_mesh(kernel: Kernel, wanted: Gradients, hidden, table, bias, labels, weight) -> tuple[Sums, Gradients]:
    """Runs the kernel on each device's tokens and columns, wherever the arrays lie on an explicit mesh."""
    mesh, arrays = explicit_mesh(), (hidden, table, bias)
    run = functools.partial(kernel.run, wanted=wanted)
    typed = lambda grads: Gradients(
        *(None if g is None else g.astype(x.dtype) for g, x in zip(grads, arrays, strict=True))
    )
    if mesh is None:
        sums, grads = run(hidden, table, bias, labels, weight, axes=())
        return sums, typed(grads)
    width_axis = 1 - kernel.scores.vocab_axis
    tokens, table_spec = jax.typeof(hidden).sharding.spec, jax.typeof(table).sharding.spec
    rows, vocab, stored = (
        names(spec, mesh) for spec in (tokens[0], table_spec[kernel.scores.vocab_axis], table_spec[width_axis])
    )
    if tokens[1] is not None or not set(stored) <= set(rows) or set(rows) & set(vocab):
        raise ValueError(
            f'cross_entropy takes hidden states [T, D] split along T, and a table split along V over other axes and '
            f'stored along D over some of the same, not {tokens} and {table_spec}'
        )
    sum_rows = tuple(axis for axis in rows if axis not in stored)

    def on_device(hidden, table, bias, labels, weight):
        whole = lax.all_gather(table, stored, axis=width_axis, tiled=True) if stored else table
        sums, grads = run(hidden, whole, bias, labels, weight, axes=vocab)
        of_table = grads.table
        if of_table is not None:
            if stored:
                of_table = lax.psum_scatter(of_table, stored, scatter_dimension=width_axis, tiled=True)
            of_table = _sum(of_table, sum_rows)
        grads = Gradients(_sum(grads.hidden, vocab), of_table, _sum(grads.bias, rows))
        return _sum(sums, rows), typed(grads)

    specs = tokens, table_spec, P(table_spec[kernel.scores.vocab_axis])
    bias, labels, weight = (
        None if x is None else jax.sharding.reshard(x, spec)
        for x, spec in ((bias, specs[2]), (labels, P(tokens[0])), (weight, P(tokens[0])))
    )
    outs = Gradients(*(spec if want else None for spec, want in zip(specs, wanted, strict=True)))
    call = jax.shard_map(
        on_device,
        in_specs=(*specs, P(tokens[0]), P(tokens[0])),
        out_specs=(Sums(P(), P(), P()), outs),
        check_vma=False,
    )
    return call(hidden, table, bias, labels, weight)


def explicit_mesh() -> AbstractMesh | None:
    """Returns the mesh in use, if arrays carry their places on it; None inside shard_map and without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if not mesh.empty and all(kind == AxisType.Explicit for kind in mesh.axis_types) else None


def names(axis: Any, mesh: AbstractMesh) -> tuple[str, ...]:
    """Returns the mesh axes of one entry of a spec that really split something."""
    axes = (axis,) if isinstance(axis, str) else axis or ()
    return tuple(name for name in axes if mesh.shape[name] > 1)


def _sum(tree: Any, axes: tuple[str, ...]) -> Any:
    return lax.psum(tree, axes) if axes else tree
