# SPDX-License-Identifier: Apache-2.0
"""Top-down attention: what is not there changes nothing, questions end at the same place, answers are learnt alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from systems import DECODER, build

from mmjax.batch import Batch
from mmjax.choose import Chooser
from mmjax.data.answer_list import AnswerList
from mmjax.data.layout import Layout
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Features, Text
from mmjax.models.connector import Linear
from mmjax.models.regions import Regions
from mmjax.models.topdown import TopDown
from mmjax.models.vlm import Vlm
from mmjax.nn.gated_layer import Layer
from mmjax.objectives.answers import Answers

CONFIG = TopDown.Config(
    encoder=Regions.Config(width=3, most=4), vocab=256, answers=5, word_width=6, width=8, hidden=7,
    layer=Layer.Config(gated=True, normed=True),
)  # fmt: skip
RNG = np.random.default_rng(0)
SCORES = jax.jit(lambda model, batch: model.scores(batch))


def batch(lengths=(2, 4), counts=(3, 1), fill=0.0, places=6) -> Batch:
    rng = np.random.default_rng(1)
    tokens = np.where(np.arange(places) < np.array(lengths)[:, None], rng.integers(1, 9, (2, 9))[:, :places], 7)
    features = np.where(np.arange(4)[:, None] < np.array(counts)[:, None, None], rng.normal(size=(2, 4, 3)), fill)
    own = np.where(np.arange(places) < np.array(lengths)[:, None], np.arange(1, places + 1), 0)
    size = np.array([[[1, 1, c] if c else [0, 0, 0]] for c in counts])
    answers = np.array([[0, 1, 0.3, 0, 0], [0, 0, 0, 0, 0.6]])
    found = Batch(
        tokens=tokens, weight=0.0 * tokens, span=np.stack([0 * own, own], axis=-1), position=tokens * 0,
        media_size=size, features=features[:, None].astype(np.float32), answers=answers.astype(np.float32),
    )  # fmt: skip
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == 'f' else jnp.int32), found)


@pytest.fixture(scope='module', params=['concat', 'product'])
def model(request):
    return build(dataclasses.replace(CONFIG, joint=request.param))


def test_only_what_is_there_counts(model):
    scores = lambda model, batch: SCORES(model, batch)[0]
    plain = scores(model, batch())
    assert plain.shape == (2, 5) and np.ptp(plain) > 0
    np.testing.assert_array_equal(plain, scores(model, batch(fill=9.0)))  # regions behind the last
    fewer = batch()._replace(features=batch().features[:, :, :3])
    np.testing.assert_allclose(plain, scores(model, fewer), rtol=1e-6)
    np.testing.assert_allclose(plain, scores(model, batch(places=9)), rtol=1e-6)  # padding behind the words
    assert not np.allclose(plain, scores(model, batch(lengths=(3, 4)))[0])
    assert not np.allclose(plain, scores(model, batch(counts=(4, 1)))[0])


def test_a_word_for_padding_is_read():
    read = lambda pad: functools.partial(jax.jit(TopDown.read), build(dataclasses.replace(CONFIG, pad=pad)))
    tokens, length = jnp.array([[3, 4, 0, 0]]), jnp.array([2])
    padded = jnp.array([[9, 9, 3, 4]]), jnp.array([4])
    np.testing.assert_array_equal(read(9)(tokens, length), read(None)(*padded))
    assert not np.allclose(read(9)(tokens, length), read(None)(tokens, length))


def test_the_objective(model):
    logits, there = SCORES(model, batch(counts=(3, 0)))
    loss, weight, sums = jax.jit(Answers())(model, batch(counts=(3, 0)))
    right, x = np.asarray(batch().answers[0]), np.asarray(logits[0])
    expected = (np.logaddexp(0, x) - right * x).sum()
    assert there.tolist() == [True, False] and weight == 1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(sums['correct'], right[x.argmax()])


def test_the_best_answer_is_chosen(model):
    spec = CONFIG.media_spec()
    words = AnswerList.Config(words=tuple('abcde'))
    layout = Layout.Config(tokenizer=Bytes.Config(), max_tokens=6, max_media=1, answers=words).build(spec)
    seen = lambda: Features(RNG.normal(size=(2, 3)))
    prompts = [layout.prompt(Document([seen(), Text('x?', weight=0.0), Text('y')])) for _ in range(3)]
    answers = Chooser(model, layout, layout.shape, 2)(prompts)
    assert len(answers) == 3 and all(a.text in 'abcde' and a.log_prob <= 0 for a in answers)
    model.answer.bias.set_value(jnp.zeros(5).at[3].set(99.0))
    assert [a.text for a in Chooser(model, layout, layout.shape, 2)(prompts)] == ['d'] * 3


def test_regions_stand_among_the_words_of_any_decoder():
    c = Vlm.Config(encoder=Regions.Config(width=3, most=4), connector=Linear.Config(), decoder=DECODER)
    spec = c.media_spec()
    assert (spec.tokens, spec.features, spec.varying, spec.grid(1, 1, 2)) == (4, 3, True, (1, 2))
    model = build(c)
    media = jax.jit(lambda model, batch: model.media(batch))
    found = media(model, batch())
    np.testing.assert_allclose(found[0, :3], model.connector.linear(batch().features[0, 0, :3]), rtol=1e-5)
    np.testing.assert_array_equal(found, media(model, batch(fill=9.0)))


def test_refusals(model):
    with pytest.raises(ValueError, match="joint is 'sum'"):
        dataclasses.replace(CONFIG, joint='sum').build(rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match='set layout'):
        model.scores(batch()._replace(features=None))
