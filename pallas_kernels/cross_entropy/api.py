# SPDX-License-Identifier: Apache-2.0
"""The public function: it chooses an implementation; `reference` defines what all of them compute."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.cross_entropy import fused, reference
from pallas_kernels.cross_entropy.fused import Scores, Sums
from pallas_kernels.cross_entropy.xla import Xla

IMPLEMENTATIONS = ('reference', 'xla')


def cross_entropy(
    hidden: Float[Array, 'T D'],
    table: Float[Array, 'V D'] | Float[Array, 'D V'],
    labels: Int[Array, 'T'],
    weight: Float[Array, 'T'],
    scores: Scores,
    *,
    bias: Float[Array, 'V'] | None = None,
    chunk: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, ''], Sums]:
    """Returns the weighted sum of -log softmax(scores)[label] + z_loss * log(sum of exp)^2 over tokens, and its parts.

    Scores are float32, of at most `chunk` tokens of a device at a time (None: what takes half a GB). The loss has
    gradients to hidden states, table and bias, summed in float32 and of their types; its parts and the weights have
    none. Labels lie below scores.vocab; where the weight is zero they may be anything.

    On an explicit mesh, tokens may be split over some axes and the table's columns over others; its width may be
    stored over the tokens' axes, and is gathered. implementation: 'reference', 'xla'; None is 'xla'.
    """
    check_arrays(hidden, table, labels, weight, bias, scores)
    match implementation or 'xla':
        case 'reference':
            return reference.cross_entropy(scores, hidden, table, bias, labels, weight)
        case 'xla':
            kernel = Xla(scores=scores, chunk=chunk)
            return fused.cross_entropy(kernel, hidden, table, bias, labels, weight)
    raise ValueError(f'no implementation {implementation!r} of cross_entropy; choose one of {sorted(IMPLEMENTATIONS)}')


def check_arrays(hidden, table, labels, weight, bias, scores: Scores) -> None:
    """Refuses arrays that do not belong together."""
    columns, width = table.shape[scores.vocab_axis], table.shape[1 - scores.vocab_axis]
    shapes = f'hidden {hidden.shape}, table {table.shape}, labels {labels.shape}, weight {weight.shape}'
    tokens = hidden.shape[:1]
    if hidden.shape[1:] != (width,) or labels.shape != tokens or weight.shape != tokens:
        layout = ('[V,D]', '[D,V]')[scores.vocab_axis]
        raise ValueError(f'cross_entropy takes hidden [T,D], table {layout}, labels [T] and weight [T], not {shapes}')
    if bias is not None and bias.shape != (columns,):
        raise ValueError(f'cross_entropy takes one bias for each of {columns} columns, not {bias.shape}')
    if not 0 < scores.vocab <= columns:
        raise ValueError(f'a vocabulary of {scores.vocab} does not fit a table of {columns} columns: {shapes}')
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f'cross_entropy takes labels of integers, not {labels.dtype}')
