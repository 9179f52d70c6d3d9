# SPDX-License-Identifier: Apache-2.0
"""Positions: rotary and xPos against complex numbers and the published formulas, and what is added to the input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax import sharding
from mmjax.nn.positions import GridOffsets, Learned, Relative, Rotary, Sinusoidal, axes_of_pairs, offsets, rotate

RNG = np.random.default_rng(0)
POSITION = jnp.array([[0, 1, 2, 3, 4], [7, 0, 1, 50, 9]])


def heads(width: int) -> jnp.ndarray:
    return jnp.asarray(RNG.normal(size=(2, 5, 3, width)), jnp.float32)


def turned(x: np.ndarray, angle: np.ndarray, interleaved: bool) -> np.ndarray:
    """Multiplies pairs of entries, as complex numbers, by e^(i angle); angle is [B, L, pairs]."""
    half = x.shape[-1] // 2
    real, imaginary = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    z = (real + 1j * imaginary) * np.exp(1j * angle)[:, :, None]
    return np.stack([z.real, z.imag], -1).reshape(x.shape) if interleaved else np.concatenate([z.real, z.imag], -1)


@pytest.mark.parametrize('interleaved', [False, True])
@pytest.mark.parametrize('fraction, theta, factor', [(1.0, 10_000.0, 1.0), (0.5, 25_000.0, 1.0), (1.0, 500_000.0, 4.0)])
def test_rotary(interleaved, fraction, theta, factor):
    c = Rotary.Config(theta=theta, fraction=fraction, interleaved=interleaved, factor=factor)
    x, width = heads(8), int(8 * fraction)
    angle = np.asarray(POSITION)[..., None] / factor * theta ** (-np.arange(0, width, 2) / width)
    want = np.concatenate([turned(np.asarray(x)[..., :width], angle, interleaved), x[..., width:]], axis=-1)
    for key in (False, True):
        np.testing.assert_allclose(rotate(x, c.build(8)(POSITION), key=key), want, atol=1e-5)


def test_xpos_is_the_published_one():
    # torchscale/component/xpos_relative_position.py: queries times scale^(m / 512), keys divided, interleaved pairs.
    x, width, position = heads(8), 8, np.asarray(POSITION)
    turn = Rotary.Config(interleaved=True, decay=512.0).build(width)(POSITION)
    base = (np.arange(0, width, 2) + 0.4 * width) / (1.4 * width)
    angle = position[..., None] / 10_000 ** (np.arange(0, width // 2) / (width // 2))
    gain = np.repeat(base ** (position[..., None] / 512), 2, axis=-1)[:, :, None]
    np.testing.assert_allclose(rotate(x, turn, key=False), turned(np.asarray(x), angle, True) * gain, atol=1e-5)
    np.testing.assert_allclose(rotate(x, turn, key=True), turned(np.asarray(x), angle, True) / gain, atol=1e-5)


@pytest.mark.parametrize('decay', [None, 512.0])
def test_scores_depend_on_distance_alone(decay):
    rotary = Rotary.Config(decay=decay).build(8)
    q, k = heads(8)[:1, :1], heads(8)[:1, :1]
    at = lambda x, place, key: rotate(x, rotary(jnp.array([[place]])), key=key)
    score = lambda i, j: float((at(q, i, False) * at(k, j, True)).sum())
    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def test_no_turn_changes_nothing():
    x = heads(8)
    assert rotate(x, None, key=True) is x


def test_rotary_refuses_an_odd_width():
    with pytest.raises(ValueError, match=r'0\.5 of head width 6 is 3, which is odd'):
        Rotary.Config(fraction=0.5).build(6)


def test_sinusoidal_is_fairseq():
    got = Sinusoidal.Config(offset=2).build(6, rngs=nnx.Rngs(0))(POSITION)
    rate = np.exp(np.arange(3) * -(np.log(10_000) / 2))  # the last of half the width divides by 10000
    angle = (np.asarray(POSITION) + 2)[..., None] * rate
    np.testing.assert_allclose(got, np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), atol=1e-5)


def test_learned_counts_from_its_offset_and_stays_in_its_table():
    part = Learned.Config(length=10, offset=2).build(6, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(part(POSITION), part.table[...][np.minimum(np.asarray(POSITION) + 2, 9)])


def published_bucket(ahead: int, two_way: bool, buckets: int, reach: int) -> int:
    """Raffel et al. 2020, as in mesh_tensorflow/transformer/transformer_layers.py, with exact logarithms."""
    shift = 0
    if two_way:
        buckets //= 2
        shift, distance = buckets * (ahead > 0), abs(ahead)
    else:
        distance = max(-ahead, 0)
    alone = buckets // 2
    if distance < alone:
        return shift + distance
    wide = math.log(distance / alone) / math.log(reach / alone) * (buckets - alone)
    return shift + min(alone + math.floor(wide + 1e-9), buckets - 1)


@pytest.mark.parametrize('two_way', [False, True])
@pytest.mark.parametrize('buckets, reach', [(32, 128), (16, 20)])
def test_relative_is_the_published_one(two_way, buckets, reach):
    part = Relative.Config(buckets=buckets, reach=reach, two_way=two_way).build(3, rngs=nnx.Rngs(0))
    place, keys = np.array([[0, 3, 140], [150, 1, 64]]), 160
    table = np.asarray(part.table.get_value())
    want = [
        [[table[published_bucket(j - i, two_way, buckets, reach)] for j in range(keys)] for i in row] for row in place
    ]
    np.testing.assert_array_equal(part(jnp.asarray(place), keys), np.transpose(want, (0, 3, 1, 2)))


def test_relative_on_a_mesh():
    part, place = Relative.Config().build(2, rngs=nnx.Rngs(0)), jnp.array([[5], [0]])
    want = part(place, 7)
    with sharding.use(mesh := sharding.make_mesh(1, 2, 1)):
        rows = jax.device_put(place, jax.sharding.NamedSharding(mesh, sharding.P(sharding.ROWS)))
        np.testing.assert_array_equal(jax.jit(lambda x: part(x, 7))(rows), want)


@pytest.mark.parametrize('changes', [dict(buckets=6, two_way=True), dict(buckets=3), dict(reach=16)])
def test_relative_refuses_what_cannot_be_cut(changes):
    with pytest.raises(ValueError, match='must be even'):
        Relative.Config(**changes).build(2, rngs=nnx.Rngs(0))


def test_offsets_of_a_grid():
    assert offsets((1, 3), 1).tolist() == [[7, 5, 5, 5], [6, 2, 1, 0], [6, 3, 2, 1], [6, 4, 3, 2]]
    index = offsets((2, 3), 0)
    assert index.shape == (6, 6) and sorted({*index.ravel().tolist()}) == list(range(15))
    # One row down and one column to the right is one offset, wherever it begins.
    assert index[4, 0] == index[5, 1] != index[3, 1]


def test_numbers_of_offsets_lie_by_head_query_and_key():
    part = GridOffsets.Config(grid=(1, 2), extra=1).build(2, rngs=nnx.Rngs(0))
    assert part.table.shape == (6, 2) and not part().any()
    part.table.set_value(jnp.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(part()[0, 1], [[11, 7, 7], [9, 3, 1], [9, 5, 3]])
    with pytest.raises(ValueError, match='none or one token'):
        GridOffsets.Config(grid=(1, 2), extra=2).build(2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    'sections, mixed, axes',
    [((3, 2, 1), False, (0, 0, 0, 1, 1, 2)), ((3, 2, 1), True, (0, 1, 2, 0, 1, 0)), ((2, 1, 1), True, (0, 1, 2, 0))],
)
def test_axes_of_pairs(sections, mixed, axes):
    assert axes_of_pairs(sections, mixed) == axes


def test_positions_of_three_axes_turn_their_own_pairs():
    rotary, plain = Rotary.Config(sections=(2, 1, 1)).build(8), Rotary.Config().build(8)
    place = jnp.array([[0, 3, 7]])
    same = rotary(jnp.stack([place] * 3, axis=-1))
    np.testing.assert_array_equal(same.cos, plain(place).cos)
    rows = rotary(jnp.stack([place, place + 1, place], axis=-1))
    assert (rows.sin != same.sin).any(axis=(0, 1)).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match='sections'):
        rotary(place)
    with pytest.raises(ValueError, match='are not the 4 pairs'):
        Rotary.Config(sections=(2, 2, 1)).build(8)
