# SPDX-License-Identifier: Apache-2.0
"""Choosing answers from a list: every answer is right or wrong for itself (Teney et al. 2018).

N questions, A answers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class Answers:
    """The objective of a model that scores a list of answers; how right each is stands in Batch.answers."""

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array | None = None, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums over questions; `correct` adds up how right the best answers are."""
        logits, there = model.scores(batch)
        best = jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1])
        sums = [jnp.where(there, x, 0).sum() for x in (errors(logits, batch.answers), (best * batch.answers).sum(1))]
        return sums[0], there.sum(dtype=jnp.float32), {'correct': sums[1]}


def errors(logits: Float[Array, 'N A'], right: Float[Array, 'N A']) -> Float[Array, 'N']:
    """Returns the binary cross entropies of all answers to a question, summed; `right` lies in 0 .. 1, float32."""
    logits = logits.astype(jnp.float32)
    return -(right * jax.nn.log_sigmoid(logits) + (1 - right) * jax.nn.log_sigmoid(-logits)).sum(axis=1)
