# SPDX-License-Identifier: Apache-2.0
"""Regions that are read: their points lie inside, their tokens point at their own picture, also in packed rows."""

import dataclasses

import numpy as np
import pytest

from mmjax.batch import MediaSpec
from mmjax.data import dialects
from mmjax.data.check import check
from mmjax.data.layout import Layout
from mmjax.data.points import inside
from mmjax.data.render import render, stack
from mmjax.data.tokenizer import Bytes
from mmjax.document import Document, Image, Region, Text

SPEC = MediaSpec(height=8, width=8, patch=4, tokens=4, grid=lambda f, r, c: (2, 2), points=6)
BOX = (0.5, 0.0, 1.0, 0.5)


def build(spec=SPEC, regions=4):
    special = ('<image>', '<region_fea>')
    c = Layout.Config(tokenizer=Bytes.Config(special=special), coordinates=dialects.ferret(), max_regions=regions)
    return dataclasses.replace(c, max_tokens=128, max_media=3).build(spec)


def asked(pictures, which):
    region = Region('', (BOX,), image=which, weight=0.0)
    shown = [Image(np.full((8, 8, 3), n, np.uint8)) for n in pictures]
    return Document([*shown, Text('in ', 0.0), region, Text('?', 0.0), Region('a', (BOX,))], key=str(pictures))


@pytest.mark.parametrize('count', [5, 40])
def test_points_are_pixels_of_the_boxes(count):
    points = inside([(0.5, 0.0, 1.0, 0.25), (0.0, 0.75, 0.25, 1.0)], count, (8, 4), 'k')
    assert points.shape == (count, 2) and points.dtype == np.float32
    pixels = {(int(y * 4), int(x * 8)) for y, x in points}
    assert pixels <= {(0, 4), (0, 5), (0, 6), (0, 7), (3, 0), (3, 1)} and len(pixels) == min(count, 6)
    np.testing.assert_array_equal(points, inside([(0.5, 0.0, 1.0, 0.25), (0.0, 0.75, 0.25, 1.0)], count, (8, 4), 'k'))
    assert len(inside([(0.1, 0.1, 0.11, 0.11)], 3, (8, 4), 'k')) == 3  # thinner than a pixel


def test_only_regions_that_are_read_have_a_token():
    layout = build()
    (laid,) = layout(asked([1], 0))
    box = '[500, 0, 1000, 500]'
    assert layout.tokenizer.decode(laid.tokens) == f'{"<image>" * 4}in {box} <region_fea>?a{box}'
    assert len(laid.points) == 1 and laid.points_of == [0] and laid.need.regions == 1


def test_tokens_of_packed_rows_name_their_region_and_its_picture():
    layout = build()
    laid = [layout(asked(pictures, which))[0] for pictures, which in (([1], 0), ([2, 3], 0))]
    batch = stack([render(laid, layout.shape, SPEC, layout.decode, 0)])
    check(batch, layout.tokenizer.size, SPEC)
    place = batch.tokens[0] == layout.tokenizer.id('<region_fea>')
    assert batch.slot[0, place].tolist() == [12, 13]  # behind three media of four tokens
    assert batch.points_of[0].tolist() == [0, 1, -1, -1]
    assert (batch.points[0, :2, :, 0] < 0.5).all() and (batch.points[0, :2, :, 1] >= 0.5).all()


@pytest.mark.parametrize('spec, regions', [(SPEC, 0), (dataclasses.replace(SPEC, points=0), 2)])
def test_a_layout_without_the_models_regions_is_refused(spec, regions):
    with pytest.raises(ValueError, match='max_regions'):
        build(spec, regions)
