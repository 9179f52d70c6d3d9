# SPDX-License-Identifier: Apache-2.0
"""Three losses of pairs: blanks change nothing, negatives are wrong, and every loss reaches the parts it is for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.models.heads import Heads
from mmjax.models.qformer import Qformer, Words
from mmjax.nn.attention import Attention
from mmjax.nn.mlp import Mlp
from mmjax.objectives import align
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P

READS = Words.Config(vocab=20, begin=19, most=4, places=6)
CONFIG = Qformer.Config(
    width=8, depth=2, attn=Attention.Config(heads=2), mlp=Mlp.Config(width=12), queries=2, words=READS,
    heads=Heads.Config(width=4),
)  # fmt: skip
Q = disturbed(lambda rngs: CONFIG.build(6, None, rngs=rngs))
WORDS = jnp.array([[7, 8, 9, -1], [1, 2, 3, 4], [5, 6, -1, -1], [1, 9, 3, -1]])
FEATURES, COUNT = array(4, 5, 6), jnp.array([3, 5, 4, 5])


def losses(q, features, count, words, there):
    contrast, similarity = align.contrast(q, features, count, words, there, 0.1)
    wrong = align.negatives(similarity, there, None)
    verdict, _ = align.verdict(q, features, count, words, there, *wrong)
    return jnp.stack([contrast, verdict, align.captions(q, features, count, words, there, 0.1)[0]])


def test_a_pair_that_is_not_there_changes_no_loss():
    there = jnp.array([True, True, True, False])
    cut = lambda x: x[:3]
    want = jax.jit(losses)(Q, cut(FEATURES), cut(COUNT), cut(WORDS), cut(there))
    np.testing.assert_allclose(jax.jit(losses)(Q, FEATURES, COUNT, WORDS, there), want, rtol=1e-5)


def test_negatives_are_of_others_and_near_ones_come_often():
    similarity = jnp.array([[9.0, 5.0, -5.0, 8.0], [1.0, 2.0, 3.0, 8.0], [0.0, 0.0, 0.0, 8.0], [1.0, 1.0, 1.0, 8.0]])
    there = jnp.array([True, True, True, False])
    images, texts = align.negatives(similarity, there, None)
    assert texts.tolist()[:3] == [1, 2, 0] and images.tolist()[:2] == [1, 0]
    drawn = np.stack([np.stack(align.negatives(similarity, there, jax.random.key(i))) for i in range(40)])
    assert not (drawn[:, :, :3] == np.arange(3)).any() and not (drawn[:, :, :3] == 3).any()
    assert (drawn[:, 1, 0] == 1).mean() > 0.9 and 0.2 < (drawn[:, 1, 2] == 0).mean() < 0.8


def test_gradients_reach_what_each_loss_teaches():
    skeleton, params = Skeleton(Q), flatten(Q)
    loss = lambda p: losses(skeleton.merge(p), FEATURES, COUNT, WORDS, jnp.ones(4, bool))
    grads = jax.jit(jax.jacrev(loss))(params)
    reach = {path: [bool(np.any(g[i])) for i in range(3)] for path, g in grads.items()}
    assert reach['heads/temperature'] == [True, False, False]
    assert reach['heads/verdict/kernel'] == [False, True, False]
    assert reach['heads/name/kernel'] == [False, False, True]
    assert reach['latents'] == reach['blocks/attn/q/kernel'] == reach['xattn/attn/v/kernel'] == [True] * 3


def test_words_are_needed():
    batch = dataclasses.make_dataclass('Batch', ['words'])(None)
    with pytest.raises(ValueError, match='set layout'):
        align.Align()(None, batch)


def test_it_traces_on_a_mesh():
    mesh = sharding.make_mesh(2, 2, 2)
    specs, skeleton = sharding.param_specs(Q, mesh), Skeleton(Q)
    on = lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
    params = {path: on(x, specs[path]) for path, x in flatten(Q).items()}
    rows = [on(x, P(ROWS)) for x in (FEATURES, COUNT, WORDS, jnp.ones(4, bool))]

    def loss(params, features, count, words, there):
        q = skeleton.merge(params)
        contrast, similarity = align.contrast(q, features, count, words, there, 0.1)
        wrong = align.negatives(similarity, there, jax.random.key(0))
        verdict, _ = align.verdict(q, features, count, words, there, *wrong)
        return contrast + verdict + align.captions(q, features, count, words, there, 0.1)[0]

    with sharding.use(mesh):
        grads = jax.eval_shape(jax.grad(loss), params, *rows)
    assert grads.keys() == params.keys()
