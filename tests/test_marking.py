# SPDX-License-Identifier: Apache-2.0
"""What marks pictures: one program reads texts and towers, its loss adds up, and maps are judged beside a control."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax import marking
from mmjax.config import ConfigError, Eval
from mmjax.data.layout import Layout
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.pasted import Pasted
from mmjax.data.states import States
from mmjax.data.tokenizer import Bytes
from mmjax.models.decoder import Decoder
from mmjax.models.inspector import Inspector, PromptLearner
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.objectives.maps import MarksAndWords, map_losses
from mmjax.objectives.next_token import next_token
from mmjax.params import Skeleton, flatten

BLOCK = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=12))
STATES = States.Config(tokenizer=Bytes.Config(special=('<|startoftext|>', '<|endoftext|>')), right=('{}',),
                       wrong=('bad {}',), templates=('a {}',))  # fmt: skip
MODEL = Vlm.Config(
    encoder=Vit.Config(size=(16, 16), patch=4, width=8, depth=2, block=BLOCK, cls=True, keep_cls=True, deep=(0, 1)),
    connector=Inspector.Config(
        text=Decoder.Config(vocab=258, width=8, depth=1, block=BLOCK, position=Learned.Config(length=16)),
        depths=2, space=6, size=(8, 8), prompts=PromptLearner.Config(channels=(2,), last=3, learned=2),
        texts=STATES.texts, longest=14,
    ),
    decoder=Decoder.Config(vocab=257, width=8, depth=1, block=BLOCK),
)  # fmt: skip
LAYOUT = Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), max_tokens=64, max_media=1, beside=STATES)
SOURCE = Pasted.Config(source=Digits.Config(count=8, height=16, width=16))


@pytest.fixture(scope='module')
def built():
    rng, skeleton = np.random.default_rng(0), Skeleton(jax.eval_shape(lambda: MODEL.build(rngs=nnx.Rngs(0))))
    shapes = flatten(jax.eval_shape(lambda: MODEL.build(rngs=nnx.Rngs(0))))
    draw = lambda path, like: (path.endswith('scale') + 0.4 * rng.standard_normal(like.shape)).astype(np.float32)
    model = skeleton.merge({path: jnp.asarray(draw(path, like)) for path, like in shapes.items()})
    layout = LAYOUT.build(MODEL.media_spec())
    documents = [SOURCE.build()[i] for i in range(8)]
    batch = stack([render_row(layout(document), layout) for document in documents])
    return model, layout, documents, jax.tree.map(jnp.asarray, batch)


def test_the_loss_is_that_of_words_and_of_maps(built):
    model, _, documents, batch = built
    assert MODEL.media_spec().tokens == 1 + 2 + 4

    def outputs(model, batch):
        seen = model.seen(batch)
        maps = model.connector.maps(*seen)
        changed = batch._replace(words=batch.words.at[..., 5].set(7))
        return MarksAndWords()(model, batch), next_token(model, batch), maps, model.connector.maps(*model.seen(changed))

    (loss, weight, sums), (words, *_), maps, other = jax.jit(outputs)(model, batch)
    target = jnp.asarray(np.stack([d.pieces[0].marks[1::2, 1::2] for d in documents]), jnp.float32)
    np.testing.assert_array_equal(batch.marks[:, 0], target)
    expected = weight * map_losses(maps, target).mean()
    np.testing.assert_allclose(sums['maps'], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, words + expected, rtol=1e-5)
    assert maps.shape == (2, 8, 8, 8, 2) and not np.allclose(maps, other)  # what is wrong is what the texts say


@pytest.mark.parametrize('shots', [0, 2])
def test_maps_are_judged_beside_a_control(built, shots, monkeypatch):
    model, layout, documents, _ = built
    right = [dataclasses.replace(SOURCE, chance=0.0).build()[i] for i in range(shots)]
    ev = Eval('marks', SOURCE, metric='maps', shots=shots)
    found = marking.measure(ev, documents, right, layout, model, Counter())
    assert {*found.figures} == {f'{blind}marks_{what}_auroc' for blind in ('', 'blind_') for what in ('pixel', 'image')}
    assert all(0 <= value <= 1 for value in found.figures.values())
    # A model that knows where pieces lie is right about all pixels, and only with its own pictures.
    monkeypatch.setattr(marking, '_maps', lambda model, batch, memory: np.maximum(batch.marks[:, 0], 0) * 1.0)
    found = marking.measure(ev, documents, right, layout, model, Counter()).figures
    assert found['marks_pixel_auroc'] == found['marks_image_auroc'] == 1 > found['blind_marks_pixel_auroc']


def test_rotations_turn_marks_too():
    document = SOURCE.build()[0]
    turned = marking.rotations(document)
    for times, other in enumerate(turned):
        for name in ('pixels', 'marks'):
            expected = np.rot90(getattr(document.pieces[0], name), times)
            assert np.array_equal(getattr(other.pieces[0], name), expected)


def test_refusals(built):
    model, layout, documents, _ = built
    right = dataclasses.replace(SOURCE, chance=0.0).build()
    with pytest.raises(ConfigError, match='of 2 marked pictures none, or all'):
        marking.measure(Eval('marks', SOURCE, metric='maps'), [right[0], right[1]], [], layout, model, Counter())
    plain = LAYOUT.build(dataclasses.replace(MODEL.media_spec(), marks=None))
    with pytest.raises(ConfigError, match='the model draws none'):
        marking.measure(Eval('marks', SOURCE, metric='maps'), documents, [], plain, model, Counter())
    with pytest.raises(ValueError, match=r'set Vit.Config.deep'):
        dataclasses.replace(MODEL, encoder=dataclasses.replace(MODEL.encoder, deep=(1,))).build(rngs=nnx.Rngs(0))
