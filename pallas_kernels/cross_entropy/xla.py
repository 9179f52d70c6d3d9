# SPDX-License-Identifier: Apache-2.0
"""Cross entropy in plain XLA: the scores of a chunk of tokens exist at a time, and become their gradient at once.

T tokens, C of them a chunk, D width, V columns of the table on this device.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.cross_entropy.fused import Gradients, Scores, Sums, weighted
from pallas_kernels.platform import platform


def chunk_of(columns: int) -> int:
    """Returns how many tokens' scores to hold: what fills half a GB, on a CPU what stays in its cache.

    Each chunk reads and writes the gradient of the whole table, which below some tokens costs more than the products.
    """
    least, size = (256, 8 << 20) if platform() == 'cpu' else (2048, 512 << 20)
    return max(size // (4 * columns), least)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xla:
    """A fused.Kernel for any backend."""

    scores: Scores
    chunk: int | None = None  # tokens; None: chosen by the number of columns

    def run(self, hidden, table, bias, labels, weight, *, wanted, axes):
        """See fused.Kernel.run."""
        tokens, columns = hidden.shape[0], table.shape[self.scores.vocab_axis]
        chunk = self.chunk or chunk_of(columns)
        count = -(-tokens // chunk)
        part = lambda hidden, labels, weight: _chunk(
            self.scores, hidden, table, bias, labels, weight, wanted=wanted, axes=axes
        )
        if count == 1:
            return part(hidden, labels, weight)
        size = -(-tokens // count)
        cut = lambda x: jnp.pad(x, ((0, count * size - tokens),) + ((0, 0),) * (x.ndim - 1)).reshape(
            count, size, *x.shape[1:]
        )
        like = jax.eval_shape(part, *(x[:size] for x in (hidden, labels, weight)))

        def add(total, piece):
            sums, grads = part(*piece)
            total = jax.tree.map(jnp.add, total, (sums, grads._replace(hidden=None)))
            return total, grads.hidden

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (like[0], like[1]._replace(hidden=None)))
        (sums, grads), of_hidden = lax.scan(add, zeros, (cut(hidden), cut(labels), cut(weight)))
        if of_hidden is not None:
            of_hidden = of_hidden.reshape(-1, hidden.shape[1])[:tokens]
        return sums, grads._replace(hidden=of_hidden)


def _chunk(
    scores: Scores,
    hidden: Float[Array, 'C D'],
    table: Float[Array, '...'],
    bias: Float[Array, 'V'] | None,
    labels: Int[Array, 'C'],
    weight: Float[Array, 'C'],
    *,
    wanted: Gradients,
    axes: tuple[str, ...],
) -> tuple[Sums, Gradients]:
    """Returns the sums and gradients of one chunk."""
    letters, columns = ('VD', 'DV')[scores.vocab_axis], table.shape[scores.vocab_axis]
    dot = lambda formula, *xs: jnp.einsum(formula, *xs, preferred_element_type=jnp.float32)
    first = lax.axis_index(axes) * columns if axes else 0
    column = first + lax.broadcasted_iota(jnp.int32, (1, columns), 1)
    light = hidden.astype(table.dtype)
    y = dot(f'CD,{letters}->CV', light, table)
    y = (y if bias is None else y + bias) * scores.scale
    if scores.soft_cap is not None:
        y = scores.soft_cap * jnp.tanh(y / scores.soft_cap)
    padded = columns * (lax.axis_size(axes) if axes else 1) > scores.vocab
    counted = jnp.where(column < scores.vocab, y, -jnp.inf) if padded else y

    top = counted.max(axis=-1)
    top = lax.pmax(top, axes) if axes else top
    weights = jnp.exp(counted - top[:, None])
    # Compared, not gathered: a column may stand on another device.
    own = labels[:, None] == column
    both = weights.sum(axis=-1), jnp.where(own, counted, 0.0).sum(axis=-1)
    sum_of_weights, label = lax.psum(both, axes) if axes else both
    total = top + jnp.log(sum_of_weights)
    parts = Sums(total - label, scores.z_loss * jnp.square(total), (label >= top).astype(jnp.float32))
    sums = weighted(parts, weight)
    if not any(wanted):
        return sums, Gradients(None, None, None)

    of_total = weight * (1 + 2 * scores.z_loss * total) / sum_of_weights
    grad = weights * of_total[:, None] - jnp.where(own, weight[:, None], 0.0)
    if scores.soft_cap is not None:
        grad = grad * (1 - jnp.square(y / scores.soft_cap))
    grad = grad * scores.scale
    of_bias = grad.sum(axis=0) if wanted.bias else None
    # Held in the light type for both products. Without the barrier a TPU computes the exponentials anew in each,
    # between matrix instructions: 23.1 instead of 17.1 million cycles on v6e (8,192 tokens, V 32,000, D 4,096).
    grad = lax.optimization_barrier(grad.astype(table.dtype))
    of_hidden = dot(f'CV,{letters}->CD', grad, table) if wanted.hidden else None
    if of_hidden is not None and not axes:
        of_hidden = of_hidden.astype(hidden.dtype)  # all columns are in it: nothing is added in the lighter type
    formula = 'CV,CD->VD' if scores.vocab_axis == 0 else 'CD,CV->DV'
    operands = (grad, light) if scores.vocab_axis == 0 else (light, grad)
    of_table = dot(formula, *operands) if wanted.table else None
    return sums, Gradients(of_hidden, of_table, of_bias)
