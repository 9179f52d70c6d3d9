# SPDX-License-Identifier: Apache-2.0
"""Answers of a made-up model are those of a plain Python loop, alone or beside others, and end where they should."""

import jax
import numpy as np
import pytest

from mmjax.decode import beam, generate
from mmjax.decode.automaton import only, until
from mmjax.decode.sampling import Decoding

V, END = 7, 0
ROWS = [[1, 2, 3], [4, 5], [6, 1, 2, 3, 4]]


def greedy(table, prompt, steps):
    row = list(prompt)
    for _ in range(steps):
        row.append(int(np.argmax(table[row[-2], row[-1]])))
        if row[-1] == END:
            return row[len(prompt) : -1]
    return row[len(prompt) :]


@pytest.fixture(params=range(3))
def table(request):
    return np.random.default_rng(request.param).normal(size=(V, V, V)).astype(np.float32) * 2


def answers(written):
    return [row[:n].tolist() for row, n in zip(np.asarray(written.tokens), np.asarray(written.length), strict=True)]


@pytest.mark.parametrize('beams', [0, 1])
def test_greedy_is_a_plain_loop(toy, table, beams):
    model, prompts, rules = toy
    how = Decoding(max_new_tokens=9, beams=max(beams, 1))
    args = model(table), prompts(ROWS, 6), rules(V, [END])
    written = beam.search(*args, how) if beams else generate.sample(*args, jax.random.key(0), how)
    assert answers(written) == [greedy(table, row, 9) for row in ROWS]
    for row, n, ended in zip(written.tokens, written.length, written.ended, strict=True):
        assert (np.asarray(row)[n:] == -1).all() and ended == (n < 9)


@pytest.mark.parametrize('beams', [1, 3])
def test_ragged_rows_are_as_alone(toy, table, beams):
    model, prompts, rules = toy
    how = Decoding(max_new_tokens=6, beams=beams)
    write = (
        (lambda b: beam.search(model(table), b, rules(V, [END]), how))
        if beams > 1
        else (lambda b: generate.sample(model(table), b, rules(V, [END]), jax.random.key(0), how))
    )
    together = write(prompts(ROWS, 6))
    for r, row in enumerate(ROWS):
        alone = write(prompts([row], len(row)))
        assert answers(alone) == answers(together)[r : r + 1]
        np.testing.assert_allclose(alone.log_prob[0], together.log_prob[r], rtol=1e-5)


def enumerate_all(table, prompt, steps, penalty):
    """The best ended answer of all, by trying every one."""
    norm = jax.nn.log_softmax(table, axis=-1)
    live, found = [([], 0.0)], []
    for step in range(steps):
        longer = []
        for row, score in live:
            whole = [*prompt, *row]
            for token in range(V):
                total = score + float(norm[whole[-2], whole[-1], token])
                if token == END:
                    found.append((total / (step + 1) ** penalty, row))
                else:
                    longer.append(([*row, token], total))
        live = longer
    found += [(score / steps**penalty, row) for row, score in live]
    return max(found)[1]


@pytest.mark.parametrize('penalty', [0.0, 1.0])
def test_wide_beam_is_exhaustive(toy, table, penalty):
    model, prompts, rules = toy
    how = Decoding(max_new_tokens=3, beams=40, length_penalty=penalty)
    written = beam.search(model(table), prompts(ROWS, 5), rules(V, [END]), how)
    assert answers(written) == [enumerate_all(table, row, 3, penalty) for row in ROWS]


def test_beam_finds_what_greedy_misses(toy):
    model, prompts, rules = toy
    # After 1, token 2 is a little likelier than 3, but it leads to a flat distribution, and 3 to a certain end.
    p = np.full((V, V, V), 1e-6)
    p[:, 1, 2], p[:, 1, 3] = 0.55, 0.45
    p[:, 2, :] = 1 / V
    p[:, 3, 4] = p[:, 4, END] = 1
    table = np.log(p / p.sum(-1, keepdims=True))
    args = model(table), prompts([[5, 1]], 2), rules(V, [END])
    short = generate.sample(*args, jax.random.key(0), Decoding(max_new_tokens=3))
    wide = beam.search(*args, Decoding(max_new_tokens=3, beams=2, length_penalty=0.0))
    assert answers(wide) == [[3, 4]] and answers(short)[0][0] == 2
    assert wide.log_prob[0] > short.log_prob[0]


def test_log_prob_and_early_end(toy, table):
    model, prompts, rules = toy
    written = generate.sample(
        model(table),
        prompts([[1, 2]], 2),
        rules(V, [END]),
        jax.random.key(3),
        Decoding(max_new_tokens=5, temperature=1.0),
    )
    norm, row = np.asarray(jax.nn.log_softmax(table, axis=-1)), [1, 2, *answers(written)[0]]
    row += [END] * int(written.ended[0])
    np.testing.assert_allclose(
        written.log_prob[0], sum(norm[a, b, c] for a, b, c in zip(row, row[1:], row[2:], strict=False)), rtol=1e-5
    )


SPELLING = [None, b'a', b'b', b'ab', b'ba', b'x', b'\n']


@pytest.mark.parametrize('beams', [1, 2])
def test_rules(toy, table, beams):
    model, prompts, rules = toy

    def write(how, **kinds):
        args = model(table), prompts(ROWS, 6), rules(V, [END], **kinds)
        return beam.search(*args, how) if beams > 1 else generate.sample(*args, jax.random.key(0), how)

    how = Decoding(max_new_tokens=8, beams=beams)
    for row in answers(write(how, banned=[5, 6])):
        assert not {5, 6} & set(row)
    for row in answers(write(how, only=(only('(ab)+x', SPELLING, ()),))):
        text = b''.join(SPELLING[i] for i in row)
        assert text.endswith(b'abx') and set(text[:-1].split(b'ab')) == {b''}
    stop = until(['ba', 'xx'], SPELLING)
    for row, ended, free in zip(
        answers(written := write(how, until=stop)), written.ended, answers(write(how)), strict=True
    ):
        text = b''.join(SPELLING[i] for i in row)
        assert (b'ba' not in text[:-2] or len(SPELLING[row[-1]]) > 1) and (beams > 1 or row == free[: len(row)])
        assert ended or (b'ba' not in text and b'xx' not in text)
