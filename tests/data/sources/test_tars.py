# SPDX-License-Identifier: Apache-2.0
"""WebDataset tars give their samples by index, whole or broken, and are left as they are."""

import collections
import json
import os
import pickle

import pytest

from mmjax.data import images
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.tars import Tars
from mmjax.document import BadDocument, FileSlice, Image, Text


def sources(*paths, **options) -> Tars:
    return Tars.Config(paths=tuple(map(str, paths)), **options).build()


def js(**fields) -> bytes:
    return json.dumps(fields).encode()


def test_a_sample_is_its_members(tmp_path, make_tar, jpeg, picture):
    other = picture(colour=(0, 0, 200))
    path = make_tar(
        tmp_path / 'a.tar',
        [
            ('s/0.00.jpg', jpeg), ('s/0.01.JPG', other),
            ('s/0.json', js(texts=['a', None, 'b', None], images=[None, '01.jpg', None, '00.jpg'])),
            ('s/1.png', jpeg), ('s/1.txt', b' words \n'),
            ('s/2.jpg', jpeg), ('s/2.json', js(caption='told')),
            ('s/3.jpg', jpeg),
            ('s/4.txt', b'only words'),
        ],
    )  # fmt: skip
    source = sources(path)
    assert len(source) == 5 and [source[i].key for i in range(5)] == [f'a:s/{i}' for i in range(5)]
    first = source[0].pieces
    assert [type(p) for p in first] == [Text, Image, Text, Image]
    assert [p.pixels.read() for p in first if isinstance(p, Image)] == [other, jpeg]
    assert all(isinstance(p.pixels, FileSlice) for p in first if isinstance(p, Image))
    assert [[p.text for p in source[i].pieces if isinstance(p, Text)] for i in (1, 2, 3, 4)] == [
        ['words'], ['told'], [], ['only words'],
    ]  # fmt: skip
    assert [len(source[i].pieces) for i in (1, 2, 3, 4)] == [2, 2, 1, 1]
    assert not source.problems


def test_members_of_a_sample_need_not_be_neighbours_and_keys_may_come_again(tmp_path, make_tar, jpeg):
    path = make_tar(
        tmp_path / 'a.tar',
        [('0.jpg', jpeg), ('1.jpg', jpeg), ('0.txt', b'zero'), ('1.txt', b'one'), ('0.jpg', jpeg), ('0.txt', b'again')],
    )
    source = sources(path)
    assert [source[i].pieces[1].text for i in range(len(source))] == ['zero', 'one', 'again']


def test_many_tars_are_one_source(tmp_path, make_tar):
    for shard in range(12):
        make_tar(
            tmp_path / f'x-{shard:02}.tar', [(f'{shard}-{i}.txt', f'{shard} {i}'.encode()) for i in range(shard % 4)]
        )
    for pattern in ('x-{00..11}.tar', 'x-*.tar', 'x-{0,1}*.tar'):
        source = sources(tmp_path / pattern)
        texts = [source[i].pieces[0].text for i in range(len(source))]
        assert texts == [f'{shard} {i}' for shard in range(12) for i in range(shard % 4)]
    with pytest.raises(FileNotFoundError, match=r'2 of 14 files are missing.*x-12\.tar.*holds x-00\.tar'):
        sources(tmp_path / 'x-{00..13}.tar')


@pytest.mark.parametrize(
    'members, reason',
    [
        ([('0.json', b'{"caption": "x"')], 'broken JSON'),
        ([('0.json', b'[1]')], 'not a JSON object'),
        ([('0.json', b'\xff\xfe')], 'broken JSON'),
        ([('0.txt', b'\xff\xfe\xff')], 'text is not UTF-8'),
        ([('0.json', b'{}')], 'empty document'),
        ([('0.bin', b'x')], 'empty document'),
        ([('0.json', js(texts=['a'], images=[None, None]))], 'texts and images differ in length'),
        ([('0.json', js(texts=[None], images=['00.jpg']))], 'empty document'),
    ],
)
def test_bad_samples_are_refused_and_counted(tmp_path, make_tar, members, reason):
    source = sources(make_tar(tmp_path / 'a.tar', [*members, ('1.txt', b'good')]))
    with pytest.raises(BadDocument) as caught:
        source[0]
    assert caught.value.reason == reason and caught.value.key == 'a:0'
    assert source.problems.counts[reason] == 1 and 'a:0' in source.problems.examples[reason][0]
    assert source[1].pieces == [Text('good')]


def test_missing_pictures_of_a_page_are_dropped_and_counted(tmp_path, make_tar, jpeg):
    fields = js(texts=['a', None, None, 'b'], images=[None, '00.jpg', 'https://x/y.jpg', None])
    source = sources(make_tar(tmp_path / 'a.tar', [('0.json', fields), ('1.00.jpg', jpeg)]))
    document = source[0]
    assert [p.text for p in document.pieces] == ['a\n\nb']
    assert document.meta['dropped'] == source.problems.counts == {'missing image': 1, 'remote image': 1}


def test_a_truncated_tar_gives_its_whole_members(tmp_path, make_tar, jpeg):
    members = [(f'{i}.{kind}', jpeg if kind == 'jpg' else b'text') for i in range(3) for kind in ('jpg', 'txt')]
    whole = make_tar(tmp_path / 'whole.tar', members).read_bytes()
    cut = tmp_path / 'cut.tar'
    # In the middle of the last picture, whose text is lost with it.
    cut.write_bytes(whole[: whole.rfind(jpeg) + 100])
    source = sources(cut)
    assert len(source) == 2 and source.problems.counts == {'truncated tar member': 1}
    assert '2.jpg' in source.problems.lines()[0]
    # The same is told when the kept index is used.
    assert sources(cut).problems.counts == {'truncated tar member': 1}


def test_nothing_to_read_is_an_error_that_says_why(tmp_path, make_tar):
    (tmp_path / 'a.tar').write_bytes(b'no tar' * 1000)
    with pytest.raises(ValueError, match=r'no sample in 1 tars.*damaged bytes'):
        sources(tmp_path / 'a.tar')


def test_the_tar_is_not_touched_and_a_changed_one_is_indexed_anew(tmp_path, make_tar):
    path = make_tar(tmp_path / 'a.tar', [('0.txt', b'old')])
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert sources(path)[0].pieces[0].text == 'old'
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(os.listdir(tmp_path)) == ['a.tar', 'a.tar.samples.index']
    make_tar(path, [('0.txt', b'new'), ('1.txt', b'newer')])
    assert len(sources(path)) == 2


def test_sources_are_pickled_and_bounds_are_kept(tmp_path, make_tar):
    source = sources(make_tar(tmp_path / 'a.tar', [(f'{i}.txt', str(i).encode()) for i in range(2000)]))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i].pieces for i in (0, 1999)] == [source[i].pieces for i in (0, 1999)]
    assert len(pickle.dumps(source)) < 5000  # the index stays in its file
    for index in (-1, 2000):
        with pytest.raises(IndexError, match='of 2000'):
            source[index]


def test_scores_and_chosen_fields(tmp_path, make_tar, jpeg):
    members = [
        ('0.jpg', jpeg),
        ('0.json', js(alt='a', caption='c', score=0.25)),
        ('1.jpg', jpeg),
        ('1.json', js(alt='b')),
    ]
    source = sources(make_tar(tmp_path / 'a.tar', members), record=Pair(text='{alt}!'), quality='score')
    assert (source[0].quality, source[0].pieces[1].text) == (0.25, 'a!')
    assert source[1].quality == 1.0 and source.problems.counts == {'no quality score': 1}


def test_a_tar_that_vanished_is_a_bad_document(tmp_path, make_tar):
    path = make_tar(tmp_path / 'a.tar', [('0.txt', b'x')])
    source = sources(path)
    path.unlink()
    with pytest.raises(BadDocument, match='unreadable file'):
        source[0]


WANTED = {  # documents, images, characters of text, as counted by those who made the files
    'howtocook_zh': (176, 346, 154_571),
    'iot_for_beginners': (69, 274, 805_212),
    'openstax_psychology': (99, 352, 2_058_429),
    'pxt_microbit': (273, 830, 865_752),
}


def test_real_pages(shared, tmp_path):
    for name, (documents, pictures, characters) in WANTED.items():
        source = sources(shared / f'data/interleaved/{name}.tar', cache=str(tmp_path))
        found = collections.Counter()
        for i in range(len(source)):
            for piece in source[i].pieces:
                found['images'] += isinstance(piece, Image)
                found['characters'] += len(piece.text) if isinstance(piece, Text) else 0
        assert (len(source), found['images'], found['characters']) == (documents, pictures, characters), name
        assert not source.problems


def test_real_captions(shared, tmp_path):
    source = sources(shared / 'data/openstax_captions/world_history.tar', cache=str(tmp_path))
    assert len(source) == 590
    document = source[1]
    assert document.pieces[1].text.startswith('This seventeenth-century projection map')
    assert list(images.size(document.pieces[0])) == document.meta['record']['size']
