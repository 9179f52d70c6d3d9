# SPDX-License-Identifier: Apache-2.0
"""Tiles: which grid a picture gets, in which order its features are read, and which of them are left out."""

import dataclasses

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data.check import BadBatch, check
from mmjax.data.images import Fit
from mmjax.data.layout import Layout
from mmjax.data.pipeline import finite
from mmjax.data.tiles import Tiles
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Text, Video

PINPOINTS = Tiles(grids=((1, 2), (2, 1), (2, 2)))
# Frames of 4 x 4 pixels, 2 x 2 patches, a token each; up to two tiles beside the overview.
TILES = Tiles(grids=((1, 2), (2, 1)))
SPEC = MediaSpec(
    height=4, width=4, patch=2, frames=3, tokens=13, grid=lambda frames, rows, columns: (frames * 2, 2), newline=True
)
WIDE = Image(np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3))


@pytest.mark.parametrize(
    'size, grid',
    [((50, 40), (2, 2)), ((20, 10), (1, 2)), ((100, 210), (2, 1)), ((500, 100), (1, 2)), ((28, 28), (1, 2))],
)
def test_the_grid_that_keeps_most_and_wastes_least(size, grid):
    assert PINPOINTS.choose(size, 28) == grid


def test_rows_run_through_all_tiles_and_end():
    assert TILES.slots((8, 4), 4, 2, 12).tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 12, 6, 7, 10, 11, 12]
    assert TILES.slots((4, 8), 4, 2, 12).tolist() == [0, 1, 2, 3, 4, 5, 12, 6, 7, 12, 8, 9, 12, 10, 11, 12]
    # So flat a picture fills half of the larger copy's rows, the middle ones.
    flat = Tiles(grids=((2, 2),)).slots((8, 4), 4, 2, 20).tolist()
    assert flat == [0, 1, 2, 3, 6, 7, 10, 11, 20, 12, 13, 16, 17, 20]


def test_pixels_of_tiles_stand_where_their_features_are_read():
    frames = TILES.read(WIDE, (8, 4), Fit.Config(height=4, width=4).build())
    assert frames.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(np.concatenate([frames[1], frames[2]], axis=1), WIDE.pixels)


def layout(**changes):
    config = Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), max_tokens=32, max_media=3, tiles=TILES)
    return dataclasses.replace(config, **changes)


def test_layout_of_tiles():
    laid_out = layout().build(SPEC)
    (laid,) = laid_out(Document([WIDE, Text('ab')]))
    ((batch, _),) = finite([laid, laid], laid_out, 1)
    check(batch, laid_out.tokenizer.size, SPEC)
    assert batch.media_size[0].tolist() == [[3, 2, 2], [3, 2, 2], [0, 0, 0]]
    one = [0, 1, 2, 3, 4, 5, 8, 9, 12, 6, 7, 10, 11, 12]
    assert batch.slot[0].tolist() == [*one, -1, -1, *(13 + s for s in one), -1, -1]
    batch.slot[0, 1] = 0
    with pytest.raises(BadBatch, match='slot 0 twice'):
        check(batch, laid_out.tokenizer.size, SPEC)


def test_frames_of_videos_are_pictures_of_their_own():
    (laid,) = layout(max_tokens=40).build(SPEC)(Document([Video((WIDE, WIDE), (0.0, 1.0)), Text('ab')]))
    assert len(laid.media) == 2 and laid.media_size[:, 0].tolist() == [3, 3]


@pytest.mark.parametrize(
    'spec, changes',
    [(dict(frames=2), {}), (dict(newline=False), {}), ({}, dict(fit='pad')), ({}, dict(max_tokens=15))],
)
def test_what_cannot_be_tiled_is_refused(spec, changes):
    with pytest.raises(ValueError, match=r'layout\.tiles makes up to 3 frames|a picture takes up to 16 tokens'):
        layout(**changes).build(dataclasses.replace(SPEC, **spec))


def test_a_tower_reads_what_its_patches_cover():
    """Tiles of 5 x 5 pixels before a tower of 4 x 4: the last row and column of each are left out."""
    tiles = Tiles(grids=((1, 2),), side=5)
    picture = Image(np.arange(5 * 10 * 3, dtype=np.uint8).reshape(5, 10, 3))
    assert tiles.choose((10, 5), 4) == (1, 2)
    frames = tiles.read(picture, (10, 5), Fit.Config(height=4, width=4).build())
    np.testing.assert_array_equal(frames[1], picture.pixels[:4, :4])
    np.testing.assert_array_equal(frames[2], picture.pixels[:4, 5:9])
    whole = Fit.Config(height=5, width=5).build().read(picture)
    np.testing.assert_array_equal(frames[0], whole[:4, :4])
