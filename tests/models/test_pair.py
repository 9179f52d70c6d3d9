# SPDX-License-Identifier: Apache-2.0
"""Pairs of towers: where a text's vector comes from, what padding may do, and the losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from flax import nnx
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.models.decoder import Decoder
from mmjax.models.pair import Pair
from mmjax.nn.positions import Learned
from mmjax.objectives.contrastive import softmax_pairs
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P

TEXT = Decoder.Config(
    vocab=20, width=16, depth=1, block=systems.BLOCK, position=Learned.Config(length=6), tied=True, vocab_multiple=4
)
PAIR = Pair.Config(
    vision=systems.VIT, text=TEXT, width=8, project_image=True, causal=True, pool='first', pool_id=19, logit_bias=True
)
TOKENS = jnp.array([[3, 4, 19, 19, 0, 0], [5, 6, 7, 8, 18, 19], [18, 19, 1, 2, 3, 4], [9, 9, 9, 9, 19, 0]], jnp.int32)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3)).astype(np.uint8)


def build(c: Pair.Config) -> Pair:
    return c.build(rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    'pool, places', [('start', [0] * 4), ('first', [2, 5, 1, 4]), ('largest', [2, 5, 1, 4]), ('last', [5, 5, 5, 5])]
)
def test_the_place_of_a_text(pool, places):
    pair = build(dataclasses.replace(PAIR, pool=pool))
    hidden = pair.read(TOKENS)
    expected = pair.text_projection(hidden[np.arange(4), np.array(places)])
    np.testing.assert_allclose(pair.texts(TOKENS), expected, rtol=1e-5)


@pytest.mark.parametrize('causal', [True, False])
def test_padding_is_not_seen(causal):
    pair = build(dataclasses.replace(PAIR, causal=causal))
    length = jnp.array([3, 6, 2, 5])
    padded = jnp.where(jnp.arange(6) < length[:, None], TOKENS, 11)
    np.testing.assert_array_equal(pair.texts(TOKENS, length), pair.texts(padded, length))
    changed = pair.read(TOKENS.at[1, 3].set(2), length)[1] != pair.read(TOKENS, length)[1]
    assert changed.any(axis=-1).tolist() == [not causal] * 3 + [True] * 3


def test_a_verdict_looks_at_the_own_picture_alone():
    form = dict(causal=False, cross=systems.WITHIN, pool='start', init_scale=None, logit_bias=False)
    pair = build(dataclasses.replace(PAIR, **form))
    length, features = jnp.array([3, 6, 2, 5]), pair.vision(jnp.asarray(PIXELS)[:, None, None])[:, 0, 0]
    verdict = pair.match(features, TOKENS, length)
    padded = jnp.where(jnp.arange(6) < length[:, None], TOKENS, 11)
    np.testing.assert_array_equal(verdict, pair.match(features, padded, length))
    other = pair.match(features.at[1].add(1.0), TOKENS, length)
    assert (other != verdict).any(axis=1).tolist() == [False, True, False, False]
    cosines = np.abs(pair.similarity(pair.images(jnp.asarray(PIXELS)), pair.texts(TOKENS)))
    assert pair.scale is None and cosines.max() < 1.5


def test_it_traces_on_a_mesh():
    mesh = sharding.make_mesh(2, 2, 2)
    abstract = jax.eval_shape(lambda: build(PAIR))
    specs, skeleton = sharding.param_specs(abstract, mesh), Skeleton(abstract)
    on = lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
    params = {path: on(x, specs[path]) for path, x in flatten(abstract).items()}
    loss = lambda params, pixels, tokens: softmax_pairs(
        (pair := skeleton.merge(params)).similarity(pair.images(pixels), pair.texts(tokens))
    )
    with sharding.use(mesh):
        grads = jax.eval_shape(jax.grad(loss), params, on(PIXELS, P(ROWS)), on(TOKENS, P(ROWS)))
    assert grads.keys() == params.keys()


@pytest.mark.parametrize('changes, words', [(dict(pool='mean'), 'pool'), (dict(project_image=False), 'project_image')])
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        build(dataclasses.replace(PAIR, **changes))
