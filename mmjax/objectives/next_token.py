# SPDX-License-Identifier: Apache-2.0
"""Predicting the next token: cross entropy in float32, a chunk of the row at a time.

B rows, L tokens, C tokens of a chunk, D width, V vocabulary.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax import sharding

# Tokens of a device whose logits exist at a time: 512 MB in float32 for a vocabulary of 32 000.
CHUNK = 4096


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class NextToken:
    """The objective of everything that writes: each token is predicted from those that it sees."""

    z_loss: float = 0.0  # times the square of the logits' logarithmic sum, which holds it near 0

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array | None = None, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums of `next_token`."""
        return next_token(model, batch, z_loss=self.z_loss)


def next_token(
    model: Any, batch: Any, *, z_loss: float = 0.0, chunk: int | None = None
) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
    """Returns (sum of weighted losses, sum of weights, sums for the log) of a batch.

    The label of place l is tokens[l + 1], and weight[l] says how much it counts; the last place has no label.
    """
    labels = jnp.roll(batch.tokens, -1, axis=1)
    weight = batch.weight.at[:, -1].set(0.0)
    return token_losses(model, model(batch), labels, weight, z_loss=z_loss, chunk=chunk)


def token_losses(
    model: Any,
    hidden: Float[Array, 'B L D'],
    labels: Int[Array, 'B L'],
    weight: Float[Array, 'B L'],
    *,
    z_loss: float = 0.0,
    chunk: int | None = None,
) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
    """Returns the sums of next_token for given labels; the logits of `chunk` places of each row exist at a time."""
    rows, length = hidden.shape[:2]
    shards = math.prod(sharding.axis_size(axis) for axis in sharding.ROWS)
    chunk = chunk or max(1, CHUNK * shards // rows)
    count = -(-length // chunk)
    size = -(-length // count)
    cut = lambda x: jnp.moveaxis(
        jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2)).reshape(
            x.shape[0], count, size, *x.shape[2:]
        ),
        1,
        0,
    )

    def step(sums: dict[str, Array], part: tuple[Array, Array, Array]) -> tuple[dict[str, Array], None]:
        hidden, labels, weight = part
        logits = model.logits(hidden)
        total = jax.nn.logsumexp(logits, axis=-1)
        # Compared, not gathered: the vocabulary may be split over devices.
        own = labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, (1, 1, logits.shape[-1]), 2)
        label = jnp.where(own, logits, 0.0).sum(axis=-1)
        new = dict(
            nll=total - label,
            z_loss=z_loss * jnp.square(total),
            correct=(label >= logits.max(axis=-1)).astype(jnp.float32),
        )
        return {name: sums[name] + (weight * value).sum() for name, value in new.items()}, None

    zeros = dict.fromkeys(('nll', 'z_loss', 'correct'), jnp.zeros(()))
    if count == 1:
        sums, _ = step(zeros, (hidden, labels, weight))
    else:
        # The backward pass computes a chunk's logits again, or all chunks' would be kept for it.
        sums, _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), zeros, (cut(hidden), cut(labels), cut(weight)))
    return sums['nll'] + sums['z_loss'], weight.sum(), sums
