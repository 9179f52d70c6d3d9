# SPDX-License-Identifier: Apache-2.0
"""Two ways to compute one thing: packed or separate, with a cache or at once, closed gates or no media."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import systems
from flax import nnx
from systems import FUSIONS, forward, gradient, lay, system

from mmjax.models.fusion import CrossAttention
from mmjax.models.vlm import Vlm


@pytest.mark.parametrize('fusion', list(FUSIONS))
@pytest.mark.parametrize('encoder, connector', [('vit', 'resampler'), ('patches', 'none')])
def test_packed_is_separate_for_loss_and_gradients(encoder, connector, fusion):
    c = system(encoder, connector, fusion)
    model = systems.build(c)
    packed, apart = lay(c, [['ab1cde', 'fg2h*']], 24), lay(c, [['ab1cde'], ['fg2h*']], 15)
    (a, grads), (b, expected) = gradient(model, packed), gradient(model, apart)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for (path, x), (_, y) in zip(nnx.to_flat_state(grads), nnx.to_flat_state(expected), strict=True):
        x, y = np.asarray(x.get_value()), np.asarray(y.get_value())
        # A bias of keys moves all scores of a query alike, so its gradient is zero but for rounding; a gate's is one
        # sum over all entries of all tokens, most of which cancel.
        size = 1.0 if path[-3:] == ('attn', 'k', 'bias') or path[-1].endswith('_gate') else np.abs(y).max()
        assert np.abs(x - y).max() <= 1e-5 * size, f'{path}: {np.abs(x - y).max()} of {size}'


@pytest.mark.parametrize('fusion', list(FUSIONS))
def test_a_document_does_not_touch_its_neighbours(fusion):
    c = system('patches', 'linear', fusion)
    model = systems.build(c)
    batch = lay(c, [['ab1c', 'de3f', 'gh']], 24)
    one, _ = forward(model, batch)
    two, _ = forward(model, lay(c, [['ab1c', 'xy5z', 'gh']], 24))
    starts = batch.span[0, :, 0]
    second = starts == np.unique(starts)[1]
    np.testing.assert_array_equal((one != two).any(axis=-1)[0], second)


SYSTEMS = {
    **{fusion: system('vit', 'mlp', fusion) for fusion in FUSIONS},
    'deep': dataclasses.replace(
        system(decoder=systems.AXES), encoder=systems.NATIVE, connector=systems.DEEP, state=None
    ),
    'expert, kinds': dataclasses.replace(
        system(decoder=dataclasses.replace(systems.EXPERT, kinds=2)), connector=systems.ENDS, signs=1
    ),
}


@pytest.mark.parametrize('name', SYSTEMS)
def test_cached_decoding_is_the_full_forward(name):
    c = SYSTEMS[name]
    model = systems.build(c)
    batch = lay(c, [['ab1cdefghijk'], ['a2bcdefghijkl'], ['mnopqrstuvwxyz']], 24)
    length = np.asarray((batch.span[..., 1] > 0).sum(axis=1))
    prompt = length - 5
    full, _ = forward(model, batch)
    # Prompts of different lengths, padded on the right; then each row goes on at its own place.
    keep = np.arange(24) < prompt[:, None]
    cut = batch._replace(span=batch.span * keep[..., None])
    first = int(prompt.max())
    cut = jax.tree.map(lambda x: x[:, :first] if x.ndim in (2, 3) and x.shape[1] == 24 else x, cut)
    hidden, cache = jax.jit(lambda m, b, k: m.prefill(b, k))(model, cut, model.init_cache(3, 24, jnp.float32))
    found = np.asarray(model.logits(hidden))
    for row in range(3):
        np.testing.assert_allclose(found[row, : prompt[row]], full[row, : prompt[row]], atol=1e-4)
    step = jax.jit(lambda m, *args: m.step(*args))
    rows = np.arange(3)
    for i in range(5):
        at = prompt + i
        looks = None if batch.media_span is None else batch.media_span[rows, at][:, None]
        hidden, cache = step(
            model, batch.tokens[rows, at][:, None], batch.span[rows, at][:, None],
            batch.position[rows, at][:, None], at, looks, cache,
        )  # fmt: skip
        np.testing.assert_allclose(model.logits(hidden)[:, 0], full[rows, at], atol=1e-4)


@pytest.mark.parametrize('every, first', [(1, None), (2, 0), (3, None)])
def test_closed_gates_leave_the_decoder_as_it_was(every, first):
    fusion = CrossAttention.Config(block=systems.GATED, every=every, first=first)
    c = dataclasses.replace(system('vit', 'resampler'), fusion=fusion)
    params = {path: 0 * x if path.endswith('_gate') else x for path, x in systems.draw(c).items()}
    own = {path: x for path, x in params.items() if path.startswith('decoder/') and '/xattn/' not in path}
    model, plain = systems.skeleton(c).merge(params), systems.skeleton(Vlm.Config(decoder=c.decoder)).merge(own)
    batch = lay(c, [['ab1cde', 'fg2h']], 16)
    assert (forward(model, batch)[0] == forward(plain, batch._replace(pixels=None, states=None))[0]).all()
