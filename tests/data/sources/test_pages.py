# SPDX-License-Identifier: Apache-2.0
"""Folders of pages: pictures are found as their authors meant, the rest is dropped, counted and named."""

import base64
import json
import os
import pickle
import re
import tarfile

import pytest

from mmjax.data import images
from mmjax.data.sources.pages import Pages
from mmjax.document import BadDocument, Image, Text


@pytest.fixture
def write(tmp_path):
    """Writes files below a folder and opens it."""

    def make(files: dict[str, bytes | str], **options) -> Pages:
        for name, data in files.items():
            path = tmp_path / 'site' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return Pages.Config(path=str(tmp_path / 'site'), **options).build()

    return make


def shown(document) -> list:
    return [p.text if isinstance(p, Text) else os.path.basename(str(p.pixels)) for p in document.pieces]


@pytest.mark.parametrize(
    'address, file',
    [
        ('a.png', 'docs/deep/a.png'),
        ('./a.png', 'docs/deep/a.png'),
        ('../../img/a.png', 'img/a.png'),
        ('/static/a.png', 'docs/static/a.png'),
        ('/static/a.png', 'static/a.png'),
        ('my%20a.png', 'docs/deep/my a.png'),
        ('<my a.png>', 'docs/deep/my a.png'),
        ('洗好的.png', 'docs/deep/洗好的.png'),
        ('%E6%B4%97.png', 'docs/deep/洗.png'),
        ('a.png?raw=true', 'docs/deep/a.png'),
        ('a.png#x', 'docs/deep/a.png'),
        ('100%.png', 'docs/deep/100%.png'),
        ('a%20b.png', 'docs/deep/a%20b.png'),
        ('sub\\a.png', 'docs/deep/sub/a.png'),
        ('a_(1).png', 'docs/deep/a_(1).png'),
        ('a.png "A title"', 'docs/deep/a.png'),
    ],
)
@pytest.mark.parametrize('kind', ['markdown', 'html', 'html in markdown'])
def test_addresses(write, picture, address, file, kind):
    plain = re.sub(r'^<(.*)>$', r'\1', address.split(' "')[0])
    text = {'markdown': f'x ![alt]({address}) y', 'html': f'x <img src="{plain}"> y'}.get(
        kind, f'x <img src="{plain}"> y'
    )
    source = write({f'docs/deep/page.{"html" if kind == "html" else "md"}': text, file: picture(kind='PNG')})
    assert shown(source[0]) == ['x ', os.path.basename(file), ' y'] and not source.problems


def test_site_absolute_addresses_take_the_nearest_folder_above_or_the_one_that_is_told(write, picture, tmp_path):
    files = {
        'docs/p.md': '![](/s/a.png)',
        'docs/s/a.png': picture(3, 3, kind='PNG'),
        's/a.png': picture(5, 5, kind='PNG'),
    }
    assert images.size(write(files)[0].pieces[0]) == (3, 3)
    assert images.size(write(files, site=str(tmp_path / 'site'))[0].pieces[0]) == (5, 5)
    # Not above the folder that was opened.
    (tmp_path / 's').mkdir()
    (tmp_path / 's' / 'b.png').write_bytes(picture(kind='PNG'))
    source = write({'docs/p.md': 'x ![](/s/b.png)'})
    assert shown(source[0]) == ['x'] and source.problems.counts == {'missing image': 1}


def test_what_cannot_be_shown_is_dropped_counted_and_named(write, picture):
    page = '\n\n'.join(f'p{i} ![]({name})' for i, name in enumerate(
        ['https://x/y.png', '//c/y.png', 'gone.png', 'logo.svg', 'web.png', 'ok.png', 'dot.gif', 'bomb.png', 'x' * 300]
    ))  # fmt: skip
    files = {'a.md': page, 'web.png': '<html>404</html>', 'ok.png': picture(kind='PNG'), 'logo.svg': '<svg/>'}
    source = write(files | {'dot.gif': picture(1, 1, kind='GIF'), 'bomb.png': b'P6 50000 50000 255\n'}, min_side=2)
    document = source[0]
    assert [type(p) for p in document.pieces] == [Text, Image, Text]
    assert document.pieces[0].text == 'p0\n\np1\n\np2\n\np3\n\np4\n\np5 ' and document.pieces[2].text.startswith(
        '\n\np6\n\np7'
    )
    assert source.problems.counts == {
        'remote image': 2, 'missing image': 2, 'vector image (svg)': 1, 'not an image': 1, 'image too small': 1,
        'image too large': 1,
    }  # fmt: skip
    assert document.meta['dropped'] == source.problems.counts
    assert 'site:a.md: https://x/y.png' in source.problems.examples['remote image']


def test_alternative_texts_are_text_when_asked_for(write, picture):
    files = {'a.md': 'one\n\n![A *cat*](c.png)\n\ntwo ![](c.png) ![gone](no.png) end', 'c.png': picture(kind='PNG')}
    assert shown(write(files)[0]) == ['one\n\n', 'c.png', '\n\ntwo ', 'c.png', ' end']
    assert shown(write(files, alt=True)[0]) == ['one\n\n', 'c.png', '\nA *cat*\n\ntwo ', 'c.png', ' end']


def test_pictures_inside_the_address(write, picture):
    data = picture(kind='PNG')
    address = 'data:image/png;base64,' + base64.b64encode(data).decode()
    source = write({'a.md': f'![]({address})', 'b.md': 'x ![](data:image/png;base64,@@)'})
    assert source[0].pieces[0].pixels == data
    assert shown(source[1]) == ['x'] and len(source.problems.counts) == 1


def test_pages_with_nothing_to_show_or_say(write, jpeg):
    source = write(
        {
            'a.md': '',
            'b.md': '---\ntitle: x\n---\n<!-- c -->\n',
            'c.md': 'only text',
            'd.md': '![](d.jpg)',
            'd.jpg': jpeg,
        }
    )
    for index in (0, 1):
        with pytest.raises(BadDocument, match='empty document'):
            source[index]
    assert shown(source[2]) == ['only text'] and shown(source[3]) == ['d.jpg']
    assert source.problems.counts == {'empty document': 2}


def test_encodings(write):
    html = '<meta charset="gbk"><p>洗好的</p>'
    files = {
        'a.html': html.encode('gbk'), 'b.md': '\ufeffé'.encode(), 'c.md': 'é'.encode('utf-16'),
        'd.md': 'é'.encode('latin-1'), 'e.html': '<?xml version="1.0" encoding="nonsense"?>é',
    }  # fmt: skip
    source = write(files)
    assert [shown(source[i]) for i in range(3)] == [['洗好的'], ['é'], ['é']]
    for index in (3, 4):
        with pytest.raises(BadDocument, match='set encoding'):
            source[index]
    assert shown(write(files, encoding='latin-1')[3]) == ['é']


def test_pages_are_listed_in_order_without_hidden_ones(write, tmp_path):
    names = ['b/x.md', 'a.MD', '.git/x.md', 'b/.x.md', 'node_modules/y.md', 'c.txt', 'b/a.html']
    source = write(dict.fromkeys(names, 'x'))
    assert source.paths == ['a.MD', 'b/a.html', 'b/x.md']
    assert pickle.loads(pickle.dumps(source))[2].key == 'site:b/x.md'
    assert write({}, suffixes=('.txt',)).paths == ['c.txt']
    with pytest.raises(ValueError, match=r'no file ends with \.rst; there are .*1 \.txt'):
        write({}, suffixes=('.rst',))
    with pytest.raises(FileNotFoundError, match='no folder'):
        Pages.Config(path=str(tmp_path / 'nowhere')).build()


def test_a_huge_page_is_refused(write):
    with pytest.raises(BadDocument, match='page too large'):
        write({'a.md': 'x' * ((1 << 25) + 1)})[0]


def words(document) -> str:
    return ' '.join(' '.join(p.text for p in document.pieces if isinstance(p, Text)).split())


def test_real_pages_agree_with_an_independent_reading(shared):
    """The same pages were turned into tars by another program: same pictures in the same order, same words."""
    source = Pages.Config(path=str(shared / 'data/interleaved/raw')).build()
    assert len(source) == 26
    wanted = {}
    for name in ('howtocook_zh', 'iot_for_beginners', 'pxt_microbit'):
        with tarfile.open(shared / f'data/interleaved/{name}.tar') as archive:
            for member in archive:
                if member.name.endswith('.json'):
                    record = json.load(archive.extractfile(member))
                    wanted[record['path'].removeprefix('docs/')] = record
    pictures = 0
    for index, path in enumerate(source.paths):
        document, record = source[index], wanted[path.split('/', 1)[1].removeprefix('docs/')]
        found = [os.path.basename(str(p.pixels)) for p in document.pieces if isinstance(p, Image)]
        assert found == [os.path.basename(file['path']) for file in record['image_files']], path
        pictures += len(found)
        # That program kept the shells of links round pictures that it left out, and line breaks as tags.
        told = re.sub(r'\[\s*\]\(https://youtu\.be/\w+\)|<br/>', '', ' '.join(t for t in record['texts'] if t))
        assert words(document) == ' '.join(told.split()), path
    assert pictures == 123
    assert source.problems.counts == {'remote image': 2}
    for index in (0, 10, 20):
        for piece in source[index].pieces:
            assert not isinstance(piece, Image) or images.read(piece).ndim == 3
