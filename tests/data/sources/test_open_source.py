# SPDX-License-Identifier: Apache-2.0
"""A path or a name opens the source that it means, and an error names it, what there is and the ways out."""

import json

import pytest

from mmjax.data.sources import Source, open_source, source_config
from mmjax.data.sources.chat import Chat
from mmjax.data.sources.coco import Coco
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.jsonl import JsonLines
from mmjax.data.sources.pages import Pages
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.paths import braces
from mmjax.data.sources.tars import Tars
from mmjax.data.sources.tfds import Tfds


@pytest.fixture
def data(tmp_path, make_tar, jpeg):
    """One of each kind of file."""
    (tmp_path / 'docs' / 'sub').mkdir(parents=True)
    (tmp_path / 'docs' / 'sub' / 'a.md').write_text('hello')
    (tmp_path / 'tars').mkdir()
    (tmp_path / 'tars' / 'README.md').write_text('about')
    for i in range(3):
        make_tar(
            tmp_path / 'tars' / f'x-{i}.tar',
            [(f'{i}.jpg', jpeg), (f'{i}.json', b'{"caption": "c", "alt": "a", "q": 0.5}')],
        )
    (tmp_path / 'records').mkdir()
    (tmp_path / 'records' / 'x.jsonl').write_text('{"text": "line"}\n{"text": "line"}')
    (tmp_path / 'list.json').write_text('[{"text": "element"}]')
    (tmp_path / 'coco.json').write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / 'one line.json').write_text(json.dumps({'text': 'images: ['}))
    return tmp_path


@pytest.mark.parametrize(
    'spec, kind, length',
    [
        ('docs', Pages, 1),
        ('docs/', Pages, 1),
        ('tars', Tars, 3),
        ('tars/x-{0..1}.tar', Tars, 2),
        ('tars/x-?.tar', Tars, 3),
        ('tars/*.tar', Tars, 3),
        ('records', JsonLines, 2),
        ('records/x.jsonl', JsonLines, 2),
        ('list.json', JsonLines, 1),
        ('one line.json', JsonLines, 1),
        ('coco.json', Coco, 0),
    ],
)
def test_paths(data, spec, kind, length):
    source = open_source(f'{data}/{spec}')
    assert type(source) is kind and len(source) == length and isinstance(source, Source)


def test_names(data):
    assert isinstance(open_source('digits'), Digits)
    config = source_config('digits:find:test?count=7&seed=3')
    assert (config.task, config.split, config.count, config.seed) == ('find', 'test', 7, 3)
    assert len(open_source(f'pages:{data}/tars')) == 1
    for spec, name, split in (
        ('tfds:mnist', 'mnist', 'train'),
        ('tfds:mnist:test', 'mnist', 'test'),
        ('tfds:coco/2017:1.1.0', 'coco/2017:1.1.0', 'train'),
        ('tfds:coco/2017:1.1.0:validation[:5]', 'coco/2017:1.1.0', 'validation[:5]'),
    ):
        found = source_config(spec)
        assert isinstance(found, Tfds.Config) and (found.name, found.split) == (name, split)


def test_options_set_fields_of_source_and_record(data):
    source = open_source(f'{data}/tars/x-?.tar?text={{alt}}, {{caption}}&quality=q')
    assert source[0].pieces[1].text == 'a, c' and source[0].quality == 0.5
    config = source_config(f'{data}/records/x.jsonl?images=a,b&boxes=bbox&box.order=xywh&box_size=s&key=k')
    assert config.images == ('a', 'b') and config.key == 'k'
    assert isinstance(config.record, Pair) and (config.record.box.order, config.record.box_size) == ('xywh', 's')
    config = source_config(f'{data}/records/x.jsonl?format=chat&images_first=true')
    assert config.record == Chat(images_first=True)
    assert source_config(f'{data}/docs?alt=1&min_side=16') == Pages.Config(path=f'{data}/docs', alt=True, min_side=16)


@pytest.mark.parametrize(
    'spec, complaint',
    [
        ('nothing', r'nothing.* is no source: there is no such file or folder(.|\n)*tars'),
        ('docs/sub/a.md', "is no source: it ends with '.md'"),
        ('empty', 'it holds nothing'),
        ('only', r'it holds a\.bin'),
        ('docs?colour=red', r'Pages\.Config has no field .colour., it has alt'),
        ('records/x.jsonl?colour=red', 'Pair has no field .colour.'),
        ('docs?min_side=many', "min_side is 'many', expected int"),
        ('docs?alt=maybe', "alt is 'maybe', expected bool"),
    ],
)
def test_errors_name_the_spec_and_the_ways_out(data, spec, complaint):
    (data / 'empty').mkdir()
    (data / 'only').mkdir()
    (data / 'only' / 'a.bin').write_bytes(b'x')
    with pytest.raises(ValueError, match=complaint):
        open_source(f'{data}/{spec}')


@pytest.mark.parametrize('spec', ['x-{0..3}.tar', '*.tar', 'x.jsonl'])
def test_missing_files_are_named_with_what_is_there(data, spec):
    with pytest.raises(FileNotFoundError, match=r'holds coco\.json, docs, list\.json'):
        open_source(f'{data}/{spec}')


@pytest.mark.parametrize(
    'pattern, wanted',
    [
        ('a', ['a']),
        ('{0..2}', ['0', '1', '2']),
        ('x{08..11}y', ['x08y', 'x09y', 'x10y', 'x11y']),
        ('{2..0}', ['2', '1', '0']),
        ('{a,b}-{1..2}', ['a-1', 'a-2', 'b-1', 'b-2']),
        ('{train,val/{0..1}}', ['train', 'val/0', 'train', 'val/1']),
        ('{x}', ['{x}']),
        ('{0..}', ['{0..}']),
    ],
)
def test_braces(pattern, wanted):
    assert braces(pattern) == wanted
