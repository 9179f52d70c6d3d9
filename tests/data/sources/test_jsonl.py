# SPDX-License-Identifier: Apache-2.0
"""Records of JSON files are read by place, broken ones are counted, and their pictures found wherever they lie."""

import gzip
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from mmjax.data import images
from mmjax.data.sources import lines
from mmjax.data.sources.boxes import BoxFormat
from mmjax.data.sources.jsonl import JsonLines
from mmjax.data.sources.pairs import Pair
from mmjax.document import BadDocument, Image, Region, Text


def source(path, **options) -> JsonLines:
    return JsonLines.Config(paths=(str(path),), **options).build()


def texts(found: JsonLines) -> list[str]:
    return [found[i].pieces[0].text for i in range(len(found))]


RECORDS = [{'text': 'zero é 中 \u2028 "q" [x] {y} \\'}, {'text': 'one'}, {'text': 'two\nlines'}, {'text': ']}'}]


@pytest.mark.parametrize('ascii', [True, False])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\n\n \n'])
def test_lines(tmp_path, end, ascii):
    path = tmp_path / 'x.jsonl'
    for last in (True, False):
        body = end.join(json.dumps(r, ensure_ascii=ascii) for r in RECORDS) + (end if last else '')
        path.write_bytes(body.encode())
        # A line of blanks is a record that holds nothing.
        good = [t for i in range(len(source(path))) if (t := text_or_none(source(path), i)) is not None]
        assert good == [r['text'] for r in RECORDS]


def text_or_none(found, index):
    try:
        return found[index].pieces[0].text
    except BadDocument as error:
        assert error.reason == 'broken JSON'


@pytest.mark.parametrize('chunk', [7, 64, 1 << 24])
@pytest.mark.parametrize('indent', [None, 2])
def test_a_json_list(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(lines, 'CHUNK', chunk)
    path = tmp_path / 'x.json'
    path.write_bytes(b'\xef\xbb\xbf\n ' + json.dumps(RECORDS, ensure_ascii=False, indent=indent).encode())
    assert texts(source(path)) == [r['text'] for r in RECORDS]
    monkeypatch.undo()


def test_lines_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, 'CHUNK', 5)
    path = tmp_path / 'x.jsonl'
    path.write_text('\n'.join(json.dumps(r) for r in RECORDS))
    assert texts(source(path)) == [r['text'] for r in RECORDS]


def test_a_list_that_is_cut_off_gives_what_is_whole(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(RECORDS)[:-10])
    found = source(path)
    assert texts(found) == [r['text'] for r in RECORDS[:3]] and found.problems.counts == {'JSON list is cut off': 1}


@pytest.mark.parametrize('suffix', ['gz', 'zip'])
def test_compressed_records_are_unpacked_once_for_each_state(tmp_path, make_zip, suffix):
    path = tmp_path / f'x.jsonl.{suffix}'

    def write(records):
        body = '\n'.join(json.dumps(r) for r in records).encode()
        if suffix == 'gz':
            path.write_bytes(gzip.compress(body))
        else:
            make_zip(path, [('x.jsonl', body)], zipfile.ZIP_DEFLATED)

    write(RECORDS)
    assert texts(source(path)) == [r['text'] for r in RECORDS]
    (unpacked,) = tmp_path.glob('*.unpacked')
    inode = unpacked.stat().st_ino
    assert texts(source(path)) == [r['text'] for r in RECORDS] and unpacked.stat().st_ino == inode
    write(RECORDS[:2])
    os.utime(path, (10, 10))
    assert texts(source(path)) == [r['text'] for r in RECORDS[:2]]
    (unpacked,) = tmp_path.glob('*.unpacked')  # the old one is gone


def test_broken_lines_are_counted_and_skipped(tmp_path):
    path = tmp_path / 'x.jsonl'
    path.write_bytes(b'{"text": "good"}\n{"text": "cut\n[1]\n\xff\xfe{}\n' + b'[' * 5000 + b'\n{"text": "end"}\n')
    found = source(path)
    assert len(found) == 6
    reasons = []
    for i in range(6):
        try:
            found[i]
        except BadDocument as error:
            reasons.append((i, error.reason))
    assert reasons == [(1, 'broken JSON'), (2, 'not a JSON object'), (3, 'broken JSON'), (4, 'broken JSON')]
    assert found.problems.counts == {'broken JSON': 3, 'not a JSON object': 1}


def test_many_files_are_one_source(tmp_path):
    for i, count in enumerate((2, 1, 3)):
        (tmp_path / f'{i}.jsonl').write_text('\n'.join(json.dumps({'text': f'{i}.{k}'}) for k in range(count)))
    found = source(tmp_path / '{0..2}.jsonl')
    assert texts(found) == ['0.0', '0.1', '1.0', '2.0', '2.1', '2.2']
    assert [found[i].key for i in (1, 2, 5)] == ['0:1', '1:0', '2:2']


def test_an_empty_file_is_an_error(tmp_path):
    path = tmp_path / 'x.jsonl'
    path.write_bytes(b'\n\n')
    with pytest.raises(ValueError, match='no record'):
        source(path)


def test_pictures_are_found_in_folders_tars_and_zips(tmp_path, make_tar, make_zip, picture):
    names = ['in folder.jpg', 'sub/in tar.jpg', 'in zip.jpg', 'beside.jpg', 'sub%20x.jpg']
    data = [picture(colour=(40 * i, 0, 0)) for i in range(5)]
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / names[0]).write_bytes(data[0])
    make_tar(tmp_path / 'images.tar', [('./' + names[1], data[1])])
    make_zip(tmp_path / 'images.zip', [('noise', b'x' * 99), (names[2], data[2])], zipfile.ZIP_DEFLATED)
    (tmp_path / names[3]).write_bytes(data[3])
    (tmp_path / 'sub x.jpg').write_bytes(data[4])
    path = tmp_path / 'x.jsonl'
    path.write_text('\n'.join(json.dumps({'image': name, 'caption': 'c'}) for name in [*names, 'nowhere.jpg']))
    found = source(path)
    for copy in (found, pickle.loads(pickle.dumps(found))):
        for i in range(5):
            image = copy[i].pieces[0]
            assert abs(int(images.read(image)[0, 0, 0]) - 40 * i) < 3 and images.size(image) == (8, 6)
    with pytest.raises(BadDocument, match='nowhere') as caught:
        found[5]
    assert caught.value.reason == 'missing image' and found.problems.counts == {'missing image': 1}


def test_chosen_places_only(tmp_path, picture):
    (tmp_path / 'a.jpg').write_bytes(picture())
    (tmp_path / 'other').mkdir()
    path = tmp_path / 'x.jsonl'
    path.write_text('{"image": "a.jpg"}')
    with pytest.raises(BadDocument, match='missing image'):
        source(path, images=(str(tmp_path / 'other'),))[0]
    with pytest.raises(FileNotFoundError, match='nope'):
        source(path, images=(str(tmp_path / 'nope'),))


def test_keys_and_scores(tmp_path):
    path = tmp_path / 'x.jsonl'
    path.write_text('{"id": "abc", "text": "a", "q": 0.5}\n{"text": "b", "q": "high"}\n{"text": "c", "q": NaN}')
    found = source(path, quality='q')
    assert (found[0].key, found[0].quality) == ('x:abc', 0.5)
    for i in (1, 2):
        with pytest.raises(BadDocument, match=f'x:{i}.*bad quality score'):
            found[i]


def test_real_mmc4(shared, tmp_path):
    found = source(shared / 'data/interleaved/mmc4_style/docs_shard_0_v2.jsonl.zip', cache=str(tmp_path))
    documents = [found[i] for i in range(len(found))]
    with zipfile.ZipFile(shared / 'data/interleaved/mmc4_style/docs_shard_0_v2.jsonl.zip') as archive:
        records = [json.loads(line) for line in archive.read(archive.namelist()[0]).splitlines()]
    assert len(documents) == 30 and not found.problems
    for document, record in zip(documents, records, strict=True):
        told = ' '.join(p.text for p in document.pieces if isinstance(p, Text))
        assert told == ' '.join(record['text_list'])
        for place, piece in enumerate(document.pieces):
            if isinstance(piece, Image):
                (info,) = [i for i in record['image_info'] if piece.name.endswith(i['image_name'])]
                following = next(p for p in document.pieces[place:] if isinstance(p, Text))
                assert following.text.startswith(record['text_list'][info['matched_text_index']])
        assert all(images.read(p).ndim == 3 for p in document.pieces[:2] if isinstance(p, Image))


def test_real_boxes(shared, tmp_path):
    form = Pair(boxes='bbox_xywh_normalised', box=BoxFormat(order='xywh'))
    found = source(shared / 'data/azure_custom_vision/annotations.jsonl', cache=str(tmp_path), record=form)
    regions = [p for i in range(len(found)) for p in found[i].pieces if isinstance(p, Region)]
    assert len(found) == 44 and {p.text for p in regions} == {'fork', 'scissors'} and len(regions) == 30
    assert all(np.diff(np.array(p.boxes).reshape(2, 2), axis=0).min() > 0.05 for p in regions)


def test_real_figures_in_many_tars(shared, tmp_path):
    found = source(
        shared / 'data/openstax_captions/interleaved_figures.jsonl',
        images=(str(shared / 'data/interleaved/openstax_*.tar'),),
        record=Pair(image='member', text='alt'),
        cache=str(tmp_path),
    )
    assert len(found) == 1579
    for i in range(0, 1579, 100):
        assert images.read(found[i].pieces[0]).ndim == 3
