# SPDX-License-Identifier: Apache-2.0
"""Predicting a teacher's features of hidden patches (Baevski et al. 2022, data2vec).

N pictures, P patches of a picture, D width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.objectives.masking import Blocks, pictures, unseen


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class Latents:
    """The objective of a student that sees some patches and predicts what its slow average makes of all.

    A target is the mean of what the teacher's last blocks give for a patch, each normed without scale and bias, then
    normed again. The model is models.masked.Masked; the stage's `ema` makes the teacher.
    """

    mask: Blocks
    last: int = 6  # blocks of the teacher that are averaged
    beta: float = 2.0  # from here on an error counts linearly; 0: squared throughout

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array, teacher: Any
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums over hidden patches.

        `blind` is the error of the targets' mean at each place, which sees no picture; `spread` is their deviation.
        Both fall when the targets collapse.
        """
        if teacher is None:
            raise ValueError('Latents needs a teacher: set the decay of the averaged weights, Stage.ema')
        pixels, there = pictures(batch)
        hidden = self.mask(key, pixels.shape[0], model.encoder.grid)
        target = jax.lax.stop_gradient(teacher.targets(pixels, self.last))
        counts = hidden & there[:, None]
        total = lambda found: jnp.where(counts, errors(found, target, self.beta), 0).sum()
        loss, blind = total(model(pixels, hidden)), total(unseen(target, there))
        # Over pictures and patches of each entry: norms make it 1 over the entries of each patch, whatever happens.
        spread = jnp.sqrt(target.var(axis=(0, 1)).mean())
        count = counts.sum(dtype=jnp.float32)
        return loss, count, {'spread': spread * count, 'blind': blind}


def errors(found: Float[Array, 'N P D'], target: Float[Array, 'N P D'], beta: float) -> Float[Array, 'N P']:
    """Returns the mean over entries of each patch's smooth L1 error, or of its square where beta is 0; float32."""
    distance = jnp.abs(found.astype(jnp.float32) - target.astype(jnp.float32))
    square = jnp.square(distance)
    loss = jnp.where(distance < beta, square / (2 * beta), distance - beta / 2) if beta else square
    return loss.mean(axis=-1)
