# SPDX-License-Identifier: Apache-2.0
"""Pictures take as many tokens as transformers counts, size by size; where they do not, how and why is said here.

tests/golden/write_sizes.py wrote the numbers.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from configs import args
from mmjax.config import load_config
from mmjax.data.tiles import Tiles
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Text

FOLDER = pathlib.Path(args.__file__).parent
COUNTED = json.loads((pathlib.Path(__file__).parents[1] / 'golden' / 'picture_tokens.json').read_text())
SIZES = [tuple(size) for size in COUNTED['sizes']]
WIDE = ['model.encoder.grid=(128,128)', 'model.encoder.budget=4096']


def laid(spec, size, changes=()):
    """Returns a picture of this size as the layout of a published config takes it."""
    key = spec, tuple(changes)
    if key not in LAYOUTS:
        run = load_config(f'{FOLDER}/{spec}', changes)
        words = Bytes.Config(special=run.layout.special_tokens())
        LAYOUTS[key] = dataclasses.replace(run.layout, tokenizer=words, max_tokens=16_384, coordinates=None).build(
            run.model.media_spec()
        )
    # Only the size of the picture is looked at.
    pixels = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))
    return LAYOUTS[key](Document([Image(pixels), Text('a', 0.0), Text('b')]))[0]


LAYOUTS = {}
places = lambda one: [int((one.slot >= 0).sum())]
patches = lambda side: lambda one: [places(one)[0], *(int(n) // side for n in one.media_size[0, 1:])]
# Of Fuyu's tokens those behind rows are words; here one more word stands behind the picture, as `after`.
rows_too = lambda one: [places(one)[0] + int(one.media_size[0, 1])]
whole_grid = lambda one: [int(one.media_size[0, 1:].prod()), *map(int, one.media_size[0, 1:])]


@pytest.mark.parametrize(
    'name, spec, changes, read',
    [
        ('llava_next', 'llava_next.py:7b', [], places),
        ('qwen2_5_vl', 'qwen2_5_vl.py:7b', WIDE, patches(2)),
        ('qwen3_vl', 'qwen3_vl.py:8b', WIDE, patches(2)),
        ('kosmos_2_5', 'kosmos25.py', [], whole_grid),
        ('fuyu', 'fuyu.py', [], rows_too),
        ('gemma3', 'gemma3.py:4b', [], places),
        ('florence2', 'florence2.py:base', [], places),
    ],
)
def test_counts_agree(name, spec, changes, read):
    ours = {size: read(laid(spec, size, changes)) for size in SIZES}
    assert ours == dict(zip(SIZES, COUNTED[name], strict=True))


def test_pictures_of_more_than_nine_tiles_get_fewer_in_onevision():
    """Published ones are cut into up to 36 tiles, whose features are then shrunk to as many as nine have."""
    every = Tiles(grids=tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7)))
    few = {size for size in SIZES if math.prod(every.choose(size, 384)) <= 9}
    assert len(few) > 25
    for size, theirs in zip(SIZES, COUNTED['onevision'], strict=True):
        ours = places(laid('llava_next.py:ov-7b', size))
        assert ours == theirs if size in few else ours[0] <= 10 * 729 + 81, size


def test_a_picture_is_one_tile_of_internvl_and_smolvlm():
    """Published ones are cut into tiles beside an overview; with one tile InternVL has no overview."""
    for size, (theirs, rows, columns), cut in zip(SIZES, COUNTED['internvl'], COUNTED['smolvlm'], strict=True):
        ours = places(laid('internvl.py:8b', size))[0]
        assert ours == 256 and theirs == ours * (rows * columns + (rows * columns > 1))
        assert places(laid('smolvlm.py:256m', size))[0] * (1 + cut[1] * cut[2]) == cut[0]


def test_a_strip_that_is_longer_than_the_grid_is_shrunk_to_it():
    """The published tower of 64 x 64 patches of 16 pixels: a strip of 3 : 1 loses what it would gain in length."""
    one = laid('qwen3_vl.py:8b', (3000, 1000))
    assert one.media_size[0].tolist() == [1, 22, 64] and places(one) == [11 * 32]
