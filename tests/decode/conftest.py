# SPDX-License-Identifier: Apache-2.0
"""A made-up language model with a cache: what follows depends on the last two tokens, as written in a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.batch import Batch
from mmjax.decode.generate import Rules


class Pairs(nnx.Module):
    """log p(next | last two tokens) = table[second last, last]; the cache really holds the tokens."""

    def __init__(self, table: np.ndarray):
        self.table = nnx.Param(jnp.asarray(table, jnp.float32))

    def init_cache(self, rows: int, length: int, dtype):
        return {'tokens': jnp.zeros((1, rows, length), jnp.int32)}

    def _hidden(self, before, tokens):
        size = len(self.table[...])
        return jnp.concatenate([jax.nn.one_hot(before, size), jax.nn.one_hot(tokens, size)], axis=-1)

    def prefill(self, batch, cache):
        length = batch.tokens.shape[1]
        cache = {'tokens': cache['tokens'].at[0, :, :length].set(batch.tokens)}
        return self._hidden(jnp.roll(batch.tokens, 1, axis=1), batch.tokens), cache

    def step(self, tokens, span, position, write, media_span, cache):
        assert span.shape == (len(tokens), 1, 2) and position.shape == tokens.shape
        held = jnp.where(jnp.arange(cache['tokens'].shape[2]) == write[:, None], tokens, cache['tokens'][0])
        before = jnp.take_along_axis(held, write[:, None] - 1, axis=1)
        return self._hidden(before, tokens), {'tokens': held[None]}

    def logits(self, hidden):
        size = len(self.table[...])
        return jnp.einsum(
            'BLU,BLV,UVW->BLW', hidden[..., :size], hidden[..., size:], self.table[...], precision='highest'
        )


def prompts(rows: list[list[int]], length: int) -> Batch:
    """A batch of one right-padded prompt a row."""
    tokens = np.zeros((len(rows), length), np.int32)
    span = np.zeros((len(rows), length, 2), np.int32)
    position = np.zeros((len(rows), length), np.int32)
    for r, row in enumerate(rows):
        tokens[r, : len(row)] = row
        span[r, : len(row), 1] = np.arange(1, len(row) + 1)
        position[r, : len(row)] = np.arange(len(row))
    return Batch(tokens, np.zeros_like(tokens, np.float32), span, position)


def rules(size: int, end: list[int], banned: list[int] = (), **tables) -> Rules:
    """Rules over a vocabulary of `size` tokens."""
    return Rules(
        jnp.isin(jnp.arange(size), jnp.array(end)), jnp.isin(jnp.arange(size), jnp.array(banned, int)), **tables
    )


@pytest.fixture
def toy():
    """(Pairs, prompts, rules): what tests build their cases from."""
    return Pairs, prompts, rules
