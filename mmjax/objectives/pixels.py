# SPDX-License-Identifier: Apache-2.0
"""Painting what was hidden: the squared error of hidden patches (He et al. 2022).

N pictures, P patches of a picture, C numbers of a patch.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.models.vision import normalise, patches
from mmjax.objectives.masking import pictures, random_order


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class MaskedPixels:
    """The objective of masked autoencoders; a model of them is models.mae.Mae."""

    hidden: float = 0.75  # share of a picture's patches
    normed: bool = True  # a patch is painted as its own deviations from its mean

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums over hidden patches."""
        pixels, there = pictures(batch)
        tower = model.encoder
        count = tower.grid[0] * tower.grid[1]
        visible = int(count * (1 - self.hidden))
        order = random_order(key, pixels.shape[0], count)
        painted = model(pixels, order, visible)
        loss = patch_errors(painted, patches(normalise(pixels, tower.mean, tower.std), tower.patch_size), self.normed)
        counts = removed(order, visible) & there[:, None]
        return jnp.where(counts, loss, 0).sum(), counts.sum(dtype=jnp.float32), {}


def removed(order: Array, visible: int) -> Bool[Array, 'N P']:
    """Returns which patches stand behind the first `visible` ones of an order."""
    return jnp.argsort(order, axis=1) >= visible


def patch_errors(painted: Float[Array, 'N P C'], target: Float[Array, 'N P C'], normed: bool) -> Float[Array, 'N P']:
    """Returns each patch's mean squared error, float32; `normed`: of the target less its mean, by its deviation."""
    target = target.astype(jnp.float32)
    if normed:
        centred = target - target.mean(axis=-1, keepdims=True)
        # The unbiased variance, as the published models were trained.
        variance = jnp.square(centred).sum(axis=-1, keepdims=True) / (target.shape[-1] - 1)
        target = centred / jnp.sqrt(variance + 1e-6)
    return jnp.square(painted.astype(jnp.float32) - target).mean(axis=-1)
