# SPDX-License-Identifier: Apache-2.0
"""Depth is an axis: blocks are built by vmap over keys and run by lax.scan, whatever their number."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from pallas_kernels.platform import platform

Carry = TypeVar('Carry')
Tree = TypeVar('Tree')

REMAT = ('none', 'block', 'dots')
UNROLLED = 8  # layers that a CPU runs without a loop


def build(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Builds `depth` blocks as one, whose parameters have a leading depth axis."""
    return jax.vmap(make)(rngs.split(depth))


def remat(body: Callable, policy: str) -> Callable:
    """Makes the backward pass compute a scanned body again: 'none' of it, the whole 'block', all but its 'dots'."""
    if policy not in REMAT:
        raise ValueError(f'remat is {policy!r}; choose one of {REMAT}')
    if policy == 'none':
        return body
    rules = jax.checkpoint_policies
    # Attention's products have batch axes (rows, heads), so its results are kept by the name that it gives them.
    dots = rules.save_from_both_policies(
        rules.dots_with_no_batch_dims_saveable, rules.save_only_these_names('span_attention')
    )
    # Inside a scan nothing can be merged with the forward pass, so the costly guard against it is not needed.
    return jax.checkpoint(body, policy=dots if policy == 'dots' else None, prevent_cse=False)


def run(
    body: Callable[[Carry, Tree, jax.Array], Carry],
    carry: Carry,
    blocks: Tree,
    *,
    first: int | jax.Array = 0,
    policy: str,
    looped: bool = False,
) -> Carry:
    """Folds body(carry, block, layer number) over the depth axis of `blocks`; `first` numbers the first one.

    `looped` says that this runs once for every token that is written, so that it is a loop on CPUs too.
    """
    depth = jax.tree.leaves(blocks)[0].shape[0]
    step = remat(lambda carry, x: (body(carry, *x), None), policy)
    return jax.lax.scan(step, carry, (blocks, first + jnp.arange(depth)), unroll=_unrolled(depth, looped))[0]


def _unrolled(depth: int, looped: bool) -> bool:
    # XLA's loops on CPUs copy what they carry and what the backward pass keeps: a fifth of the quickstart's step, a
    # tenth of one with 8 layers of 512. But inside of a loop over tokens, weights that are cut out of their stack layer
    # by layer are read at half the speed if the layers are no loop.
    return platform() == 'cpu' and depth <= UNROLLED and not looped


def crossings(depth: int, every: int, first: int) -> list[int]:
    """Returns the layers before which an inserted block stands: first, first + every, ..."""
    if not 0 <= first < every:
        raise ValueError(f'inserted blocks: first {first} must lie in 0..{every - 1} (every {every})')
    return list(range(first, depth, every))


def run_crossed(
    body: Callable[[Carry, Tree, jax.Array, Tree | None], Carry],
    carry: Carry,
    blocks: Tree,
    inserted: Tree,
    *,
    every: int,
    first: int,
    policy: str,
    looped: bool = False,
) -> Carry:
    """Folds body(carry, block, layer number, inserted) over blocks; the layers `first`, `first` + every, ... get more.

      every 3, first 2, depth 8      b b X | b b X | b b          one scan over whole groups, then what is left

    `inserted` is what stands at such a layer X, None for the others b; the body knows whether it comes before the
    block or within it. The program holds at most two groups, however deep the model: it scans over groups and, within
    one, over the blocks before X and behind it.
    """
    depth = jax.tree.leaves(blocks)[0].shape[0]
    whole = depth // every
    plain = lambda carry, block, layer: body(carry, block, layer, None)
    joint = remat(lambda carry, x: (body(carry, *x), None), policy)

    def group(carry: Carry, some: Tree, inserted: Tree | None, start: jax.Array | int) -> Carry:
        size, more = jax.tree.leaves(some)[0].shape[0], dict(policy=policy, looped=looped)
        if first:
            carry = run(plain, carry, _part(some, 0, min(first, size)), first=start, **more)
        if size > first:
            at = jnp.asarray(start + first)
            carry, _ = joint(carry, (jax.tree.map(lambda x: x[first], some), at, inserted))
        if size > first + 1:
            carry = run(plain, carry, _part(some, first + 1, size), first=start + first + 1, **more)
        return carry

    if whole:
        fold = lambda x: x[: whole * every].reshape(whole, every, *x.shape[1:])
        xs = (jax.tree.map(fold, blocks), _part(inserted, 0, whole), jnp.arange(whole) * every)
        unroll = _unrolled(depth, looped)
        carry, _ = jax.lax.scan(lambda carry, x: (group(carry, *x), None), carry, xs, unroll=unroll)
    if depth % every:
        left = jax.tree.map(lambda x: x[whole], inserted) if depth % every > first else None
        carry = group(carry, _part(blocks, whole * every, depth), left, whole * every)
    return carry


def _part(tree: Tree, start: int, stop: int) -> Tree:
    return jax.tree.map(lambda x: x if stop - start == x.shape[0] else x[start:stop], tree)
