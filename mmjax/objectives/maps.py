# SPDX-License-Identifier: Apache-2.0
"""Losses of maps: each pixel for itself, easy ones less (focal, Lin et al. 2017), and areas as wholes (dice).

N maps of h x w pixels, K depths.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.objectives.next_token import next_token
from mmjax.sharding import reshape_rows

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


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class MarksAndWords:
    """The objective of a model that marks what is wrong with a picture and speaks of it (models.inspector.Inspector).

    The mean over a batch's words and the mean over its marked pictures are added up.
    """

    whole = False

    def __call__(
        self, model: Any, batch: Any, *, key: Array | None = None, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums over words; `maps` is the maps' share of the loss."""
        seen = model.seen(batch)
        loss, weight, sums = next_token(model, batch, seen=seen)
        b, m, *size = batch.marks.shape
        target = reshape_rows(batch.marks, (b * m, *size))
        known = target[:, 0, 0] >= 0
        each = jnp.where(known, map_losses(model.connector.maps(*seen), (target > 0).astype(jnp.float32)), 0)
        maps = weight * each.sum() / jnp.maximum(known.sum(), 1)
        return loss + maps, weight, {**sums, 'maps': maps}
