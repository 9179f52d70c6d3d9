# SPDX-License-Identifier: Apache-2.0
"""Parameters outside a module: a flat dict, path -> array, and the skeleton that they can be put back into."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Skeleton:
    """A module without its arrays. Merging is free at trace time; it copies nothing."""

    def __init__(self, module: nnx.Module):
        self.graph, state = nnx.split(module)
        self.variables = {'/'.join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}

    def merge(self, params: Mapping[str, Any]) -> Any:
        """Returns the module with these parameters; every path of the module must be there, and no other."""
        if params.keys() != self.variables.keys():
            missing, extra = self.variables.keys() - params.keys(), params.keys() - self.variables.keys()
            raise ValueError(f'parameters do not fit the module: missing {sorted(missing)}, unknown {sorted(extra)}')
        flat = [(path, variable.replace(params[name])) for name, (path, variable) in self.variables.items()]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))


def flatten(module: nnx.Module) -> dict[str, Any]:
    """Returns path -> array for all parameters of a module; paths are attribute names joined by '/'."""
    flat = nnx.to_flat_state(nnx.split(module)[1])
    return {'/'.join(map(str, path)): variable.get_value() for path, variable in flat}


def cast(params: Mapping[str, jax.Array], dtype: Any) -> dict[str, jax.Array]:
    """Returns the parameters in a compute dtype; integers stay what they are."""
    return {p: w.astype(dtype) if jnp.issubdtype(w.dtype, jnp.floating) else w for p, w in params.items()}
