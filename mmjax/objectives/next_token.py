# SPDX-License-Identifier: Apache-2.0
"""Predicting the next token: cross entropy in float32, a chunk of tokens at a time.

B rows, L tokens, D width.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax import sharding
from pallas_kernels.cross_entropy import Scores, cross_entropy


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

    The label of place l is tokens[l + 1], and weight[l] says how much it counts; the last place has no label. Only the
    first sum has gradients.
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
    """Returns the sums of next_token for given labels; the scores of `chunk` tokens of a device exist at a time."""
    head = model.unembedding()
    scores = Scores(
        vocab=head.vocab, vocab_axis=head.vocab_axis, scale=head.scale, soft_cap=head.soft_cap, z_loss=z_loss
    )
    tokens = labels.size
    flat = lambda x: sharding.reshape_rows(x, (tokens, *x.shape[2:]))
    loss, sums = cross_entropy(
        flat(hidden), head.table, flat(labels), flat(weight), scores, bias=head.bias, chunk=chunk
    )
    return loss, weight.sum(), sums._asdict()
