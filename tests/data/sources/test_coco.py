# SPDX-License-Identifier: Apache-2.0
"""COCO files: boxes in pixels become regions in fractions, odd annotations are refused or counted."""

import json

import pytest

from mmjax.data import images
from mmjax.data.sources.coco import Coco
from mmjax.document import BadDocument, Region


@pytest.fixture
def coco(tmp_path, picture):
    """Writes a COCO file about one picture of 100 x 50 pixels and opens it."""

    def make(*notes: dict, **image) -> Coco:
        (tmp_path / 'a.jpg').write_bytes(picture(100, 50))
        told = {
            'images': [{'id': 1, 'file_name': 'a.jpg'} | image, {'id': 2, 'file_name': 'b.jpg'}],
            'annotations': [{'image_id': 1, 'category_id': 7} | note for note in notes],
            'categories': [{'id': 7, 'name': 'cat'}, {'id': 8, 'name': 'dog'}],
        }
        (tmp_path / 'x.json').write_text(json.dumps(told))
        return Coco.Config(path=str(tmp_path / 'x.json')).build()

    return make


def test_regions_by_category(coco):
    source = coco(
        {'bbox': [10, 10, 40, 20], 'category_id': 8},
        {'bbox': [0, 0, 50, 50]},
        {'bbox': [50, 0, 50, 25], 'category_id': 8},
    )
    wanted = [Region('dog', ((0.1, 0.2, 0.5, 0.6), (0.5, 0.0, 1.0, 0.5))), Region('cat', ((0.0, 0.0, 0.5, 1.0),))]
    assert len(source) == 2 and source[0].pieces[1:] == wanted
    # The size that the file tells is what its boxes are measured in, whatever the size of the picture.
    assert coco({'bbox': [10, 10, 40, 20]}, width=200, height=100)[0].pieces[1].boxes == ((0.05, 0.1, 0.25, 0.3),)


def test_odd_annotations(coco):
    source = coco(
        {'bbox': [90, 0, 40, 50]}, {'bbox': [0, 0, 9, 9], 'iscrowd': 1}, {'bbox': [0, 0, 9, 9], 'image_id': 9}
    )
    assert source[0].pieces[1:] == [Region('cat', ((0.9, 0.0, 1.0, 1.0),))]
    assert source.problems.counts == {'box cut at the edge': 1, 'box of a picture that is not listed': 1}
    for note, reason in (
        ({'bbox': [10, 10, -5, 5]}, 'inverted box'),
        ({'bbox': [200, 10, 5, 5]}, 'box outside the picture'),
        ({'bbox': [1, 2]}, 'not a box'),
        ({'bbox': [0, 0, 9, 9], 'category_id': 99}, 'unknown category'),
    ):
        with pytest.raises(BadDocument, match=reason):
            coco(note)[0]
    with pytest.raises(BadDocument, match='missing image'):
        coco()[1]


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / 'x.json').write_text('{"images": 3}')
    with pytest.raises(ValueError, match='not a COCO file'):
        Coco.Config(path=str(tmp_path / 'x.json')).build()


def test_real_cells(shared, tmp_path):
    source = Coco.Config(path=str(shared / 'data/bccd/train.json'), cache=str(tmp_path)).build()
    documents = [source[i] for i in range(len(source))]
    boxes = [box for d in documents for p in d.pieces if isinstance(p, Region) for box in p.boxes]
    assert len(documents) == 205 and len(boxes) == 2804
    assert {p.text for d in documents for p in d.pieces if isinstance(p, Region)} == {'RBC', 'WBC', 'Platelets'}
    assert images.read(documents[0].pieces[0]).shape == (240, 320, 3)
