# SPDX-License-Identifier: Apache-2.0
"""Beam search: W answers a row grow side by side, and the best that has ended wins.

Each step extends the W live answers by every token and keeps the 2 W best. Those of them that end among the first W
join the finished ones, of which W are kept, by log p / length ** penalty; the W best that do not end live on. A row is
over when W have finished and no live one is better as it stands. One beam is greedy decoding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.decode.generate import Progress, Prompt, Rules, Written, permitted, prefill, start, step, write
from mmjax.decode.sampling import Decoding
from mmjax.sharding import P

NEVER = -1e30  # the score of an answer that does not exist


class Search(NamedTuple):
    """The state of the search."""

    place: Int[Array, '']  # tokens written
    live: Progress  # [B, W]
    token: Int[Array, 'B W']  # the live answers' last token
    done: Progress  # [B, W]
    score: Float[Array, 'B W']  # of the finished answers, NEVER where there is none
    over: Bool[Array, 'B']


def follow(tree: Any, parent: Int[Array, 'B W']) -> Any:
    """Returns arrays [B, beams, ...] replaced, beam by beam, by those of the parents."""
    return jax.tree.map(lambda x: jax.vmap(lambda row, beams: row[beams])(x, parent), tree)


def best(progress: Progress, score: Float[Array, 'B N'], count: int) -> tuple[Float[Array, 'B W'], Array, Progress]:
    """Returns the `count` highest scores, where they stood, and their answers."""
    score, index = jax.lax.top_k(score, count)
    return score, index, follow(progress, index)


def join(first: Progress, second: Progress) -> Progress:
    """Returns both sets of beams in one."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), first, second)


def normalised(log_prob: Array, length: Array, how: Decoding) -> Array:
    """Returns the score by which finished answers are compared."""
    return jnp.where(log_prob > NEVER / 2, log_prob / jnp.maximum(length, 1) ** how.length_penalty, NEVER)


def extend(
    search: Search, logits: Float[Array, 'B W V'], rules: Rules, how: Decoding
) -> tuple[Search, Int[Array, 'B W']]:
    """Returns the search one token further, and which live beam each live beam continues."""
    beams, size = logits.shape[1:]
    masked = permitted(jax.nn.log_softmax(logits, axis=-1), search.live, rules, how.max_new_tokens - 1 - search.place)
    total = jnp.maximum(search.live.log_prob[..., None] + masked, NEVER)
    total, index = jax.lax.top_k(total.reshape(len(total), beams * size), 2 * beams)
    parent, token = index // size, index % size
    grown = write(follow(search.live, parent), token, total * 0, search.place, rules)._replace(log_prob=total)

    first = jnp.arange(2 * beams) < beams
    score = jnp.where(grown.ended & first, normalised(total, search.place + 1, how), NEVER)
    score = jnp.where(search.over[:, None], NEVER, score)
    score, _, done = best(join(search.done, grown), jnp.concatenate([search.score, score], axis=1), beams)

    total, index, live = best(grown, jnp.where(grown.ended, NEVER, total), beams)
    ahead = normalised(total, search.place + 1, how).max(axis=1)
    search = Search(
        place=search.place + 1,
        live=live._replace(log_prob=total),
        token=follow(token, index),
        done=done,
        score=score,
        over=search.over | (ahead <= score.min(axis=1)),
    )
    return search, follow(parent, index)


def split(x: Array, rows: int, axis: int = 0) -> Array:
    """Returns [.. B * W ..] as [.. B, W ..]; rows stay where they are."""
    # Left to itself, JAX takes the beams of a lone row for rows.
    spec = _spec(x)
    shape = (*x.shape[:axis], rows, x.shape[axis] // rows, *x.shape[axis + 1 :])
    return jnp.reshape(x, shape, out_sharding=sharding.where(P(*spec[: axis + 1], None, *spec[axis + 1 :])))


def joined(x: Array, axis: int = 0) -> Array:
    """Returns [.. B, W ..] as [.. B * W ..]."""
    spec = _spec(x)
    shape = (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    return jnp.reshape(x, shape, out_sharding=sharding.where(P(*spec[: axis + 1], *spec[axis + 2 :])))


def _spec(x: Array) -> list:
    spec = [*jax.typeof(x).sharding.spec]
    return spec + [None] * (x.ndim - len(spec))


def spread(x: Array, beams: int, axis: int) -> Array:
    """Returns [.. B ..] as [.. B * W ..], each row repeated for its beams."""
    wide = (*x.shape[: axis + 1], beams, *x.shape[axis + 1 :])
    return joined(jnp.broadcast_to(jnp.expand_dims(x, axis + 1), wide), axis)


def reorder(cache: Any, parent: Int[Array, 'B W']) -> Any:
    """Returns a cache, arrays [depth, B * W, ...], in which each beam has what its parent had; rows do not mix."""

    def one(x):
        pick = jax.vmap(lambda row, beams: row[:, beams], in_axes=(1, 0), out_axes=1)
        return joined(pick(split(x, len(parent), 1), parent), 1)

    return jax.tree.map(one, cache)


@functools.partial(jax.jit, static_argnames='how')
def search(model: nnx.Module, batch: Batch, rules: Rules, how: Decoding) -> Written:
    """Writes to each row the best answer that beam search finds."""
    rows, beams, prompt = len(batch.tokens), how.beams, Prompt.of(batch)
    per_beam = jax.tree.map(lambda x: spread(x, beams, 0), prompt)
    wide = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (rows, beams, *x.shape[1:])), tree)

    logits, cache = prefill(model, batch, prompt, how.max_new_tokens)
    rules = rules.widened(logits.shape[-1])
    cache = jax.tree.map(lambda x: spread(x, beams, 1), cache)

    empty = wide(start(batch, rules, how))
    none = empty.log_prob + NEVER
    live = empty._replace(log_prob=jnp.where(jnp.arange(beams) == 0, 0.0, none))
    state = Search(jnp.int32(0), live, empty.length, empty, none, empty.ended[:, 0])
    state, _ = extend(state, wide(logits), rules, how)

    def body(carry):
        state, cache = carry
        logits, cache = step(model, joined(state.token), state.place - 1, per_beam, cache)
        state, parent = extend(state, split(logits, rows), rules, how)
        return state, reorder(cache, parent)

    more = lambda carry: (carry[0].place < how.max_new_tokens) & ~jnp.all(carry[0].over)
    state, _ = jax.lax.while_loop(more, body, (state, cache))

    unfinished = jnp.where(state.over[:, None], NEVER, normalised(state.live.log_prob, state.live.length, how))
    _, _, found = best(join(state.done, state.live), jnp.concatenate([state.score, unfinished], axis=1), 1)
    found = jax.tree.map(lambda x: x[:, 0], found)
    return Written(found.tokens, found.length, found.log_prob, found.ended)
