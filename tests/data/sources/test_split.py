# SPDX-License-Identifier: Apache-2.0
"""The two parts of a source are disjoint and complete, and only names decide."""

import hashlib
import json

import pytest

from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.pages import Pages
from mmjax.data.sources.split import Split, key_of
from mmjax.data.sources.tars import Tars

NAMES = [f'doc{i:03}' for i in range(60)]
HELD_OUT = {n for n in NAMES if int(hashlib.sha256(n.encode()).hexdigest(), 16) % 20 == 0}


def keys(source) -> list[str]:
    return [source[i].key for i in range(len(source))]


def parts(config, every: int = 20) -> tuple[list[str], list[str]]:
    return tuple(keys(Split.Config(source=config, part=part, every=every).build()) for part in ('train', 'validation'))


@pytest.fixture
def tar(tmp_path, make_tar, jpeg):
    def write(name, names, broken=()):
        members = []
        for n in names:
            text = b'{' if n in broken else json.dumps(dict(texts=[None, n], images=['0.jpg', None])).encode()
            members += [(f'{n}.0.jpg', jpeg), (f'{n}.json', text)]
        return Tars.Config(paths=(str(make_tar(tmp_path / name, members)),), cache=str(tmp_path / 'cache'))

    return write


def test_the_name_alone_decides(tar):
    assert 0 < len(HELD_OUT) < 10
    train, validation = parts(tar('a.tar', NAMES))
    assert validation == [f'a:{n}' for n in NAMES if n in HELD_OUT]
    assert sorted(train + validation) == [f'a:{n}' for n in NAMES]
    renamed = parts(tar('b.tar', NAMES[::-1][:40]))
    assert renamed[1] == [f'b:{n}' for n in NAMES[::-1][:40] if n in HELD_OUT]


def test_every_document_is_in_one_part(tmp_path):
    for i in range(12):
        (tmp_path / f'{i}.md').write_text(f'page {i}')
    for config in (Pages.Config(path=str(tmp_path)), Digits.Config(count=40)):
        train, validation = parts(config, every=3)
        assert train and validation and sorted(train + validation) == sorted(keys(config.build()))


def test_names_are_known_without_reading(tar, monkeypatch):
    source = tar('a.tar', NAMES).build()
    assert [source.key(i) for i in range(len(source))] == keys(source)
    monkeypatch.setattr(Tars, 'read', lambda self, index: pytest.fail('a document was read'))
    config = Split.Config(source=tar('a.tar', NAMES), part='validation')
    split = config.build()
    assert [split.key(i) for i in range(len(split))] == [f'a:{n}' for n in NAMES if n in HELD_OUT]


def test_a_broken_document_has_its_part(tar):
    config, name = tar('a.tar', NAMES, broken=HELD_OUT), min(HELD_OUT)
    split = Split.Config(source=config, part='validation').build()
    assert len(split) == len(HELD_OUT) and key_of(split, 0) == f'a:{name}'
    assert len(Split.Config(source=config, part='train').build()) == 60 - len(HELD_OUT)


@pytest.mark.parametrize('change, message', [(dict(part='test'), "'test', known are train"), (dict(every=1), 'every')])
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Split.Config(source=Digits.Config(count=4), **change).build()


def test_a_part_of_a_mixture():
    split = Split.Config(source=Digits.Config(count=30), part='validation', every=4)
    mix = Mix.Config(parts=[Part(source=split)]).build(seed=0)
    wanted = set(keys(split.build()))
    assert {mix[i].key for i in range(len(wanted))} == wanted
