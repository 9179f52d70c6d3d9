# SPDX-License-Identifier: Apache-2.0
"""Painting what was hidden: the squared error of hidden patches (He et al. 2022).

N pictures, P patches of a picture, C numbers of a patch.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.models.vision import normalise, patches
from mmjax.objectives.masking import pictures, random_order, unseen


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class MaskedPixels:
    """The objective of masked autoencoders; a model of them is models.mae.Mae."""

    hidden: float = 0.75  # share of a picture's patches
    normed: bool = True  # a patch is painted as its own deviations from its mean

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums over hidden patches; `blind` is the error of the mean picture of the batch."""
        pixels, there = pictures(batch)
        tower = model.encoder
        count = tower.grid[0] * tower.grid[1]
        visible = int(count * (1 - self.hidden))
        order = random_order(key, pixels.shape[0], count)
        target = patches(normalise(pixels, tower.mean, tower.std), tower.patch_size).astype(jnp.float32)
        target = own_deviations(target) if self.normed else target
        counts = removed(order, visible) & there[:, None]
        total = lambda found: jnp.where(counts, patch_errors(found, target), 0).sum()
        loss, blind = total(model(pixels, order, visible)), total(unseen(target, there))
        return loss, counts.sum(dtype=jnp.float32), {'blind': blind}


def removed(order: Array, visible: int) -> Bool[Array, 'N P']:
    """Returns which patches stand behind the first `visible` ones of an order."""
    return jnp.argsort(order, axis=1) >= visible


def own_deviations(target: Float[Array, 'N P C']) -> Float[Array, 'N P C']:
    """Returns patches less their own mean, by their own deviation."""
    centred = target - target.mean(axis=-1, keepdims=True)
    # The unbiased variance, as the published models were trained.
    variance = jnp.square(centred).sum(axis=-1, keepdims=True) / (target.shape[-1] - 1)
    return centred / jnp.sqrt(variance + 1e-6)


def patch_errors(painted: Float[Array, 'N P C'], target: Float[Array, 'N P C']) -> Float[Array, 'N P']:
    """Returns each patch's mean squared error, float32."""
    return jnp.square(painted.astype(jnp.float32) - target).mean(axis=-1)
