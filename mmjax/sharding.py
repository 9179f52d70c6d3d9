# SPDX-License-Identifier: Apache-2.0
"""Where tensors lie: one table of specs named by axis letters, and the mesh.

The mesh has the axes `data` (replicas), `fsdp` (rows of the batch, and the storage of every weight) and `tp` (heads,
mlp width, vocabulary), all in Explicit mode: a sharding mistake is an error at trace time. A strategy is a mesh shape.
Everything here also works with no mesh set: specs are then dropped.

Letters: B rows, L tokens, D width, N heads, K key/value heads, H head width, F mlp width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ('data', 'fsdp', 'tp')
ROWS = ('data', 'fsdp')

# Weights: `fsdp` shards storage only, the matmul gathers it; `tp` shards the work.
w_DF, w_FD = P('fsdp', 'tp'), P('tp', 'fsdp')
w_DNH, w_NHD = P('fsdp', 'tp', None), P('tp', None, 'fsdp')
w_DKH = w_DNH  # kept whole on every device where K < tp, see `fit`
w_VD, w_DV = P('tp', 'fsdp'), P('fsdp', 'tp')
w_LD = P(None, 'fsdp')  # tables and inputs whose first axis may be odd: positions, patches, states
w_DE = P('fsdp', None)  # from one width to another, nothing to split over tp
b_NH, b_F, b_D = P('tp', None), P('tp'), P(None)

# Activations.
act_BL = P(ROWS, None)
act_BLD = P(ROWS, None, None)
act_BLNH = P(ROWS, None, 'tp', None)
act_BLV = P(ROWS, None, 'tp')
cache_LBSKH = P(None, ROWS, None, 'tp', None)


def make_mesh(data: int = 1, fsdp: int = 1, tp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of the first data * fsdp * tp devices (None: those that are here), in Explicit mode.

    Where they are of several slices, which only a network connects, `data` runs over the slices first.
    """
    devices, want = jax.devices() if devices is None else devices, data * fsdp * tp
    if want > len(devices):
        raise ValueError(
            f'mesh data={data} fsdp={fsdp} tp={tp} needs {want} devices, {len(devices)} are here; '
            f'make one axis smaller, or simulate with XLA_FLAGS=--xla_force_host_platform_device_count={want}'
        )
    kinds, slices = (AxisType.Explicit,) * 3, len({getattr(d, 'slice_index', 0) for d in devices[:want]})
    if slices == 1:
        return jax.make_mesh((data, fsdp, tp), AXES, axis_types=kinds, devices=devices[:want])
    if data % slices:
        raise ValueError(
            f'mesh data={data} fsdp={fsdp} tp={tp} on {slices} slices: data must be a multiple of {slices}, '
            'for fsdp and tp exchange too much for a network'
        )
    inside, across = (data // slices, fsdp, tp), (slices, 1, 1)
    return Mesh(mesh_utils.create_hybrid_device_mesh(inside, across, devices[:want]), AXES, axis_types=kinds)


@contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """Sets the mesh for the block; None runs it on one device without one."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh):
        yield


def current() -> AbstractMesh | None:
    """Returns the mesh in use, or None where there is none to speak of (unset, or inside shard_map)."""
    mesh = jax.sharding.get_abstract_mesh()
    explicit = not mesh.empty and all(kind == AxisType.Explicit for kind in mesh.axis_types)
    return mesh if explicit else None


def axis_size(name: str) -> int:
    """Returns how many devices the mesh in use has along an axis, 1 without a mesh."""
    mesh = current()
    return mesh.shape[name] if mesh else 1


def where(spec: P) -> P | None:
    """Returns the spec for an `out_sharding=`, or None where no mesh is set."""
    return spec if current() else None


def place(x: jax.Array, spec: P) -> jax.Array:
    """Moves an array to where the spec says; does nothing without a mesh."""
    return jax.sharding.reshard(x, spec) if current() else x


def reshape_rows(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Reshapes an array whose first axis counts rows, or things of rows in their order; they stay where they are."""
    return jnp.reshape(x, shape, out_sharding=where(P(ROWS, *(None,) * (len(shape) - 1))))


def broadcast_rows(x: jax.Array, rows: int) -> jax.Array:
    """Repeats a parameter for every row of a batch: [...] -> [rows, ...]."""
    return jax.lax.broadcast(place(x, P()), (rows,), out_sharding=where(P(ROWS)))


def fit(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh | None, name: str = 'a tensor') -> P:
    """Checks a spec against a shape and returns it, with `tp` dropped from axes that are smaller than tp and divide it.

    Those are the key/value heads of grouped attention (PaLM has one for 48): every device keeps all of them.
    """
    if mesh is None:
        return spec
    axes = []
    for i, axis in enumerate(spec):
        count = 1
        for part in (axis,) if isinstance(axis, str) else axis or ():
            count *= mesh.shape[part]
        if shape[i] % count and axis == 'tp' and count % shape[i] == 0:
            axis = None
        elif shape[i] % count:
            raise ValueError(
                f'{name} with shape {shape}: its axis {i} of size {shape[i]} cannot be split over {axis}={count}; '
                f'choose a mesh whose {axis} divides {shape[i]}'
            )
        axes.append(axis)
    return P(*axes)


def paths(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Returns every parameter under its path, e.g. `decoder/blocks/attn/q/kernel`."""
    return {'/'.join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def param_specs(module: nnx.Module, mesh: Mesh | AbstractMesh | None = None) -> dict[str, P]:
    """Returns the spec of every parameter of a (possibly abstract) module, by path; checked against the mesh in use."""
    mesh = mesh or current()
    return {path: _spec(path, param, mesh) for path, param in paths(module).items()}


def shardings(module: nnx.Module, mesh: Mesh) -> Any:
    """Returns the parameters' state with a NamedSharding in the place of every array, for jit and device_put."""
    state = nnx.state(module, nnx.Param)
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state(
        [(path, p.replace(NamedSharding(mesh, _spec('/'.join(map(str, path)), p, mesh)))) for path, p in flat]
    )


def init_sharded(build: Callable[..., nnx.Module], key: jax.Array, mesh: Mesh | None) -> nnx.Module:
    """Builds a module by `build(rngs=...)`, each device its own part; the values do not depend on the mesh."""
    abstract = jax.eval_shape(lambda key: build(rngs=nnx.Rngs(key)), key)
    graph = nnx.graphdef(abstract)
    make = lambda key: nnx.state(build(rngs=nnx.Rngs(key)), nnx.Param)
    # Traced outside the mesh: the random bits then take the sharding of the result and no device holds a whole weight.
    state = jax.jit(make, out_shardings=shardings(abstract, mesh) if mesh else None)(key)
    return nnx.merge(graph, state)


def _spec(path: str, param: nnx.Variable, mesh: Mesh | AbstractMesh | None) -> P:
    spec = param.get_metadata().get('spec', P())
    shape = param.get_value().shape
    full = P(*(None,) * (len(shape) - len(spec)), *spec) if spec else P(*(None,) * len(shape))
    return fit(full, shape, mesh, path)
