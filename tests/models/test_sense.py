# SPDX-License-Identifier: Apache-2.0
"""Media of further kinds: each is read by its own parts, tokens come in order, and what is not there gives zeros."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from disturbed import disturbed
from flax import nnx

from mmjax import sharding
from mmjax.batch import Sensed
from mmjax.models.connector import AttentionPool, Linear
from mmjax.models.native import NativeVit
from mmjax.models.qformer import Qformer, Words
from mmjax.models.regions import Regions
from mmjax.models.sense import Sense
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp

ASKING = Qformer.Config(
    width=8, depth=1, attn=systems.BIASED, mlp=Mlp.Config(width=8), queries=2, per_frame=True,
    words=Words.Config(vocab=9, most=3, places=3), instructed=True,
)  # fmt: skip
SENSES = {
    'video': Sense.Config(connector=AttentionPool.Config(attn=systems.BIASED, queries=3), frames=2),
    'audio': Sense.Config(encoder=Regions.Config(width=5, most=4, norm=Norm.Config()), connector=ASKING, frames=2),
    '3d': Sense.Config(encoder=Regions.Config(width=6, most=1), connector=Linear.Config()),
}
CONFIG = systems.system(connector='linear', senses=SENSES, state=None)
RNG = np.random.default_rng(0)
HEARD = {
    'audio': Sensed(
        RNG.standard_normal((1, 2, 4, 5)).astype(np.float32),
        np.array([[[1, 1, 4], [1, 1, 2]]], np.int32),
        np.array([[[1, 2, -1], [3, 4, 5]]], np.int32),
    ),
    '3d': Sensed(RNG.standard_normal((1, 1, 1, 6)).astype(np.float32), np.array([[[1, 1, 1]]], np.int32)),
    'video': Sensed(
        RNG.integers(0, 256, (1, 1, 2, 8, 12, 3)).astype(np.uint8), np.array([[[2, 2, 3]]], np.int32)
    ),
}  # fmt: skip


@pytest.fixture(scope='module')
def model():
    return systems.build(CONFIG)


@jax.jit
def media(model, batch):
    return model.media(batch)


def lay(senses=HEARD):
    batch = systems.lay(CONFIG, [['ab1cd']], 16)._replace(senses=senses, states=None)
    return jax.tree.map(jnp.asarray, batch)


def test_what_the_data_side_is_told():
    spec = CONFIG.media_spec()
    assert [*spec.senses] == ['video', 'audio', '3d']
    assert [(s.tokens, s.features, s.frames, s.beside) for s in spec.senses.values()] == [
        (3, 0, 2, 0), (4, 5, 1, 3), (1, 6, 1, 0)
    ]  # fmt: skip
    assert spec.senses['audio'].grid(1, 1, 2) == (1, 2) and spec.senses['audio'].grid(1, 1, 3) == (2, 2)


def test_kinds_follow_pictures_in_the_order_of_the_config(model):
    pictures, found = media(model, lay(None)), media(model, lay())
    assert found.shape[1] == pictures.shape[1] + 3 + 2 * 4 + 1
    np.testing.assert_allclose(found[:, : pictures.shape[1]], pictures, rtol=1e-4, atol=1e-6)
    first = {'video': pictures.shape[1], 'audio': pictures.shape[1] + 3, '3d': pictures.shape[1] + 11}
    for kind, count in (('video', 3), ('audio', 8), ('3d', 1)):
        one = HEARD[kind]
        moved = media(model, lay({**HEARD, kind: one._replace(shown=one.shown + np.ones((), one.shown.dtype))}))
        changed = np.asarray((moved != found).any(axis=(0, 2)))
        own = (np.arange(len(changed)) >= first[kind]) & (np.arange(len(changed)) < first[kind] + count)
        assert changed.any() and not changed[~own].any()


def test_stretches_that_are_not_there_change_nothing(model):
    """The second sound has one stretch of two vectors: what stands behind it is seen by none of its tokens."""
    audio, start = HEARD['audio'], -9
    other = audio._replace(shown=np.where(np.arange(4)[:, None] < audio.size[..., 2:, None], audio.shown, 7.0))
    a, b = (media(model, lay({**HEARD, 'audio': one}))[:, start:-1] for one in (audio, other))
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    gone = audio._replace(size=audio.size * np.array([1, 0])[:, None])
    assert not np.asarray(media(model, lay({**HEARD, 'audio': gone}))[:, start + 4 : -1]).any()


def test_words_are_read_beside_those_that_ask(model):
    audio = HEARD['audio']
    other = audio._replace(words=np.array([[[1, 2, -1], [3, 4, 6]]], np.int32))
    changed = (media(model, lay()) != media(model, lay({**HEARD, 'audio': other}))).any(axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == [*range(len(changed) - 5, len(changed) - 1)]


def test_a_mesh_changes_nothing():
    """Rows on two devices: stretches of a medium, and the words beside them, go where the row is."""
    built = disturbed(lambda rngs: SENSES['audio'].build(None, 4, rngs=rngs))
    graph, params = nnx.split(built)
    heard = jax.tree.map(lambda a: np.concatenate([a, a]), HEARD['audio'])
    run = jax.jit(lambda params, heard: nnx.merge(graph, params)(heard, None))
    plain, mesh = run(params, heard), sharding.make_mesh(2, 1, 1)
    with sharding.use(mesh):
        put = lambda spec: lambda a: jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))
        spread = run(jax.tree.map(put(sharding.P()), params), jax.tree.map(put(sharding.P(sharding.ROWS)), heard))
    np.testing.assert_allclose(spread, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(fusion=systems.FUSIONS['cross'], connector=None), 'set fusion to Splice'),
        (dict(decoder=systems.AXES), 'no positions of three axes'),
        (dict(decoder=systems.EXPERT), 'no expert'),
    ],
)
def test_systems_without_places_in_a_line_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        systems.skeleton(dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(senses={'audio': dataclasses.replace(SENSES['audio'], frames=3)}), 'no 3 stretches of equal length'),
        (dict(encoder=NativeVit.Config(width=8, depth=1, block=systems.BLOCK)), 'the model has no Vit'),
    ],
)
def test_bad_senses(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes).media_spec()
