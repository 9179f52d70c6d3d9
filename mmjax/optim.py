# SPDX-License-Identifier: Apache-2.0
"""The optimiser: AdamW with schedules and groups by path, and the split of parameters into trainable and frozen.

Parameters are a flat dict, path -> array, here and wherever they are not inside a module. A pattern is a regular
expression that must match a whole path: `decoder/.*`, `.*/(bias|scale)`.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Gains, offsets, gates and scales of branches: pulling them to zero regularises nothing and switches layers off.
NO_DECAY = (r'(.*/)?(bias|scale|cls)', r'.*_(gate|scale)')


@dataclasses.dataclass
class Group:
    """Parameters that learn at another rate or decay otherwise. The last group that matches a path speaks for it."""

    paths: tuple[str, ...]
    lr_scale: float = 1.0
    weight_decay: float = -1.0  # negative: as the optimizer says


@dataclasses.dataclass
class Adamw:
    """AdamW with global-norm clipping over the trainable parameters."""

    peak_lr: float = 1e-3
    warmup: int = 0  # steps, linear from 0
    schedule: str = 'cosine'  # cosine, linear, constant, inverse_sqrt
    end: float = 0.0  # the last learning rate, as a fraction of the peak (cosine, linear)
    weight_decay: float = 0.0  # times the learning rate, as in the paper's decoupled form
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0  # of the gradient's global norm; 0: none
    groups: list[Group] = dataclasses.field(default_factory=list)
    no_decay: tuple[str, ...] = NO_DECAY

    def build(self, paths: Iterable[str], steps: int) -> 'Optimizer':
        """Returns the optimiser of these parameters for a run of so many steps."""
        return Optimizer(self, list(paths), steps)


class Optimizer:
    """What `Adamw` says, for named parameters: `init` and `update` as in optax, the learning rate given by the step.

    The learning rate follows the step and not the count of updates: a skipped update does not stretch the schedule.
    """

    def __init__(self, c: Adamw, paths: Sequence[str], steps: int):
        self.lr = schedule(c, steps)
        for group in c.groups:
            require_match(group.paths, paths, 'optimizer.groups')
        group_of = {p: next((g for g in reversed(c.groups) if matches(p, g.paths)), Group(())) for p in paths}
        self.lr_scale = {p: g.lr_scale for p, g in group_of.items()}
        self.decay = {
            p: g.weight_decay if g.weight_decay >= 0 else 0.0 if matches(p, c.no_decay) else c.weight_decay
            for p, g in group_of.items()
        }
        clip = [optax.clip_by_global_norm(c.clip)] if c.clip else []
        self.transform = optax.chain(*clip, optax.scale_by_adam(c.b1, c.b2, c.eps))

    def init(self, params: Mapping[str, jax.Array]) -> Any:
        """Returns the state: two moments a trainable parameter, and nothing for any other."""
        return self.transform.init(params)

    def update(
        self, grads: Mapping[str, jax.Array], state: Any, params: Mapping[str, jax.Array], step: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        """Returns the parameters after one update at the learning rate of `step`, and the new state."""
        updates, state = self.transform.update(grads, state, params)
        lr = self.lr(step)
        new = {p: w - lr * self.lr_scale[p] * (updates[p] + self.decay[p] * w) for p, w in params.items()}
        return new, state


def schedule(c: Adamw, steps: int) -> Callable[[jax.Array | int], jax.Array]:
    """Returns step -> learning rate. Step 0 takes the first share of the warmup, never zero: no step is wasted."""
    if c.warmup < 0:
        raise ValueError(f'optimizer.warmup is {c.warmup}; it counts steps')
    after = max(steps - c.warmup, 1)
    rest = {
        'constant': lambda t: 1.0,
        'linear': lambda t: 1 - (1 - c.end) * jnp.minimum(t / after, 1),
        'cosine': lambda t: c.end + (1 - c.end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(t / after, 1))),
        'inverse_sqrt': lambda t: jnp.sqrt(max(c.warmup, 1) / (max(c.warmup, 1) + t)),
    }
    if c.schedule not in rest:
        raise ValueError(f'optimizer.schedule {c.schedule!r} is none of {", ".join(rest)}')

    def lr(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum((step + 1) / max(c.warmup, 1), 1.0) if c.warmup else 1.0
        return jnp.asarray(c.peak_lr * warm * rest[c.schedule](jnp.maximum(step - c.warmup, 0)), jnp.float32)

    return lr


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Returns whether one of the patterns matches the whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def require_match(patterns: Iterable[str], paths: Sequence[str], name: str) -> None:
    """Raises ValueError for a pattern that matches no parameter: it is a typo, and it would freeze or free silently."""
    for pattern in patterns:
        try:
            if any(re.fullmatch(pattern, p) for p in paths):
                continue
        except re.error as e:
            raise ValueError(f'{name}: {pattern!r} is no regular expression: {e}') from e
        tops = sorted({'/'.join(p.split('/')[:2]) for p in paths})
        raise ValueError(f'{name}: {pattern!r} matches no parameter; the parameters begin with {", ".join(tops)}')


def split(params: Mapping[str, Any], trainable: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (trainable, frozen) parameters; frozen ones get no gradient, no optimiser state and no decay."""
    require_match(trainable, list(params), 'trainable')
    train = {p: w for p, w in params.items() if matches(p, trainable)}
    return train, {p: w for p, w in params.items() if p not in train}


def describe_split(train: Mapping[str, Any], frozen: Mapping[str, Any]) -> str:
    """Returns a table, a line a top module: how many of its parameters learn and how many are frozen."""
    counts = [Counter(), Counter()]
    for counter, params in zip(counts, (train, frozen), strict=True):
        for path, w in params.items():
            counter[path.split('/')[0]] += w.size
    tops = sorted(counts[0] | counts[1])
    rows = [('module', 'trainable', 'frozen')] + [(t, f'{counts[0][t]:,}', f'{counts[1][t]:,}') for t in tops]
    rows.append(('all', f'{counts[0].total():,}', f'{counts[1].total():,}'))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return '\n'.join(f'  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}' for a, b, c in rows)
