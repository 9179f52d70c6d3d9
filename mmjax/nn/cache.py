# SPDX-License-Identifier: Apache-2.0
"""Keys and values, fresh or kept from earlier tokens.

S keys (places of a cache), K key/value heads, H head width; a cache of all layers has a leading depth axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.sharding import ROWS, P, cache_LBSKH


class KeyValue(NamedTuple):
    """What queries look at: keys, already normed and turned, and values."""

    k: Float[Array, '*depth B S K H']
    v: Float[Array, '*depth B S K H']
    layer: Int[Array, ''] | None = None  # of the depth axis, this one's: a kernel may read it where it lies

    def alone(self) -> 'KeyValue':
        """Returns one layer's keys and values without a depth axis."""
        if self.layer is None:
            return self
        return KeyValue(*(jax.lax.dynamic_index_in_dim(x, self.layer, 0, keepdims=False) for x in self[:2]))


def zeros(depth: int, rows: int, length: int, heads: int, width: int, dtype: DTypeLike) -> KeyValue:
    """Returns an empty cache [depth, rows, length, heads, width]."""
    shape, spec = (depth, rows, length, heads, width), None
    if mesh := sharding.current():
        spec = sharding.fit(cache_LBSKH, shape, mesh, 'the cache [depth, rows, length, heads, width]')
    empty = lambda: jax.lax.broadcast(jnp.zeros((), dtype), shape, out_sharding=spec)
    return KeyValue(empty(), empty())


def recall(
    kept: KeyValue, fresh: KeyValue, layer: Int[Array, ''], write: Int[Array, 'B'] | None
) -> tuple[KeyValue, KeyValue]:
    """Writes a layer's fresh keys and values into the cache; returns (what its queries look at, the cache).

    write None: a prompt, which fills places 0.. of every row and looks at itself alone. Otherwise row b's tokens go to
    places write[b].. and look at the whole row of the cache.
    """
    if write is None:
        start = (layer, 0, 0, 0, 0)
        put = lambda old, new: jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), start)
        return fresh, jax.tree.map(put, kept, fresh)
    kept = jax.tree.map(lambda old, new: _write_rows(old, new.astype(old.dtype), layer, write), kept, fresh)
    return kept._replace(layer=layer), kept


def _write_rows(
    old: Float[Array, 'depth B S K H'], new: Float[Array, 'B L K H'], layer: Int[Array, ''], write: Int[Array, 'B']
) -> Float[Array, 'depth B S K H']:
    def local(old: Array, new: Array, layer: Array, write: Array) -> Array:
        rows = jnp.arange(old.shape[1])[:, None]
        return old.at[layer, rows, write[:, None] + jnp.arange(new.shape[1])].set(new)

    if not sharding.current():
        return local(old, new, layer, write)
    # Rows are independent: on its own device each is an in-place write, without a word to the others.
    spec = jax.typeof(old).sharding.spec
    specs = (spec, P(*spec[1:]), P(), P(ROWS))
    args = (sharding.place(x, s) for x, s in zip((old, new, layer, write), specs, strict=True))
    return jax.shard_map(local, in_specs=specs, out_specs=spec, check_vma=False)(*args)
