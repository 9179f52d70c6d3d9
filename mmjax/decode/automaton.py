# SPDX-License-Identifier: Apache-2.0
"""What may be written, as a small table on the device: constraints and stop strings over tokens.

A byte table (`regex.py`) is lifted to the tokenizer's vocabulary. Most tokens behave alike: all 1,024 location tokens
move every state to the same next state, and all words lead nowhere. So a token has a kind, and only [states, kinds] is
stored: a quarter of a million tokens cost one int each, whatever the number of states.

    pattern  (<loc[0-9]{4}>){2}    kinds  0 = words, 1 = location tokens
    move     state 0: [-1, 1]   state 1: [-1, 2]   state 2: [-1, -1]      ends  state 2
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int

from mmjax.decode import regex

FAR = 1 << 30  # more tokens than anyone writes
ROWS = ('data', 'fsdp')


def take(table: Array, index) -> Array:
    """Returns table[index], laid out over the rows of the batch when there is a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return table[index] if mesh.empty else table.at[index].get(out_sharding=P(ROWS))


class TokenTable(NamedTuple):
    """An automaton over tokens. State 0 is the start; kind 0 is that of tokens which lead nowhere from any state."""

    kind: Int[Array, 'V']  # the kind of each token
    move: Int[Array, 'states kinds']  # the next state, -1 where the token may not be written
    ends: Bool[Array, 'states']  # whether what has been written is whole
    left: Int[Array, 'states']  # the fewest further tokens that make it whole

    def allowed(self, state: Int[Array, '*B'], budget: Int[Array, '']) -> Bool[Array, '*B V']:
        """Returns the tokens after which the text can still become whole within `budget` further tokens."""
        enough = (self.move >= 0) & (self.left[self.move] <= budget)
        return take(take(enough, state), (..., self.kind))

    def advance(self, state: Int[Array, '*B'], token: Int[Array, '*B']) -> Int[Array, '*B']:
        """Returns the states after the tokens, -1 for a token that is not allowed."""
        return take(self.move, (state, take(self.kind, token)))

    def whole(self, state: Int[Array, '*B']) -> Bool[Array, '*B']:
        """Returns which rows may end here."""
        return take(self.ends, state)


def _lift(dfa: regex.Dfa, spelling: Sequence[bytes | None]) -> np.ndarray:
    """Returns the state in which each token ends, from each state: [states, tokens], -1 where it does not fit.

    A token that writes nothing, b'', stays where it is; None fits nowhere.
    """
    states = len(dfa.ends)
    # Row -1 (the last) of the padded table is the dead state.
    move = np.concatenate([dfa.move, np.full((1, 256), -1, np.int32)])
    usable = (dfa.move >= 0).any(axis=0)
    # A byte that nothing can follow rules a token out at once: of a large vocabulary only few tokens remain.
    fits = [i for i, text in enumerate(spelling) if text is not None and usable[list(text)].all()]
    fits.sort(key=lambda i: len(spelling[i]))
    lengths = np.array([len(spelling[i]) for i in fits], np.int32)
    now = np.repeat(np.arange(states, dtype=np.int32)[:, None], len(fits), axis=1)
    for place in range(lengths.max(initial=0)):
        first = np.searchsorted(lengths, place, side='right')
        byte = np.array([spelling[i][place] for i in fits[first:]], np.uint8)
        now[:, first:] = move[now[:, first:], byte[None]]
    ending = np.full((states, len(spelling)), -1, np.int32)
    ending[:, fits] = now
    return ending


def _whole_specials(ending: np.ndarray, spelling: Sequence[bytes | None], special: Collection[int]) -> None:
    """Forbids, in place, to spell a special token with ordinary ones, e.g. `<`, `box`, `>` where <box> is a token.

    The text would be the same, but the model was never trained on it.
    """
    ordinary: dict[bytes, list[int]] = {}
    for i, text in enumerate(spelling):
        if text and i not in special and (ending[:, i] >= 0).any():
            ordinary.setdefault(text, []).append(i)
    for state in range(len(ending)):
        begun = {spelling[i][:n] for i in special if ending[state, i] >= 0 for n in range(1, len(spelling[i]) + 1)}
        ending[state, [i for text in begun & ordinary.keys() for i in ordinary[text]]] = -1


def _distance(ending: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the fewest tokens from each state to one that ends."""
    left = np.where(ends, 0, FAR)
    arcs = [np.unique(row[row >= 0]) for row in ending]
    for _ in range(len(left)):
        shorter = np.array([min([left[s], *(left[to] + 1 for to in arc)]) for s, arc in enumerate(arcs)])
        if (shorter == left).all():
            break
        left = shorter
    return np.minimum(left, FAR)


def lift(dfa: regex.Dfa, spelling: Sequence[bytes | None], special: Collection[int], size: int) -> TokenTable:
    """Returns the table over tokens of a table over bytes.

    `spelling` holds the bytes that each token writes, None for those that write nothing; `special` the tokens that
    must not be spelled with others; `size` the width of the logits, at least the number of tokens.
    """
    ending = _lift(dfa, spelling)
    if special:
        _whole_specials(ending, spelling, special)
    left = _distance(ending, dfa.ends)
    ending = np.where((ending >= 0) & (left[ending] < FAR), ending, -1)
    columns, kind = np.unique(ending, axis=1, return_inverse=True)
    dead = np.full((len(ending), 1), -1, np.int32)
    kinds = np.zeros(size, np.int32)
    kinds[: len(spelling)] = kind.ravel() + 1
    if not columns.size or left[0] >= FAR:
        raise ValueError(
            'no sequence of tokens of this vocabulary matches the pattern; are its special tokens missing?'
        )
    move = np.concatenate([dead, columns], axis=1).astype(np.int32)
    return TokenTable(*map(jnp.asarray, (kinds, move, dfa.ends, left.astype(np.int32))))


def only(pattern: str, spelling: Sequence[bytes | None], special: Collection[int], size: int) -> TokenTable:
    """Returns the table of answers that match `pattern`, a regular expression, from end to end."""
    return lift(regex.compile_dfa(regex.parse(pattern)), [text or None for text in spelling], special, size)


def until(strings: Sequence[str], spelling: Sequence[bytes | None], size: int) -> TokenTable:
    """Returns the table that is whole as soon as one of `strings` has been written, across tokens or inside one."""
    found = regex.either(*map(regex.literal, strings))
    expression = regex.concat(regex.ANYTHING, regex.concat(found, regex.ANYTHING))
    return lift(regex.compile_dfa(expression), [text or b'' for text in spelling], (), size)
