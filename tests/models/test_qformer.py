# SPDX-License-Identifier: Apache-2.0
"""The Q-Former: what queries and words see of each other, frames apart, and what does not touch the tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax.models.heads import Heads
from mmjax.models.qformer import Qformer, Words, spans
from mmjax.nn.attention import Attention
from mmjax.nn.mlp import Mlp

BIASED = Attention.Config(heads=2, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
READS = Words.Config(vocab=20, begin=19, most=4, places=6)
CONFIG = Qformer.Config(width=8, depth=3, attn=BIASED, mlp=Mlp.Config(width=12), queries=2, words=READS)
WORDS = jnp.array([[7, 8, 9, -1], [1, 2, 3, 4]])
COUNT = jnp.array([3, 5])


def build(**changes) -> Qformer:
    c = dataclasses.replace(CONFIG, **changes)
    return disturbed(lambda rngs: c.build(6, 10, frames=2, rngs=rngs))


@pytest.mark.parametrize(
    'seeing, expected',
    [
        ('two-way', [(0, 4), (0, 4), (0, 4), (0, 4), (0, 0)]),
        ('captions', [(0, 2), (0, 2), (0, 3), (0, 4), (0, 0)]),
        ('apart', [(0, 2), (0, 2), (2, 4), (2, 4), (0, 0)]),
    ],
)
def test_spans(seeing, expected):
    assert [tuple(x) for x in spans(2, 3, jnp.array([2]), seeing)[0].tolist()] == expected


def test_queries_and_words_apart_are_two_encoders():
    q, features = build(), array(2, 5, 6)

    @jax.jit
    def run(features):
        queries, words = q.read(features, COUNT, WORDS, 'apart')
        return (queries, words), (q.read(features, COUNT, None, 'two-way')[0], q.read(None, None, WORDS, 'two-way')[1])

    (queries, words), (alone, unseen) = run(features)
    there = np.asarray(WORDS) >= 0
    np.testing.assert_allclose(queries, alone, atol=1e-5)
    np.testing.assert_allclose(words[there], unseen[there], atol=1e-5)


def test_captions_see_queries_and_the_past_and_queries_see_no_words():
    q, features = build(), array(2, 5, 6)
    run = jax.jit(lambda words: q.read(features, COUNT, words, 'captions'))
    queries, words = run(WORDS)
    np.testing.assert_allclose(queries, q.read(features, COUNT, None, 'two-way')[0], atol=1e-5)
    same, changed = run(WORDS.at[:, 2].set(11))
    np.testing.assert_array_equal(same, queries)
    assert (changed != words).any(axis=(0, 2)).tolist() == [False, False, True, True]


def test_only_instructed_tokens_depend_on_words_and_none_on_padding():
    features = array(2, 10, 6)
    for instructed in (False, True):
        q = build(instructed=instructed)
        run = jax.jit(lambda features, words, q=q: q(features, COUNT, words))
        tokens = run(features, WORDS)
        assert tokens.shape == (2, 2, 10)
        np.testing.assert_array_equal(tokens, run(features.at[0, 3:].set(9.0), WORDS))
        assert bool((run(features, WORDS.at[0, 2].set(5)) != tokens)[0].any()) == instructed
        assert bool((run(features, WORDS.at[0, 2].set(5)) != tokens)[1].any()) is False


def test_frames_are_read_apart():
    q, features = build(per_frame=True, instructed=True), array(2, 10, 6)
    tokens = jax.jit(q)(features, jnp.array([10, 5]), WORDS)
    assert tokens.shape == (2, 4, 10)
    one = build(per_frame=False, instructed=True)
    first, second = (one(features[:, at : at + 5], jnp.array([5, 5]), WORDS) for at in (0, 5))
    np.testing.assert_allclose(tokens[:, :2], first, atol=1e-5)
    np.testing.assert_allclose(tokens[0, 2:], second[0], atol=1e-5)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: build(words=None, instructed=True), 'instructed needs words'),
        (lambda: build(words=None, heads=Heads.Config(width=4)), 'heads needs words'),
        (lambda: build(words=None).read(array(2, 5, 6), COUNT, WORDS, 'two-way'), 'stand beside no words'),
        (lambda: build(instructed=True)(array(2, 5, 6), COUNT), 'set layout'),
        (lambda: build().read(array(2, 5, 6), COUNT, WORDS, 'sideways'), "'sideways'; choose one of"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_picture_is_as_near_as_its_nearest_query():
    heads = Heads.Config(width=4, temperature=0.5, writes=False).build(8, 20, rngs=nnx.Rngs(0))
    images, texts = heads.images(array(3, 2, 8)), heads.texts(array(5, 4, 8))
    want = np.einsum('nqe,me->nmq', images, texts).max(-1) / 0.5
    np.testing.assert_allclose(heads.similarity(images, texts), want, atol=1e-5)
    assert np.abs(want).max() <= 2 and heads.match(array(3, 2, 8)).shape == (3, 2)
