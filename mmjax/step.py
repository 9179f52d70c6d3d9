# SPDX-License-Identifier: Apache-2.0
"""One training step as one compiled program: the gradient of a token-weighted mean over microbatches, and an update."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.compiler import options
from mmjax.optim import Optimizer
from mmjax.params import Skeleton, cast
from mmjax.sharding import ROWS, P

Params = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


# (model, batch, key=..., teacher=...) -> (weighted loss sum, weight sum, further sums): see mmjax.objectives.
Objective = Callable[..., tuple[jax.Array, jax.Array, Sums]]


class State(NamedTuple):
    """What a step changes. Everything lies on the devices and is donated to the next step."""

    train: dict[str, jax.Array]  # float32
    opt: Any
    ema: dict[str, jax.Array]  # average of `train`; empty where the stage asks for none
    step: jax.Array  # steps of this stage so far, skipped ones included


def init_state(optimizer: Optimizer, train: Params, ema: float, mesh: Mesh | None = None) -> State:
    """Returns the state before the first step, which takes the memory of `train` over; the average starts as a copy."""
    average = {p: jnp.copy(w) for p, w in train.items()} if ema else {}
    state = State(dict(train), jax.jit(optimizer.init)(dict(train)), average, jnp.zeros((), jnp.int32))
    if mesh is None:
        return state
    # Exactly as a restored state lies, so that a resumed run has the same program: from the cache, and bit-equal.
    like = {p: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=w.sharding) for p, w in train.items()}
    return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, abstract_state(optimizer, like, ema, mesh))


def abstract_state(optimizer: Optimizer, train: Mapping[str, Any], ema: float, mesh: Mesh) -> State:
    """Returns the shapes and shardings of `init_state`, without its arrays, from those of `train`."""

    def on_mesh(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = P() if s.sharding is None else s.sharding.spec
        return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, spec))

    opt = jax.tree.map(on_mesh, jax.eval_shape(optimizer.init, dict(train)))
    return State(dict(train), opt, dict(train) if ema else {}, on_mesh(jax.ShapeDtypeStruct((), jnp.int32)))


def build_update(
    skeleton: Skeleton,
    optimizer: Optimizer,
    objective: Objective,
    *,
    accumulate: int = 1,
    compute_dtype: Any = jnp.bfloat16,
    ema: float | Callable[[jax.Array], jax.Array] = 0.0,
    seed: int = 0,
) -> Callable[[State, Params, Batch], tuple[State, Sums]]:
    """Returns (state, frozen parameters, batch) -> (state, metrics), to be compiled with the state donated.

    Metrics hold `loss` and `weight` as sums over the whole batch, the objective's further sums, and `grad_norm`, `lr`,
    `skipped` of this step. What the objective draws is a function of (seed, step);
    `ema` is the decay of the averaged weights, or one for each step.
    """

    def gradient(train: Params, frozen: Params, average: Params, batch: Batch, key: jax.Array) -> tuple[Sums, Params]:
        """Returns the sums of one microbatch and the gradient of its loss sum (not mean), in the compute dtype."""
        teacher = skeleton.merge({**average, **frozen}) if average else None

        def loss_sum(train: Params) -> tuple[jax.Array, Sums]:
            loss, weight, sums = objective(skeleton.merge({**train, **frozen}), batch, key=key, teacher=teacher)
            return loss, {'loss': loss, 'weight': weight, **sums}

        (_, sums), grads = jax.value_and_grad(loss_sum, has_aux=True)(train)
        return sums, grads

    def update(state: State, frozen: Params, batch: Batch) -> tuple[State, Sums]:
        # One cast for all microbatches: casting inside the scan would read the float32 weights again each time.
        light, frozen, slow = (cast(p, compute_dtype) for p in (state.train, frozen, state.ema))
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        sums, grads = _accumulated(lambda b, k: gradient(light, frozen, slow, b, k), batch, key, accumulate)
        with jax.named_scope('update'):
            # A batch without a single weighted token has zero gradient, not 0 / 0.
            scale = jnp.where(sums['weight'] > 0, 1 / jnp.maximum(sums['weight'], 1e-8), 0.0)
            grads = jax.tree.map(lambda g: g.astype(jnp.float32) * scale, grads)
            norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads.values()))
            train, opt = optimizer.update(grads, state.opt, state.train, state.step)
            decay = ema(state.step) if callable(ema) else ema
            average = {p: decay * w + (1 - decay) * train[p] for p, w in state.ema.items()}
            # Decided on global sums, hence alike on every device and host. The select fuses into the update itself.
            finite = jnp.isfinite(norm) & jnp.isfinite(sums['loss'])
            old, new = (state.train, state.opt, state.ema), (train, opt, average)
            kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        metrics = {**sums, 'grad_norm': norm, 'lr': optimizer.lr(state.step), 'skipped': 1 - finite.astype(jnp.int32)}
        return State(*kept, state.step + 1), metrics

    return update


# From which fields of the config the shapes of a batch follow; those of others as those of tokens.
FOLLOWS = {
    'tokens': 'stages[].rows, layout.max_tokens',
    'pixels': 'stages[].rows, layout.max_media, model.frames, and the size or grid of model.encoder',
    'features': 'stages[].rows, layout.max_media, model.encoder.most',
    'media_size': 'stages[].rows, layout.max_media',
    'words': 'stages[].rows, layout.max_media, model.connector.words.most',
    'states': 'stages[].rows, layout.max_states',
    'points': 'stages[].rows, layout.max_regions',
    'senses': 'stages[].rows, layout.max_senses, model.senses',
}


def compile_update(
    update: Callable[..., Any], state: State, frozen: Params, batch: Batch
) -> tuple[Callable[[State, Params, Batch], tuple[State, Sums]], Any]:
    """Compiles a step ahead of time for these shapes. Returns (the step, the compiled program with its statistics).

    The step never compiles again: a batch of other shapes raises ValueError that names the arrays, both shapes, and the
    fields of the config from which they follow.
    """
    asked = options(jax.devices()[0].device_kind)
    compiled = jax.jit(update, donate_argnums=0).lower(state, frozen, batch).compile(compiler_options=asked)
    shapes = _shapes(batch)

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, Sums]:
        if (found := _shapes(batch)) != shapes:
            changed = [
                f'{f}: {a}, compiled for {b} (by {FOLLOWS.get(f, FOLLOWS["tokens"])})'
                for f, a, b in zip(Batch._fields, found, shapes, strict=True)
                if a != b
            ]
            raise ValueError(
                f'the batch changed its shapes during the run ({"; ".join(changed)}); every batch must be alike, '
                'whatever the sizes of its pictures: raise the fields that say what a row and a medium hold'
            )
        return compiled(state, frozen, batch)

    return step, compiled


def _shapes(batch: Batch) -> list[Any]:
    return [jax.tree.map(lambda x: (x.shape, x.dtype.name), a) for a in batch]


def _accumulated(
    gradient: Callable[[Batch, jax.Array], tuple[Sums, Params]], batch: Batch, key: jax.Array, parts: int
) -> tuple[Sums, Params]:
    """Adds up sums and gradients over `parts` microbatches in float32; one microbatch is in memory at a time."""
    if parts == 1:
        return gradient(batch, key)
    micro = jax.tree.map(lambda a: _microbatches(a, parts), batch), jax.random.split(key, parts)
    like = jax.eval_shape(gradient, *jax.tree.map(lambda a: a[0], micro))

    def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient(*part)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32, out_sharding=_spec(s)), like)
    return jax.lax.scan(add, zeros, micro)[0]


def _spec(like: jax.ShapeDtypeStruct) -> P | None:
    return like.sharding.spec if like.sharding is not None else None


def _microbatches(array: jax.Array, parts: int) -> jax.Array:
    """Splits rows into [parts, rows / parts]: microbatch m takes rows m, m + parts, ...

    A device holds neighbouring rows; by strides each microbatch has its share on every device and nothing moves.

      rows 0 1 2 3 | 4 5 6 7   (two devices)   ->   microbatch 0: 0 2 | 4 6    microbatch 1: 1 3 | 5 7
    """
    shape = (array.shape[0] // parts, parts, *array.shape[1:])
    spec = sharding.where(P(ROWS, *[None] * (len(shape) - 1)))
    return jnp.moveaxis(jnp.reshape(array, shape, out_sharding=spec), 1, 0)
