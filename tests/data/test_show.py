# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image as pillow

from mmjax.data import drawing, masks
from mmjax.data.inspect import assumed_layout, inspect
from mmjax.data.show import show
from mmjax.document import BadDocument, Document, Image, Region, Text

PICTURE = Image(np.full((20, 30, 3), 200, np.uint8), 'good.png')


class Made:
    """Four documents: two good ones, one that cannot be read, one whose picture cannot be decoded."""

    name = 'made'

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            raise BadDocument('made:1', 'missing image', 'x.jpg')
        picture = Image(b'nonsense', 'bad.png') if index == 3 else PICTURE
        region = Region('a box', ((0.1, 0.1, 0.6, 0.9),))
        return Document([Text('<b>Hello</b> ', weight=0.0), picture, region, Text(' é猫')], key=f'made:{index}')


def test_inspect():
    found = inspect(Made(), assumed_layout(max_tokens=100, per_picture=4), decode=True)
    assert (found.total, found.looked_at) == (4, 4)
    assert found.dropped == {'missing image': 1, 'not an image': 1} and found.undecodable == 1
    assert found.pieces == {'text': 6, 'image': 3, 'region': 3} and found.pictures == [1, 1, 1]
    assert found.tokens == [29, 29] and found.rows == 1 and found.efficiency == pytest.approx(0.58)
    report = str(found)
    for part in (
        'made: 4 documents',
        '58.0% of token places filled in 1 rows of 100 tokens',
        "'made:1': missing image",
    ):
        assert part in report


def test_inspect_says_when_pictures_fill_the_rows():
    assert 'raise layout.max_media' in str(inspect(Made(), assumed_layout(100, max_media=1, per_picture=4)))


@pytest.mark.parametrize('in_sequence', [True, False])
def test_show(tmp_path, in_sequence):
    layout = assumed_layout(max_tokens=100, per_picture=4)
    if not in_sequence:
        from dataclasses import replace

        layout = layout.config.build(replace(layout.spec, in_sequence=False))
    files = show(Made(), layout, tmp_path / 'out', count=8)
    assert [f.name for f in files] == ['index.html', 'documents.png', 'row.png']
    page = files[0].read_text()
    assert '&lt;b&gt;Hello' in page and '<b>Hello' not in page  # words of documents are no markup
    assert 'é猫' in page and 'media tokens 0 to 4' in page and 'missing image' in page
    for file in files[1:]:
        with pillow.open(file) as picture:
            assert min(picture.size) > 50


def test_show_needs_a_document(tmp_path):
    with pytest.raises(ValueError, match='no document from number 9 of 4 on'):
        show(Made(), assumed_layout(), tmp_path, first=9)


@pytest.mark.parametrize('length', [5, 900])
def test_mask_picture(length):
    array = np.asarray(drawing.mask_picture(masks.causal(length), length))
    side = len(array)
    assert array.shape == (side, side, 3) and side <= 768
    assert array[side * 3 // 4, side // 4].tolist() == list(drawing.SEEN)
    assert array[side // 4, side * 3 // 4].tolist() == [255, 255, 255]
