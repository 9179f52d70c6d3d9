# SPDX-License-Identifier: Apache-2.0
"""Parts whose every parameter counts: fresh biases are 0 and scales 1, which would hide half of the mistakes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax import sharding


def disturbed(build: Callable[..., nnx.Module], seed: int = 0, *, by: float = 0.3) -> nnx.Module:
    """Returns build(rngs=...) with noise on every parameter."""
    part, rng = sharding.init_sharded(build, jax.random.key(seed), None), np.random.default_rng(seed)
    for param in sharding.paths(part).values():
        noise = by * rng.normal(size=param.shape)
        param.set_value(jnp.asarray(np.asarray(param.get_value()) + noise, param.dtype))
    return part


def array(*shape: int, seed: int = 0) -> jax.Array:
    """Returns normal numbers."""
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape), jnp.float32)
