# SPDX-License-Identifier: Apache-2.0
"""Where parameters come from before the first step: drawn from the seed, then loaded over as the config says.

Every parameter is accounted for: one that is neither loaded nor declared fresh is refused by name.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.checkpoint import CheckpointError, Store
from mmjax.config import ConfigError, Load, Run
from mmjax.optim import matches, require_match
from mmjax.params import flatten
from mmjax.weights import Checkpoint, to_ours
from mmjax.weights.delta import Summed
from mmjax.workdir import build

SHOWN = 12  # names in a message


def initial(run: Run, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the parameters before the first step."""
    model = sharding.init_sharded(lambda rngs: build(run, rngs=rngs), jax.random.key(run.seed), mesh)
    return load_over(run, flatten(model))


def load_over(run: Run, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns parameters with those of `run.load` put in; what is neither loaded nor matches `run.fresh` is refused.

    Where two loads give a parameter the later one does; what matches `run.fresh` is not loaded.
    """
    if not run.load:
        return dict(params)
    require_match(run.fresh, list(params), 'run.fresh')
    result = {p: w for p, w in params.items() if matches(p, run.fresh)}
    for load in run.load:
        require_match(load.paths, list(params), f'run.load ({load.path})')
        want = {p: w for p, w in params.items() if matches(p, load.paths) and not matches(p, run.fresh)}
        result.update(_public(load, run.model, params, want) if load.table else _own(load, want))
    if missing := [p for p in params if p not in result]:
        shown = ', '.join(missing[:SHOWN]) + (f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else '')
        raise CheckpointError(
            f'{len(missing)} parameters are neither loaded nor declared fresh: {shown}; '
            'widen the paths of a run.load, or add a pattern to run.fresh'
        )
    return {p: result[p] for p in params}


def _own(load: Load, want: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Reads the last checkpoint of another work directory of ours."""
    path = pathlib.Path(load.path)
    if not (path / 'checkpoints').is_dir():
        raise CheckpointError(f'{path} is no work directory of a run; for a public checkpoint set Load.table')
    store = Store(path)
    if store.latest is None:
        raise CheckpointError(f'{path} holds no whole checkpoint')
    like = {p: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=w.sharding) for p, w in want.items()}
    return store.params(store.latest, like, some=True)


def _part(model: Any, names: str) -> Any:
    """Returns the config of a part of the model, 'decoder' or 'senses/audio'; None where there is none."""
    for name in names.split('/') if names else ():
        model = model.get(name) if isinstance(model, dict) else getattr(model, name, None)
    return model


def _public(
    load: Load, model: Any, params: Mapping[str, jax.Array], want: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Reads a public checkpoint by its table of names; both sides of the table must be used up."""
    part = _part(model, load.part)
    if part is None:
        raise ConfigError(f'run.load ({load.path}): the model has no part {load.part!r}')
    before = f'{load.part}/' if load.part else ''
    table = load.table(part)
    names = {path for entry in table.entries for path in entry.paths}
    shapes = {path: params[before + path].shape for path in names if before + path in params}
    public = Checkpoint(load.path, load.prefix)
    if load.delta_of:
        # Within a part paths begin anew: a decoder's are all of the language model.
        language = 'decoder/'.removeprefix(before)
        public = Summed(public, Checkpoint(load.delta_of, load.prefix), table, language)
    tensors, _ = to_ours(table, public, shapes)
    put = lambda tensor, w: jax.device_put(tensor.astype(w.dtype), w.sharding)
    return {p: put(tensors[p.removeprefix(before)], w) for p, w in want.items() if p.removeprefix(before) in tensors}
