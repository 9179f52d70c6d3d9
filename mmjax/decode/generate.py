# SPDX-License-Identifier: Apache-2.0
"""Writes answers: one compiled loop over a key-value cache, for rows of prompts of different lengths.

row 0   p p p p p . . .      prompt places, `.` is padding (nobody sees it: its place is overwritten first)
row 1   p p p . . . . .
step 0  row 0 writes place 5, sees [0, 6)         row 1 writes place 3, sees [0, 4)
step 1  row 0 writes place 6, sees [0, 7)         row 1 writes place 4, sees [0, 5)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.decode.automaton import TokenTable, take
from mmjax.decode.sampling import Decoding, choose
from mmjax.sharding import ROWS, P

# A constraint may allow only tokens to which the model gives no probability at all; they must stay comparable.
LEAST = -1e9


class Rules(NamedTuple):
    """What ends an answer and what it may hold. None where there is no such rule."""

    end: Bool[Array, 'V']  # tokens that end the answer and do not belong to it
    banned: Bool[Array, 'V']  # tokens that are never written, e.g. the places of pictures
    only: tuple[TokenTable, ...] = ()  # the answer must be whole for each of them
    until: TokenTable | None = None  # the answer ends when this is whole

    def widened(self, width: int) -> 'Rules':
        """Returns the rules for logits of that width: what lies beyond the vocabulary is never written."""
        pad = lambda x, value: jnp.pad(x, (0, width - len(x)), constant_values=value)
        only = tuple(table.widened(width) for table in self.only)
        return Rules(pad(self.end, False), pad(self.banned, True), only, self.until and self.until.widened(width))


class Written(NamedTuple):
    """Answers. Places after the end of an answer hold -1."""

    tokens: Int[Array, 'B T']
    length: Int[Array, 'B']  # tokens written, without the one that ended the answer
    log_prob: Float[Array, 'B']  # of the answer and the token that ended it, under the model's own distribution
    ended: Bool[Array, 'B']  # False: stopped by max_new_tokens


class Progress(NamedTuple):
    """One answer in the making for each row (or beam)."""

    tokens: Int[Array, '*B T']
    log_prob: Float[Array, '*B']
    ended: Bool[Array, '*B']
    length: Int[Array, '*B']
    only: tuple[Int[Array, '*B'], ...]  # the states of rules.only
    until: Int[Array, '*B']  # state of rules.until


class Prompt(NamedTuple):
    """What every step needs to know of the prompts."""

    length: Int[Array, 'B']
    first: Int[Array, 'B']  # the first place that the answer sees: where its document, or an encoder's output, starts
    last: Int[Array, 'B *axes']  # the highest position from there on; three equal numbers for 3-D rotary positions
    media_span: Int[Array, 'B 1 2'] | None  # what the last token sees of the media, hence the answer too

    @staticmethod
    def of(batch: Batch) -> 'Prompt':
        """Reads the prompts of a batch of one document a row: a place is padding if it sees nothing."""
        length = jnp.sum(batch.span[..., 1] > batch.span[..., 0], axis=1)
        media = None if batch.media_span is None else at_last(batch.media_span, length)[:, None]
        first = at_last(batch.span, length)[:, 0]
        place = jnp.arange(batch.tokens.shape[1])
        valid = (first[:, None] <= place) & (place < length[:, None])
        highest = jnp.max(jnp.where(valid[..., None], batch.position.reshape(*valid.shape, -1), 0), axis=(1, 2))
        last = highest if batch.position.ndim == 2 else jnp.stack([highest] * batch.position.shape[-1], axis=-1)
        return Prompt(length, first, last, media)


def at_last(values: Array, length: Int[Array, 'B']) -> Array:
    """Returns what stands at the last place of each prompt."""
    return jax.vmap(lambda row, last: row[last])(values, jnp.maximum(length - 1, 0))


def start(batch: Batch, rules: Rules, how: Decoding) -> Progress:
    """Returns answers of which nothing is written yet, laid out like the batch."""
    zero = batch.tokens[:, 0] * 0
    nothing = zero[:, None] - jnp.ones(how.max_new_tokens, jnp.int32)
    return Progress(nothing, zero.astype(jnp.float32), zero > 0, zero, tuple(zero for _ in rules.only), zero)


def permitted(logits: Float[Array, '*B V'], progress: Progress, rules: Rules, budget: Int[Array, '']) -> Array:
    """Returns the logits with -inf for tokens that the rules forbid; `budget` tokens may follow this one."""
    logits = jnp.where(rules.banned, -jnp.inf, logits)
    if not rules.only:
        return logits
    pairs = list(zip(rules.only, progress.only, strict=True))
    may_end = functools.reduce(jnp.logical_and, [table.whole(state) for table, state in pairs])
    allowed = functools.reduce(jnp.logical_and, [table.allowed(state, budget) for table, state in pairs])
    allowed = jnp.where(rules.end, may_end[..., None], allowed)
    return jnp.where(allowed, jnp.maximum(logits, LEAST), -jnp.inf)


def write(
    progress: Progress, token: Int[Array, '*B'], gain: Float[Array, '*B'], place: Array, rules: Rules
) -> Progress:
    """Returns the answers with one more token, whose log-probability is `gain`; answers that have ended stay."""
    going = ~progress.ended
    ends = take(rules.end, token)
    adds = going & ~ends
    here = jnp.arange(progress.tokens.shape[-1]) == place
    pairs = zip(rules.only, progress.only, strict=True)
    only = tuple(jnp.where(adds, table.advance(state, token), state) for table, state in pairs)
    until = progress.until
    if rules.until is not None:
        until = jnp.where(adds, rules.until.advance(until, token), until)
        ends = ends | rules.until.whole(until)
    return Progress(
        tokens=jnp.where(adds[..., None] & here, token[..., None], progress.tokens),
        log_prob=progress.log_prob + jnp.where(going, gain, 0.0),
        ended=progress.ended | ends,
        length=progress.length + adds,
        only=only,
        until=until,
    )


def step(model: nnx.Module, token: Int[Array, 'B'], place: Array, prompt: Prompt, cache: Any) -> tuple[Array, Any]:
    """Returns (logits [B, V] of what follows `token`, the answers' `place`-th token, the cache with it)."""
    at = prompt.length + place
    span = jnp.stack([prompt.first, at + 1], axis=-1)[:, None]
    position = (prompt.last + place + 1)[:, None]
    hidden, cache = model.step(jnp.maximum(token, 0)[:, None], span, position, at, prompt.media_span, cache)
    return scores(model, hidden), cache


def scores(model: nnx.Module, hidden: Float[Array, 'B 1 D']) -> Float[Array, 'B V']:
    """Returns the logits of the next token, a row's all on its device: choosing compares the whole vocabulary."""
    return sharding.place(model.logits(hidden)[:, 0], P(ROWS))


def prefill(model: nnx.Module, batch: Batch, prompt: Prompt, new: int) -> tuple[Array, Any]:
    """Returns (logits [B, V] of each prompt's next token, the cache with room for `new` tokens more)."""
    rows, length = batch.tokens.shape
    weights = jax.tree.leaves(nnx.state(model, nnx.Param))
    dtype = next(w.dtype for w in weights if jnp.issubdtype(w.dtype, jnp.floating))
    hidden, cache = model.prefill(batch, model.init_cache(rows, length + new, dtype))
    return scores(model, at_last(hidden, prompt.length)[:, None]), cache


@functools.partial(jax.jit, static_argnames='how')
def sample(model: nnx.Module, batch: Batch, rules: Rules, key: Array, how: Decoding) -> Written:
    """Writes one answer to each row of prompts, greedily or by drawing; ends early when every row has ended."""
    prompt = Prompt.of(batch)

    def pick(logits, progress, place):
        masked = permitted(logits, progress, rules, how.max_new_tokens - 1 - place)
        token = choose(masked, how, jax.random.fold_in(key, place))
        gain = jax.vmap(lambda row, chosen: row[chosen])(jax.nn.log_softmax(logits, axis=-1), token)
        return token, write(progress, token, gain, place, rules)

    def body(carry):
        place, token, progress, cache = carry
        logits, cache = step(model, token, place, prompt, cache)
        token, progress = pick(logits, progress, place + 1)
        return place + 1, token, progress, cache

    logits, cache = prefill(model, batch, prompt, how.max_new_tokens)
    rules = rules.widened(logits.shape[-1])
    token, progress = pick(logits, start(batch, rules, how), jnp.int32(0))
    more = lambda carry: (carry[0] + 1 < how.max_new_tokens) & ~jnp.all(carry[2].ended)
    _, _, progress, _ = jax.lax.while_loop(more, body, (jnp.int32(0), token, progress, cache))
    return Written(progress.tokens, progress.length, progress.log_prob, progress.ended)
