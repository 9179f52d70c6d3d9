# SPDX-License-Identifier: Apache-2.0
"""Losses of maps: each pixel for itself, easy ones less (focal, Lin et al. 2017), and areas as wholes (dice).

N maps of h x w pixels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

SMOOTH = 1e-5  # of a pixel's target, and added to what it is given


def focal(maps: Float[Array, 'N h w 2'], target: Float[Array, 'N h w'], gamma: float = 2.0) -> Float[Array, 'N']:
    """Returns the mean over pixels of (1 - p)^gamma * -log p, where p is what the map gives to what is there."""
    there = jnp.clip(jnp.stack([1 - target, target], axis=-1), SMOOTH, 1 - SMOOTH)
    p = (maps.astype(jnp.float32) * there).sum(axis=-1) + SMOOTH
    return (-jnp.power(1 - p, gamma) * jnp.log(p)).mean(axis=(1, 2))


def dice(found: Float[Array, 'N h w'], target: Float[Array, 'N h w']) -> Float[Array, 'N']:
    """Returns 1 - 2 |both| / (|found| + |target|), with 1 added above and below (Milletari et al. 2016)."""
    found = found.astype(jnp.float32)
    area = lambda x: x.sum(axis=(1, 2))
    return 1 - (2 * area(found * target) + 1) / (area(found) + area(target) + 1)


def map_losses(maps: Float[Array, 'K N h w 2'], target: Float[Array, 'N h w']) -> Float[Array, 'N']:
    """Returns focal and dice loss of each map, added up over the maps of all depths."""
    return sum(focal(one, target) + dice(one[..., 1], target) for one in maps)
