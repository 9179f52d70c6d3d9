# SPDX-License-Identifier: Apache-2.0
"""Predicting the next token: cross entropy in float32, a chunk of tokens at a time.

B rows, L tokens, D width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.nn.layers import Unembedding
from mmjax.sharding import ROWS, P
from pallas_kernels.cross_entropy import Scores, cross_entropy


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class NextToken:
    """The objective of everything that writes: each token is predicted from those that it sees."""

    z_loss: float = 0.0  # times the square of the logits' logarithmic sum, which holds it near 0
    label_smoothing: float = 0.0  # of each target, so many parts are spread evenly over the vocabulary

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array | None = None, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums of `next_token`."""
        return next_token(model, batch, z_loss=self.z_loss, label_smoothing=self.label_smoothing)


def next_token(
    model: Any,
    batch: Any,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    seen: Any = None,
) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
    """Returns (sum of weighted losses, sum of weights, sums for the log) of a batch.

    The label of place l is tokens[l + 1], and weight[l] says how much it counts; the last place has no label. Only the
    first sum has gradients. `seen` is what Vlm.seen gave of the batch, where that was asked for already.
    """
    labels = jnp.roll(batch.tokens, -1, axis=1)
    weight = batch.weight.at[:, -1].set(0.0)
    hidden = model(batch) if seen is None else model(batch, seen)
    return token_losses(model, hidden, labels, weight, z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk)


@jax.named_scope('loss')
def token_losses(
    model: Any,
    hidden: Float[Array, 'B L D'],
    labels: Int[Array, 'B L'],
    weight: Float[Array, 'B L'],
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
    """Returns the sums of next_token for given labels; the scores of `chunk` tokens of a device exist at a time.

    Of a target, `label_smoothing` parts are spread evenly over the vocabulary; `nll` in the sums knows nothing of that.
    """
    head = model.unembedding()
    scores = Scores(
        vocab=head.vocab, vocab_axis=head.vocab_axis, scale=head.scale, soft_cap=head.soft_cap, z_loss=z_loss
    )
    tokens = labels.size
    flat = lambda x: sharding.reshape_rows(x, (tokens, *x.shape[2:]))
    loss, sums = cross_entropy(
        flat(hidden), head.table, flat(labels), flat(weight), scores, bias=head.bias, chunk=chunk
    )
    if not label_smoothing:
        return loss, weight.sum(), sums._asdict()
    smoothing = label_smoothing * above_mean(head, flat(hidden), flat(labels), flat(weight))
    return loss + smoothing, weight.sum(), {**sums._asdict(), 'smoothing': smoothing}


def above_mean(
    head: Unembedding, hidden: Float[Array, 'T D'], labels: Int[Array, 'T'], weight: Float[Array, 'T']
) -> Float[Array, '']:
    """Returns the weighted sum of (score of the label - mean score): what a smoothed target adds to a loss.

    Scores are linear in the table, so the mean score is that of the mean word and no scores are made for it.
    """
    if head.soft_cap is not None:
        raise ValueError(f'label_smoothing with capped scores (soft_cap {head.soft_cap}): set one of them to none')
    table = sharding.place(head.table, P())
    table = (table if head.vocab_axis == 0 else table.T).astype(jnp.float32)[: head.vocab]
    pick = lambda x: x.at[labels].get(mode='clip', out_sharding=sharding.where(P(ROWS)))
    scores = (hidden.astype(jnp.float32) * (pick(table) - table.mean(axis=0))).sum(axis=-1)
    if head.bias is not None:
        bias = sharding.place(head.bias, P()).astype(jnp.float32)[: head.vocab]
        scores = scores + pick(bias) - bias.mean()
    return head.scale * (scores * weight).sum()
