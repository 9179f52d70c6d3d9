# SPDX-License-Identifier: Apache-2.0
"""What may be written, as a small table on the device: constraints and stop strings over tokens.

A table over bytes (`regex.py`, `boxes.py`) is lifted to the tokenizer's vocabulary. Most tokens behave alike: all words
lead nowhere, and where only the form of a box is checked all 1,024 location tokens move every state to the same next
one. So a token has a kind, and only [states, kinds] is stored, beside one int for each token of the vocabulary.

    pattern  (<loc[0-9]{4}>){2}    kinds  0 = words, 1 = location tokens
    move     state 0: [-1, 1]   state 1: [-1, 2]   state 2: [-1, -1]      ends  state 2
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mmjax import sharding
from mmjax.decode import regex
from mmjax.sharding import ROWS, P

FAR = 1 << 30  # more tokens than anyone writes


def take(table: Array, index) -> Array:
    """Returns table[index], laid out over the rows of the batch when there is a mesh."""
    return table.at[index].get(out_sharding=sharding.where(P(ROWS)))


class TokenTable(NamedTuple):
    """An automaton over tokens. State 0 is the start; kind 0 is that of tokens which lead nowhere from any state."""

    kind: Int[Array, 'V']  # the kind of each token
    move: Int[Array, 'states kinds']  # the next state, -1 where the token may not be written
    ends: Bool[Array, 'states']  # whether what has been written is whole
    left: Int[Array, 'states']  # the fewest further tokens that make it whole

    def widened(self, width: int) -> 'TokenTable':
        """Returns the table for logits of that width, padded with tokens that are never allowed."""
        return self._replace(kind=jnp.pad(self.kind, (0, width - len(self.kind))))

    def allowed(self, state: Int[Array, '*B'], budget: Int[Array, '']) -> Bool[Array, '*B V']:
        """Returns the tokens after which the text can still become whole within `budget` further tokens."""
        following = take(self.move, state)
        return take((following >= 0) & (take(self.left, following) <= budget), (..., self.kind))

    def advance(self, state: Int[Array, '*B'], token: Int[Array, '*B']) -> Int[Array, '*B']:
        """Returns the states after the tokens, -1 for a token that is not allowed."""
        return take(self.move, (state, take(self.kind, token)))

    def whole(self, state: Int[Array, '*B']) -> Bool[Array, '*B']:
        """Returns which rows may end here."""
        return take(self.ends, state)


def _ending(dfa: regex.Dfa, texts: Sequence[Sequence[int] | None]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the tokens that fit somewhere, the state in which each ends from each state: [states, tokens] or -1).

    A text is the symbols that a token writes: the columns of the table. Without symbols it stays; None fits nowhere.
    """
    usable = (dfa.move >= 0).any(axis=0)
    # A symbol that nothing can follow rules a token out at once: of a large vocabulary only few tokens remain.
    fits = [i for i, text in enumerate(texts) if text is not None and all(usable[s] for s in text)]
    fits.sort(key=lambda i: len(texts[i]))
    lengths = np.array([len(texts[i]) for i in fits], np.int32)
    # Row -1 (the last) of the padded table is the dead state.
    move = np.concatenate([dfa.move, np.full((1, dfa.move.shape[1]), -1, np.int32)])
    now = np.repeat(np.arange(len(dfa.ends), dtype=np.int32)[:, None], len(fits), axis=1)
    for place in range(lengths.max(initial=0)):
        first = np.searchsorted(lengths, place, side='right')
        symbols = np.array([texts[i][place] for i in fits[first:]], np.int32)
        now[:, first:] = move[now[:, first:], symbols[None]]
    return np.array(fits, np.int64), now


def _whole_specials(
    tokens: np.ndarray, ending: np.ndarray, spelling: Sequence[bytes | None], special: Collection[int]
) -> None:
    """Forbids, in place, to spell a special token with ordinary ones, e.g. `<`, `box`, `>` where <box> is a token.

    The text would be the same, but the model was never trained on it.
    """
    column = {int(token): i for i, token in enumerate(tokens)}
    names = [(i, spelling[token]) for token, i in column.items() if token in special]
    ordinary: dict[bytes, list[int]] = {}
    for token, i in column.items():
        if token not in special:
            ordinary.setdefault(spelling[token], []).append(i)
    for state in range(len(ending)):
        begun = {name[:n] for i, name in names if ending[state, i] >= 0 for n in range(1, len(name) + 1)}
        ending[state, [i for text in begun & ordinary.keys() for i in ordinary[text]]] = -1


def _kinds(ending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the kind of each token, the columns of the kinds); kind 0 leads nowhere."""
    seen, rows = {}, np.ascontiguousarray(ending.T)
    dead = np.full((1, len(ending)), -1, np.int32)
    seen[dead.tobytes()] = 0
    kind = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in rows], np.int32)
    _, first = np.unique(kind, return_index=True)
    columns = rows[first] if 0 in kind else np.concatenate([dead, rows[first]])
    return kind, np.ascontiguousarray(columns.T)


def _distance(move: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the fewest tokens from each state to one that ends."""
    left = np.where(ends, 0, FAR)
    while True:
        onwards = np.where(move >= 0, left[move], FAR).min(axis=1, initial=FAR) + 1
        shorter = np.minimum(np.minimum(left, onwards), FAR)
        if (shorter == left).all():
            return left
        left = shorter


def lift(tokens: np.ndarray, ending: np.ndarray, ends: np.ndarray, size: int) -> TokenTable:
    """Returns the table for tokens and the states in which they end; `size` is that of the vocabulary."""
    kind, move = _kinds(ending)
    left = _distance(move, ends)
    if left[0] >= FAR:
        raise ValueError('no sequence of tokens of this vocabulary is allowed; are special tokens missing?')
    move = np.where((move >= 0) & (left[move] < FAR), move, -1).astype(np.int32)
    kinds = np.zeros(size, np.int32)
    kinds[tokens] = kind
    return TokenTable(*map(jnp.asarray, (kinds, move, ends, left.astype(np.int32))))


def only(pattern: str, spelling: Sequence[bytes | None], special: Collection[int]) -> TokenTable:
    """Returns the table of answers that match `pattern`, a regular expression, from end to end.

    `spelling` holds the bytes that each token writes, None for those that write nothing; `special` the tokens that must
    not be spelled with others.
    """
    dfa = regex.compile_dfa(regex.parse(pattern))
    tokens, ending = _ending(dfa, [text or None for text in spelling])
    if special:
        _whole_specials(tokens, ending, spelling, special)
    return lift(tokens, ending, dfa.ends, len(spelling))


def until(strings: Sequence[str], spelling: Sequence[bytes | None]) -> TokenTable:
    """Returns the table that is whole as soon as one of `strings` has been written, across tokens or inside one."""
    found = regex.either(*map(regex.literal, strings))
    dfa = regex.compile_dfa(regex.concat(regex.ANYTHING, regex.concat(found, regex.ANYTHING)))
    return lift(*_ending(dfa, [text or b'' for text in spelling]), dfa.ends, len(spelling))


def exactly(dfa: regex.Dfa, texts: Sequence[Sequence[int] | None]) -> TokenTable:
    """Returns the table of a table over symbols of one's own; `texts` holds the symbols that each token writes."""
    return lift(*_ending(dfa, texts), dfa.ends, len(texts))
