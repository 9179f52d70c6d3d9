# SPDX-License-Identifier: Apache-2.0
"""The reader: its words see each other and the real features, and what stands behind them does nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from disturbed import array, disturbed
from flax import nnx

from mmjax.models.decoder import Decoder
from mmjax.models.reader import Reader, reading
from mmjax.models.vlm import Vlm
from mmjax.nn.positions import Learned

TEXT = Decoder.Config(
    vocab=20, width=16, depth=2, block=systems.BLOCK, position=Learned.Config(length=6), tied=True, vocab_multiple=4
)
READER = Reader.Config(text=TEXT, cross=systems.WITHIN, most_words=4)


def test_spans_of_words():
    span, position, looks = reading(jnp.array([[7, 8, 9, -1], [-1, -1, -1, -1]]), jnp.array([5, 2]))
    assert span.tolist() == [[[0, 3]] * 3 + [[0, 0]], [[0, 0]] * 4]
    assert looks.tolist() == [[[0, 5]] * 3 + [[0, 0]], [[0, 0]] * 4]
    assert position.tolist() == [[0, 1, 2, 3]] * 2


def test_a_token_for_each_word():
    part = disturbed(lambda rngs: READER.build(8, 16, rngs=rngs))
    features, words = array(2, 5, 8), jnp.array([[7, 8, 9, -1], [1, 2, 3, 4]])
    run = jax.jit(lambda features, words: part(features, jnp.array([3, 5]), words))
    tokens = run(features, words)
    assert tokens.shape == (2, 4, 16)
    blank = run(features.at[0, 3:].set(9.0), words)  # beyond the three features that are there
    np.testing.assert_array_equal(tokens, blank)
    for changed in (run(features.at[0, 2].add(1.0), words), run(features, words.at[0, 2].set(5))):
        differs = (changed != tokens).any(axis=-1)
        assert differs[0, :3].all() and not differs[1].any()


def test_it_is_as_wide_as_the_tokens_that_are_asked_for():
    with pytest.raises(ValueError, match='is 16 wide, the tokens must be 12'):
        READER.build(8, 12, rngs=nnx.Rngs(0))


def test_a_model_reads_the_words_of_its_media():
    c = dataclasses.replace(systems.system(fusion='cross within'), connector=READER)
    assert (c.media_spec().beside, c.media_spec().tokens) == (4, 4)
    model, batch = systems.build(c), jax.tree.map(jnp.asarray, systems.lay(c, [['ab1c', 'd2e']], 8))
    words = jnp.array([[[3, 4, -1, -1], [5, 6, 7, 8]]], jnp.int32)
    one = model.media(batch._replace(words=words))
    two = model.media(batch._replace(words=jnp.where(words == 6, 9, words)))
    assert isinstance(model, Vlm) and one.shape == (1, 9, 16)
    assert (one != two).any(axis=-1)[0].tolist() == [False] * 4 + [True] * 4 + [
        False
    ]  # behind the media stands a state
