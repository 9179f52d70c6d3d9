# SPDX-License-Identifier: Apache-2.0
"""Indexes are kept, made anew when their file changes, and never half written."""

import multiprocessing
import os
import pathlib

import numpy as np
import pytest

from mmjax.data.sources import store
from mmjax.data.sources.problems import Problems


class Maker:
    """Makes an index of a file's bytes, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, path: pathlib.Path) -> store.Index:
        self.calls += 1
        return store.Index({'problems': '[{}, {}]'}, {'bytes': np.frombuffer(path.read_bytes(), np.uint8)})


def text(index: store.Index) -> bytes:
    return index.part('bytes', 0, index.size('bytes')).tobytes()


def test_an_index_is_made_once_and_anew_when_the_file_changes(tmp_path):
    path, make = tmp_path / 'x', Maker()
    path.write_bytes(b'one')
    assert [text(store.kept_index(path, 'k', make)) for _ in range(2)] == [b'one'] * 2 and make.calls == 1
    assert (tmp_path / 'x.k.index').is_file()
    before = path.stat()
    path.write_bytes(b'two')  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert text(store.kept_index(path, 'k', make)) == b'two' and make.calls == 2
    path.write_bytes(b'longer')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # of the same time
    assert text(store.kept_index(path, 'k', make)) == b'longer' and make.calls == 3


def test_kinds_do_not_share_an_index(tmp_path):
    path, make = tmp_path / 'x', Maker()
    path.write_bytes(b'one')
    store.kept_index(path, 'a', make)
    store.kept_index(path, 'b', make)
    assert make.calls == 2


@pytest.mark.parametrize('damage', [b'', b'garbage', None])
def test_a_broken_index_is_made_anew(tmp_path, damage):
    path, make = tmp_path / 'x', Maker()
    path.write_bytes(b'one' * 100)
    store.kept_index(path, 'k', make)
    kept = tmp_path / 'x.k.index'
    kept.write_bytes(kept.read_bytes()[:-7] if damage is None else damage)
    assert text(store.kept_index(path, 'k', make)) == b'one' * 100 and make.calls == 2


def test_read_only_folders_are_left_alone_and_the_cache_is_used(tmp_path):
    folder = tmp_path / 'data'
    folder.mkdir()
    (folder / 'x').write_bytes(b'one')
    folder.chmod(0o555)
    make = Maker()
    for _ in range(2):
        index = store.kept_index(folder / 'x', 'k', make)
        assert text(index) == b'one'
    assert make.calls == 1 and os.listdir(folder) == ['x']
    assert pathlib.Path(index.path).parent == tmp_path / 'xdg-cache' / 'mmjax'
    folder.chmod(0o755)


def test_where_nothing_is_writable_the_index_stays_in_memory(tmp_path, monkeypatch):
    (tmp_path / 'x').write_bytes(b'one')
    monkeypatch.setattr(store, 'may_write', lambda folder: False)
    index = store.kept_index(tmp_path / 'x', 'k', Maker())
    assert not index.path and text(index) == b'one' and index.size('bytes') == 3


def test_a_cache_of_ones_own(tmp_path):
    (tmp_path / 'x').write_bytes(b'one')
    index = store.kept_index(tmp_path / 'x', 'k', Maker(), str(tmp_path / 'mine'))
    assert pathlib.Path(index.path).parent == tmp_path / 'mine' and not (tmp_path / 'x.k.index').exists()


def write_many(path: str, byte: int) -> None:
    for _ in range(20):
        assert store.write_whole(pathlib.Path(path), bytes([byte]) * 200_000)


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / 'x'
    store.write_whole(path, b'\0' * 200_000)
    writers = [
        multiprocessing.get_context('fork').Process(target=write_many, args=(str(path), byte)) for byte in (1, 2)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        data = path.read_bytes()
        assert len(data) == 200_000 and len(set(data[::199_999])) == 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert os.listdir(tmp_path) == ['x']


def test_problems_survive_the_index():
    problems, other = Problems(), Problems()
    problems.add('lost', 'a', 5)
    for example in 'bcd':
        problems.add('lost', example)
    other.load(problems.dump())
    assert other.counts == problems.counts == {'lost': 8} and other.examples == problems.examples == {
        'lost': ['a', 'b', 'c']
    }
    assert other.lines() == ['8 x lost: a; b; c']
