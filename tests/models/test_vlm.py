# SPDX-License-Identifier: Apache-2.0
"""The vision-language model: every composition runs, media reach only those who see them, packing changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from flax import nnx
from jax.sharding import NamedSharding
from systems import CONNECTORS, ENCODERS, FUSIONS, forward, gradient, lay, system

from mmjax import sharding
from mmjax.models.budget import BudgetVit
from mmjax.models.patches import Patches
from mmjax.models.region_sampler import RegionSampler
from mmjax.models.resampler import Resampler
from mmjax.models.vlm import of_media
from mmjax.objectives.next_token import next_token
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P

# The kept cls token changes only how many features there are.
EVERY = [(e, c, f) for e in ENCODERS for c in CONNECTORS for f in FUSIONS if e != 'vit+cls' or c == 'linear']


@pytest.mark.parametrize('encoder, connector, fusion', EVERY)
def test_every_composition_reads_its_media_and_nothing_else(encoder, connector, fusion):
    c = system(encoder, connector, fusion)
    model = systems.build(c)
    batch = lay(c, [['ab1c*', 'de'], ['fgh']], 24)
    logits, media = forward(model, batch)
    assert np.isfinite(media).all() and not np.isnan(logits).any()
    tokens = c.media_spec().tokens
    assert (media[0, tokens : 2 * tokens] == 0).all() and (media[1, : 2 * tokens] == 0).all(), 'absent media are zero'
    # Other pixels in the picture, and noise where there is none.
    noise = np.random.default_rng(0).integers(0, 256, batch.pixels.shape).astype(np.uint8)
    changed, _ = forward(model, batch._replace(pixels=noise))
    differs = np.asarray((logits != changed).any(axis=-1))
    first, last = 2, int(np.argmax(batch.span[0, :, 0] > 0))
    assert not differs[1].any() and not differs[0, :first].any() and not differs[0, last:].any()
    assert differs[0, first:last].all()
    moved, _ = forward(model, batch._replace(states=batch.states + 1))
    assert (logits[0, last - 1] != moved[0, last - 1]).any() and (logits[0, : last - 1] == moved[0, : last - 1]).all()


@pytest.mark.parametrize('encoder, connector, fusion', [x for x in EVERY if x[0] == 'vit' or x[1] == 'linear'])
def test_compositions_trace_on_a_mesh(encoder, connector, fusion):
    c = system(encoder, connector, fusion)
    mesh = sharding.make_mesh(2, 2, 2)
    abstract = jax.eval_shape(lambda: c.build(rngs=nnx.Rngs(0)))
    specs, skeleton = sharding.param_specs(abstract, mesh), Skeleton(abstract)
    on = lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
    params = {path: on(x, specs[path]) for path, x in flatten(abstract).items()}
    batch = jax.tree.map(lambda x: on(x, P(ROWS, *(None,) * (x.ndim - 1))), lay(c, [['ab1c', 'de']] * 8, 16))
    with sharding.use(mesh):
        loss = lambda params, batch: next_token(skeleton.merge(params), batch)[0]
        grads = jax.eval_shape(jax.grad(loss), params, batch)
    assert grads.keys() == params.keys()


@pytest.mark.parametrize('connector', ['none', 'pool', 'resampler'])
@pytest.mark.parametrize('fusion', list(FUSIONS))
def test_absent_frames_and_media_have_finite_gradients_and_no_effect(connector, fusion):
    c = system('vit', connector, fusion, frames=2)
    model = systems.build(c)
    batch = lay(c, [['ab1c'], ['d']], 20, frames=1)
    noisy = np.array(batch.pixels)
    noisy[:, :, 1] = 77
    loss, grads = gradient(model, batch)
    again, _ = gradient(model, batch._replace(pixels=noisy))
    assert loss == again
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    both = lay(c, [['ab1c'], ['d']], 20, frames=2)
    if connector != 'none':
        assert gradient(model, both)[0] != loss, 'a second frame is seen'


def test_text_alone_needs_no_pixels():
    for fusion in FUSIONS:
        c = system(fusion=fusion)
        model = systems.build(c)
        batch = lay(c, [['abc', 'def']], 8)
        with_blank, _ = forward(model, batch)
        without = jax.jit(lambda m, b: m.logits(m(b)))(model, batch._replace(pixels=None, media_size=None, states=None))
        np.testing.assert_allclose(with_blank, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'encoder, connector, frames, size, grid, tokens',
    [
        ('vit', 'mlp', 1, (1, 2, 3), (2, 3), 6),
        ('vit', 'linear', 4, (3, 2, 3), (6, 3), 24),
        ('vit+cls', 'linear', 1, (1, 2, 3), (1, 7), 7),
        ('vit', 'pool', 4, (4, 2, 3), (1, 3), 3),
        ('vit', 'resampler', 2, (1, 2, 3), (1, 2), 2),
        ('patches', 'none', 1, (1, 2, 1), (2, 1), 6),
    ],
)
def test_media_spec(encoder, connector, frames, size, grid, tokens):
    spec = system(encoder, connector, frames=frames).media_spec()
    assert (spec.height, spec.width, spec.patch, spec.frames, spec.state_width) == (8, 12, 4, frames, systems.STATE)
    assert spec.grid(*size) == grid and spec.tokens == tokens and spec.in_sequence
    assert spec.varying == (encoder == 'patches')
    assert not system(fusion='cross').media_spec().in_sequence


@pytest.mark.parametrize('signs, kinds', [(0, '..111..1'), (1, '.1111111'), (2, '11111111')])
def test_media_and_their_signs_are_of_one_kind(signs, kinds):
    slot = jnp.array([[-1, -1, 0, 1, 2, -1, -1, 0]], jnp.int32)
    assert ''.join('.1'[int(one)] for one in np.asarray(of_media(slot, signs))[0]) == kinds


def test_a_region_reads_its_own_picture_where_its_points_lie():
    sampler = RegionSampler.Config(points=4, anchors=(2,), neighbours=(2,))
    tower = dataclasses.replace(systems.VIT, depth=1, keep_cls=True)
    model = systems.build(dataclasses.replace(system(), encoder=tower, region_sampler=sampler, state=None))
    features = np.random.default_rng(0).standard_normal((2, 7, systems.WIDTH)).astype(np.float32)
    corner = np.tile(np.array([[0.0, 0.0], [0.2, 0.1]], np.float32), (2, 1))
    points = np.stack([corner, corner, corner])[None]
    batch = lay(system(state=None), [['ab']], 4, media=2)
    batch = batch._replace(points=jnp.asarray(points), points_of=jnp.asarray([[0, 1, -1]], jnp.int32))
    read = jax.jit(lambda m, x: m._regions(batch, x))
    tokens = np.asarray(read(model, jnp.asarray(features)))
    assert tokens.shape == (1, 3, systems.WIDTH) and (tokens[0, 2] == 0).all() and (tokens[0, 0] != tokens[0, 1]).any()
    # Far corner and cls token of the first picture, and all of the second.
    features[0, [0, 6]], features[1] = 9, 9
    moved = np.asarray(read(model, jnp.asarray(features)))
    np.testing.assert_array_equal(moved[0, 0], tokens[0, 0])
    assert (moved[0, 1] != tokens[0, 1]).any()


def test_a_budget_is_the_most_tokens_of_a_picture():
    c = system(connector='linear', encoder='vit', state=None)
    tower = BudgetVit.Config(patch=4, grid=(4, 6), budget=8, width=16, depth=1, block=systems.BLOCK)
    spec = dataclasses.replace(c, encoder=tower).media_spec()
    assert (spec.tokens, spec.budget, spec.varying, spec.height, spec.width) == (8, 8, True, 16, 24)


@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(connector=None, decoder=dataclasses.replace(systems.DECODER, width=32)), 'connector'),
        (dict(encoder=Patches.Config(patch=4, grid=(2, 3)), frames=2), 'varying'),
        (dict(connector=Resampler.Config(order=2)), 'order'),
        (dict(decoder=systems.EXPERT, fusion=FUSIONS['cross']), 'expert'),
        (dict(decoder=dataclasses.replace(systems.DECODER, kinds=3)), 'kinds'),
        (dict(region_sampler=RegionSampler.Config(), fusion=FUSIONS['cross']), 'region_sampler'),
        (dict(decoder=dataclasses.replace(systems.DECODER, kinds=2), fusion=FUSIONS['cross']), 'kinds'),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(system(), **changes).build(rngs=nnx.Rngs(0))
