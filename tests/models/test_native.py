# SPDX-License-Identifier: Apache-2.0
"""The tower for pictures of any shape: padding changes nothing, windows end where they end, squares leave in order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import disturbed
from flax import nnx

from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.deepstack import DeepStack
from mmjax.models.native import NativeVit, places
from mmjax.models.vlm import together
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp

TOWER = NativeVit.Config(
    patch=2,
    grid=(4, 8),
    width=8,
    depth=2,
    block=Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=8)),
    table=(3, 3),
    deep=(0,),
)
MAPS = MlpConnector.Config()
WINDOWS = dataclasses.replace(TOWER, window=1, table=None, deep=())
SIZE = np.array([[[1, 2, 6], [1, 4, 4]]], np.int32)
PIXELS = np.random.default_rng(0).standard_normal((1, 2, 1, 8, 16, 3)).astype(np.float32)


def run(tower, pixels, size):
    return np.asarray(jax.jit(lambda p, s: tower(p, s))(jnp.asarray(pixels), jnp.asarray(size)))


def made(c):
    return disturbed(lambda rngs: c.build(rngs=rngs))


def test_the_grid_round_a_picture_changes_nothing():
    wide = run(made(TOWER), PIXELS, SIZE)
    assert wide.shape == (1, 2, 1, 32, 16)
    narrow = run(made(dataclasses.replace(TOWER, grid=(2, 6))), PIXELS[:, :1, :, :4, :12], SIZE[:, :1])
    np.testing.assert_allclose(wide[0, 0, 0, :12], narrow[0, 0, 0], rtol=2e-4, atol=2e-5)


def test_a_budget_leaves_out_only_what_is_not_there():
    few = dataclasses.replace(TOWER, budget=16, window=1)
    all_, some = run(made(dataclasses.replace(TOWER, window=1)), PIXELS, SIZE), run(made(few), PIXELS, SIZE)
    assert some.shape == (1, 2, 1, 16, 16)
    for medium, count in enumerate((12, 16)):
        np.testing.assert_allclose(some[0, medium, 0, :count], all_[0, medium, 0, :count], rtol=2e-4, atol=2e-5)


def test_windows_see_themselves_and_leave_in_raster_order():
    tower, moved = made(WINDOWS), PIXELS.copy()
    # One pixel of the square in row 1, column 0 of the second picture, which is square 2 of its 2 x 2.
    moved[0, 1, 0, 5, 1] += 1.0
    changed = (run(tower, PIXELS, SIZE) != run(tower, moved, SIZE)).any(axis=-1)[0, 1, 0, :16]
    assert changed.tolist() == [False] * 8 + [True] * 4 + [False] * 4
    full = made(dataclasses.replace(WINDOWS, full=(1,)))
    assert (run(full, PIXELS, SIZE) != run(full, moved, SIZE)).any(axis=-1)[0, 1, 0, :16].all()


def test_places():
    c = dataclasses.replace(WINDOWS, grid=(2, 8))
    place = places(c, jnp.array([2]), jnp.array([6]))
    assert place.raster[0, :12].tolist() == [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13]
    assert place.whole[0].tolist() == [[0, 12]] * 12 + [[0, 0]] * 4
    assert place.windows[0].tolist() == [[0, 4]] * 4 + [[4, 8]] * 4 + [[8, 12]] * 4 + [[0, 0]] * 4
    # Two squares on the side of a window: what is left of the second has one column of them.
    two = places(dataclasses.replace(c, grid=(4, 8), window=2), jnp.array([4]), jnp.array([6]))
    assert two.windows[0, :24].tolist() == [[0, 16]] * 16 + [[16, 24]] * 8


def test_frames_of_a_video_go_in_pairs():
    tower = made(dataclasses.replace(WINDOWS, grid=(2, 2)))
    pixels = np.random.default_rng(1).standard_normal((1, 1, 3, 4, 4, 3)).astype(np.float32)
    y = run(tower, pixels, np.array([[[3, 2, 2]]], np.int32))
    assert y.shape == (1, 1, 2, 4, 8)
    # The last one stands alone, so it is shown twice, as a picture is.
    alone = run(tower, pixels[:, :, 2:], np.array([[[1, 2, 2]]], np.int32))
    np.testing.assert_allclose(y[:, :, 1:], alone, rtol=1e-5, atol=1e-6)


def test_tokens_of_frames_come_together():
    x = jnp.arange(2 * 6.0).reshape(2, 6, 1)
    assert together(x, jnp.array([2, 3]), 2)[..., 0].tolist() == [[0, 1, 3, 4, 5, 5], [6, 7, 8, 9, 10, 11]]


def test_each_depth_has_its_own_map():
    maps = MlpConnector.Config(hidden=6, merge=2)
    part = disturbed(lambda rngs: DeepStack.Config(first=maps, deep=maps, levels=2).build(12, 4, rngs=rngs))
    x, count = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 12)), jnp.float32), jnp.array([8])
    y = part(x, count)
    assert y.shape == (1, 2, 12)
    moved = part(x.at[..., 4:8].add(1.0), count)
    assert (y != moved).any(axis=(0, 1)).tolist() == [False] * 4 + [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda r: dataclasses.replace(TOWER, grid=(3, 4)).build(rngs=r), 'no whole number of squares of 2 x 2'),
        (lambda r: dataclasses.replace(TOWER, deep=(2,)).build(rngs=r), 'name blocks 0 to 1'),
        (lambda r: dataclasses.replace(TOWER, budget=10).build(rngs=r), 'a whole number of squares'),
        (lambda r: dataclasses.replace(TOWER, budget=36).build(rngs=r), 'at most the 32 of the grid'),
        (lambda r: DeepStack.Config(first=MAPS, deep=MAPS, levels=2).build(8, 4, rngs=r), 'cannot share features of 8'),
        (lambda r: DeepStack.Config(first=MAPS, deep=MAPS, levels=1).build(8, None, rngs=r), 'Splice'),
    ],
)
def test_what_cannot_work_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(nnx.Rngs(0))
