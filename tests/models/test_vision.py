# SPDX-License-Identifier: Apache-2.0
"""The vision tower: pixels, patches, the switches of public towers, chosen layers, resized position tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed

from mmjax import sharding
from mmjax.models.vision import Pool, Vit, normalise, patches, resize_positions, windows
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp

ATTN = Attention.Config(heads=2, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
BLOCK = Block.Config(attn=ATTN, mlp=Mlp.Config(width=12, act='quick_gelu'))
# The switches of CLIP: cls, norms on both sides, no bias of the patches. And of SigLIP: none of these, and a pool.
CLIP = Vit.Config(
    size=(8, 12), patch=4, width=8, depth=3, block=BLOCK, cls=True, patch_bias=False, pre_norm=Norm.Config()
)
POOL = Pool.Config(attn=ATTN, mlp=Mlp.Config(width=12))
SIGLIP = dataclasses.replace(CLIP, cls=False, patch_bias=True, pre_norm=None, pool=POOL)
PIXELS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 2, 1, 8, 12, 3)), jnp.uint8)


def tower(c: Vit.Config) -> Vit:
    return disturbed(lambda rngs: c.build(rngs=rngs))


def layers(vit: Vit, x: jax.Array, count: int) -> jax.Array:
    """Runs blocks one by one; every token sees all others of its picture."""
    n, p = x.shape[:2]
    span = jnp.tile(jnp.array([0, p]), (n, p, 1))
    for i in range(count):
        x = jax.tree.map(lambda w, i=i: w[i], vit.blocks)(x, span)[0]
    return x


def entered(vit: Vit, pixels: np.ndarray) -> np.ndarray:
    """Computes what enters the first block, patch by patch."""
    p = {path: np.asarray(w.get_value()) for path, w in sharding.paths(vit).items()}
    x = (pixels / 255 - np.array(vit.mean)) / np.array(vit.std)
    rows = []
    for row in range(0, pixels.shape[1], 4):
        for column in range(0, pixels.shape[2], 4):
            flat = x[:, row : row + 4, column : column + 4].reshape(-1, 48)
            rows.append(flat @ p['patch/kernel'] + p.get('patch/bias', 0))
    if 'cls' in p:
        rows.insert(0, np.broadcast_to(p['cls'], rows[0].shape))
    return np.stack(rows, axis=1) + p['position/table']


@pytest.mark.parametrize('c', [CLIP, SIGLIP], ids=['clip', 'siglip'])
def test_pixels_enter_as_normalised_patches(c):
    vit = tower(dataclasses.replace(c, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    pixels = PIXELS[:, 0, 0]
    want = entered(vit, np.asarray(pixels, np.float64))
    want = want if vit.pre_norm is None else vit.pre_norm(jnp.asarray(want, jnp.float32))
    np.testing.assert_allclose(jax.jit(vit.enter)(pixels), want, atol=2e-5)
    # Pixels that come as floats are normalised already.
    floats = (np.asarray(pixels) / 255 - np.array(vit.mean)) / np.array(vit.std)
    np.testing.assert_allclose(jax.jit(vit.enter)(jnp.asarray(floats, jnp.float32)), want, atol=2e-5)


def test_patches_are_in_raster_order_row_column_channel():
    got = patches(jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3), 2)
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    assert got.shape == (2, 6, 12)
    np.testing.assert_array_equal(got[1, 4], image[1, 2:4, 2:4].ravel())  # second row, second column


@pytest.mark.parametrize(
    'changes, run, normed, first',
    [
        (dict(), 3, True, 1),
        (dict(features_normed=False), 3, False, 1),
        (dict(layer=-2, features_normed=False), 2, False, 1),
        (dict(layer=-3, keep_cls=True), 1, True, 0),
        (dict(cls=False), 3, True, 0),
    ],
    ids=['last', 'not normed', 'one before', 'first, with cls', 'no cls'],
)
def test_features_are_of_the_asked_layer(changes, run, normed, first):
    c = dataclasses.replace(CLIP, **changes)
    vit = tower(c)
    got = jax.jit(vit)(PIXELS)

    @jax.jit
    def by_hand(pixels):
        x = layers(vit, vit.enter(pixels), run)
        return (vit.norm(x) if normed else x)[:, first:]

    np.testing.assert_allclose(got[:, 1, 0], by_hand(PIXELS[:, 1, 0]), atol=2e-5)
    assert got.shape == (2, 2, 1, c.tokens, 8)


def test_layers_beyond_the_asked_one_are_not_computed():
    vit = tower(dataclasses.replace(CLIP, layer=-2, features_normed=False))
    spoilt = jax.tree.map(lambda w: w.at[-1].set(jnp.nan), vit.blocks)
    clean = jax.jit(vit)(PIXELS)
    vit.blocks = spoilt
    np.testing.assert_array_equal(jax.jit(vit)(PIXELS), clean)
    assert np.isfinite(clean).all()


@pytest.mark.parametrize('deep, layer', [((0, 2), -1), ((1,), -2), ((0,), -2)])
def test_depths_stand_behind_the_features(deep, layer):
    vit = tower(dataclasses.replace(CLIP, deep=deep, layer=layer, keep_cls=True))
    x = vit.enter(PIXELS[:, 0, 0])
    expected = [vit.norm(layers(vit, x, 4 + layer)), *(layers(vit, x, i + 1) for i in deep)]
    got = jax.jit(vit)(PIXELS)[:, 0, 0]
    assert vit.width == got.shape[-1] == 8 * (1 + len(deep))
    np.testing.assert_allclose(got, np.concatenate(expected, axis=-1), atol=2e-5)


def test_frames_beyond_a_mediums_size_are_zero_and_do_not_matter():
    pixels = jnp.concatenate([PIXELS, PIXELS[::-1]], axis=2)  # two frames
    size = jnp.array([[[2, 2, 3], [1, 2, 3]], [[0, 0, 0], [2, 2, 3]]])
    run = jax.jit(tower(CLIP))
    got = run(pixels, size)
    assert not np.any(got[0, 1, 1]) and not np.any(got[1, 0])
    whole = run(pixels, size.at[..., 0].set(2))
    for b, m, t in ((0, 0, 1), (0, 1, 0), (1, 1, 1)):
        np.testing.assert_array_equal(got[b, m, t], whole[b, m, t])


@pytest.mark.parametrize('c', [CLIP, SIGLIP], ids=['cls', 'pool'])
def test_pooled(c):
    vit = tower(dataclasses.replace(c, layer=-2))  # the choice of features does not change what is pooled
    pixels = PIXELS[:, 0, 0]

    @jax.jit
    def by_hand(pixels):
        x = layers(vit, vit.enter(pixels), 3)
        if vit.pool is None:
            return vit.norm(x[:, 0])
        x, pool = vit.norm(x), vit.pool
        probe = jnp.tile(pool.probe[...], (2, 1, 1))
        y = pool.attn(probe, pool.attn.keys_values(x), jnp.tile(jnp.array([0, x.shape[1]]), (2, 1, 1)))
        return (y + pool.mlp(pool.norm(y)))[:, 0]

    np.testing.assert_allclose(jax.jit(vit.pooled)(pixels), by_hand(pixels), atol=2e-5)


def test_packed_pictures_equal_separate_ones():
    """Two pictures of one and two rows of patches share a row of tokens, kept apart by their spans."""
    vit, x = tower(SIGLIP), array(1, 9, 8)
    span = jnp.array([[[0, 3]] * 3 + [[3, 9]] * 6])
    encode = jax.jit(vit.encode, static_argnums=1)
    packed = encode(x, 3, span)
    np.testing.assert_allclose(packed[:, :3], encode(x[:, :3], 3), atol=1e-5)
    np.testing.assert_allclose(packed[:, 3:], encode(x[:, 3:], 3), atol=1e-5)


def test_resize_positions():
    # As torch.nn.functional.interpolate(arange(4.0), size=8, mode=..., align_corners=False) has it: a quarter of a step
    # away, bicubic weighs the four neighbours -27/256, 225/256, 67/256, -9/256.
    line = np.arange(4.0)[:, None]
    bilinear = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    near, far = np.array([-27, 225, 67, -9]) / 256, np.array([-9, 67, 225, -27]) / 256
    edge = np.pad(np.arange(4.0), 2, mode='edge')
    bicubic = [w @ edge[i + o : i + o + 4] for i in range(4) for w, o in ((far, 0), (near, 1))]
    np.testing.assert_allclose(resize_positions(line, (1, 4), (1, 8), method='bilinear')[:, 0], bilinear, atol=1e-9)
    np.testing.assert_allclose(resize_positions(line, (1, 4), (1, 8))[:, 0], bicubic, atol=1e-9)
    table = np.random.default_rng(0).normal(size=(1 + 6, 5)).astype(np.float32)
    np.testing.assert_allclose(resize_positions(table, (2, 3), (2, 3), extra=1), table, atol=1e-6)
    tall = resize_positions(table, (2, 3), (4, 3), extra=1)
    assert tall.shape == (13, 5) and tall.dtype == np.float32
    np.testing.assert_array_equal(tall[0], table[0])
    turned = table[1:].reshape(2, 3, 5).swapaxes(0, 1).reshape(6, 5)
    wide = resize_positions(turned, (3, 2), (3, 4)).reshape(3, 4, 5).swapaxes(0, 1).reshape(12, 5)
    np.testing.assert_allclose(tall[1:], wide, atol=1e-6)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: tower(dataclasses.replace(CLIP, size=(8, 10))), '8x10 pixels is no multiple of the patch, 4'),
        (lambda: tower(dataclasses.replace(CLIP, stem=(4, 4, 4))), 'patch 4 cannot be halved by each of the 3 conv'),
        (lambda: tower(dataclasses.replace(CLIP, layer=-4)), 'layer -4 of a tower of depth 3'),
        (lambda: tower(dataclasses.replace(CLIP, deep=(2,), layer=-2)), r'deep \(2,\) names blocks 0 to 1'),
        (lambda: tower(dataclasses.replace(CLIP, layer=0)), 'layer 0 of a tower of depth 3'),
        (lambda: tower(CLIP).enter(PIXELS[:, 0, 0].swapaxes(1, 2)), r'pictures of \(12, 8\) pixels'),
        (lambda: resize_positions(np.ones((4, 1)), (2, 2), (3, 3), method='area'), "'area'; choose one of"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_windows_are_cut_from_the_padded_picture():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    found = windows(jnp.asarray(pixels), 4, 1)
    assert found.shape == (2, 2, 3, 9 * 48)
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for row, column in ((0, 0), (1, 2), (0, 1)):
        window = padded[:, 4 * row : 4 * row + 12, 4 * column : 4 * column + 12]
        own = np.asarray(found[:, row, column]).reshape(2, 3, 3, 4, 4, 3)
        assert np.array_equal(own.transpose(0, 1, 3, 2, 4, 5).reshape(2, 12, 12, 3), window)


def test_a_stem_is_convolutions_of_stride_two():
    model = tower(dataclasses.replace(CLIP, stem=(5,), overlap=1))
    pixels = PIXELS[:, 0, 0]
    got = model.enter(pixels)
    kernel, bias = model.stem[0].kernel[...], model.stem[0].bias[...]
    # A window lists patches, then what is in a patch; a convolution's kernel lists rows and columns of pixels.
    kernel = kernel.reshape(3, 3, 2, 2, 3, 5).transpose(0, 2, 1, 3, 4, 5).reshape(6, 6, 3, 5)
    x = normalise(jnp.asarray(pixels), CLIP.mean, CLIP.std)
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    x = jax.lax.conv_general_dilated(x, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=dimensions)
    x = windows(jax.nn.relu(x + bias), CLIP.patch // 2, 1)
    x = model.patch(x.reshape(x.shape[0], -1, x.shape[-1]))
    want = jnp.concatenate([jnp.broadcast_to(model.cls[...], x[:, :1].shape), x], axis=1) + model.position.table[...]
    want = want if model.pre_norm is None else model.pre_norm(want)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_table_of_offsets_for_all_blocks_or_one_each():
    c = dataclasses.replace(CLIP, relative='shared', table=False, depth=2)
    shared, own = tower(c), tower(dataclasses.replace(c, relative='own'))
    assert shared.position is None and own.relative.table.shape == (2, *shared.relative.table.shape)
    own.relative.table.set_value(jnp.stack([shared.relative.table[...]] * 2))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 8)), jnp.float32)
    encode = jax.jit(lambda vit, x: vit.encode(x, 2))
    alike = encode(shared, x)
    own.blocks = shared.blocks
    np.testing.assert_allclose(encode(own, x), alike, rtol=1e-5, atol=1e-6)
    own.relative.table.set_value(own.relative.table[...].at[1].add(1.0).at[1, 0].add(-2.0))
    assert np.abs(encode(own, x) - alike).max() > 1e-3


def test_a_picture_is_a_film_of_equal_frames():
    vit, film = tower(CLIP), tower(dataclasses.replace(CLIP, film=2))
    kernel = vit.patch.kernel[...]
    film.patch.kernel.set_value(jnp.concatenate([0.25 * kernel, 0.75 * kernel]))
    film.cls, film.position, film.pre_norm = vit.cls, vit.position, vit.pre_norm
    enter = jax.jit(lambda vit: vit.enter(PIXELS[:, 0, 0]))
    np.testing.assert_allclose(enter(film), enter(vit), rtol=1e-4, atol=1e-5)


def test_the_mean_of_patches_leaves_cls_out():
    vit = tower(dataclasses.replace(CLIP, pool_mean=True, depth=1))
    both = lambda vit, x: (vit.pooled(x), vit.norm(vit.encode(vit.enter(x), 1)[:, 1:].mean(axis=1)))
    found, expected = jax.jit(both)(vit, PIXELS[:, 0, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
