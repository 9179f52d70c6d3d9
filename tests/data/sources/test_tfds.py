# SPDX-License-Identifier: Apache-2.0
"""TFDS sets prepared as array_record are read without TensorFlow; here one is prepared by tfds itself."""

import io
import os
import pickle
import sys

import numpy as np
import pytest

from mmjax.data import images
from mmjax.data.sources import open_source
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.tfds import Tfds
from mmjax.document import BadDocument, Region

tfds = pytest.importorskip('tensorflow_datasets', reason='pip install mmjax[tfds]')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A set of five pictures, written by tfds' own builder and serializer as array_record."""
    from PIL import Image as pillow

    f = tfds.features
    told = f.FeaturesDict(
        {
            'image': f.Image(shape=(None, None, 3)),
            'label': f.ClassLabel(names=['cat', 'dog']),
            'caption': f.Text(),
            'score': f.Scalar(np.float32),
            'objects': f.Sequence({'bbox': f.BBoxFeature(), 'label': f.ClassLabel(names=['ear', 'nose'])}),
            'words': f.Sequence(f.Text()),
        }
    )

    def png(value: int) -> io.BytesIO:
        stream = io.BytesIO()
        pillow.new('RGB', (6, 8), (value, 0, 0)).save(stream, 'PNG')
        stream.seek(0)
        return stream

    class Builder(tfds.core.GeneratorBasedBuilder):
        """A tiny set."""

        name = 'tiny_pets'
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=told)

        def _split_generators(self, download):
            return {'train': self._generate_examples(5), 'test': self._generate_examples(1)}

        def _generate_examples(self, count: int):
            for i in range(count):
                objects = [
                    {'bbox': f.BBox(ymin=0.2, xmin=0.1, ymax=0.6, xmax=0.5), 'label': 'nose'},
                    {'bbox': f.BBox(ymin=0.0, xmin=0.5, ymax=0.5, xmax=1.0), 'label': i % 2},
                ]
                yield f'{i:03}', {
                    'image': png(40 * i), 'label': i % 2, 'caption': f'pet é {i}', 'score': i / 4,
                    'objects': objects[: i], 'words': [f'w{i}', 'x'],
                }  # fmt: skip

    root = tmp_path_factory.mktemp('tfds')
    builder = Builder(data_dir=str(root), file_format='array_record')
    builder.download_and_prepare()
    assert any('array_record' in name for name in os.listdir(builder.data_path))
    return builder.data_path


def open_set(folder, **options) -> Tfds:
    return Tfds.Config(name=str(folder), **options).build()


def test_features_become_fields(folder):
    record = Pair(prompt='{label}: ', text='caption', boxes='objects.bbox', labels='objects.label')
    source = open_set(folder, record=record, quality='score')
    assert len(source) == 5 and source.name == 'tiny_pets:train'
    documents = sorted((source[i] for i in range(5)), key=lambda d: d.quality)
    for i, document in enumerate(documents):
        assert [p.text for p in document.pieces[1:3]] == [('cat: ', 'dog: ')[i % 2], f'pet é {i}']
        assert isinstance(document.pieces[0].pixels, bytes)  # encoded, until a batch needs it
        assert images.read(document.pieces[0])[0, 0].tolist() == [40 * i, 0, 0]
        assert images.size(document.pieces[0]) == (6, 8)
        assert document.quality == i / 4 and document.meta['record']['words'] == [f'w{i}', 'x']
        assert 'image' not in document.meta['record']
    regions = [p for p in documents[2].pieces if isinstance(p, Region)]
    assert [r.text for r in regions] == ['nose', 'ear']
    assert regions[0].boxes[0] == pytest.approx((0.1, 0.2, 0.5, 0.6))
    assert 'tensorflow' not in sys.modules


def test_splits_slices_specs_and_pickles(folder):
    assert len(open_set(folder, split='test')) == 1 and len(open_set(folder, split='train[1:3]')) == 2
    source = open_source(f'tfds:{folder}:train?text=label')
    assert {source[i].pieces[1].text for i in range(5)} == {'cat', 'dog'}
    assert len(open_source(f'{folder}?split=test')) == 1
    copy = pickle.loads(pickle.dumps(source))
    assert copy[3].pieces[1].text == source[3].pieces[1].text
    with pytest.raises(IndexError):
        source[5]


def test_a_set_is_found_by_name_below_its_folder(folder):
    root = os.path.dirname(os.path.dirname(folder))
    assert len(open_set('tiny_pets', data_dir=root)) == 5
    assert len(open_set('tiny_pets:1.0.0', data_dir=root)) == 5


def test_errors_name_the_way_out(folder, tmp_path):
    with pytest.raises(ValueError, match=r'no split .*valid.*train'):
        open_set(folder, split='valid')
    with pytest.raises(FileNotFoundError, match='no prepared set'):
        open_set('no_such_set_at_all', data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"prepare it once.*file_format='array_record'"):
        open_set('mnist', data_dir=str(tmp_path))
    with pytest.raises(BadDocument, match='no text'):
        open_set(folder, record=Pair(text='title'))[0]


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
    with pytest.raises(ImportError, match=r'pip install "mmjax\[tfds\]"'):
        open_set('mnist')
