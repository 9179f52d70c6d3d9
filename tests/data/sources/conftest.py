# SPDX-License-Identifier: Apache-2.0
"""Small pictures and archives for the tests of sources; indexes never land beside the shared data."""

import io
import pathlib
import tarfile
import zipfile
from collections.abc import Callable

import pytest
from PIL import Image as pillow

from mmjax.data.sources.problems import Problems
from mmjax.data.sources.records import Record


def encode(width: int = 8, height: int = 6, colour: tuple[int, int, int] = (200, 30, 30), kind: str = 'JPEG') -> bytes:
    stream = io.BytesIO()
    pillow.new('RGB', (width, height), colour).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def jpeg() -> bytes:
    return encode()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Returns an encoded picture of one colour."""
    return encode


@pytest.fixture
def make_tar() -> Callable[..., pathlib.Path]:
    """Writes a tar of (name, bytes) members."""

    def make(path: pathlib.Path, members: list[tuple[str, bytes]], **options) -> pathlib.Path:
        with tarfile.open(path, 'w', **options) as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def make_zip() -> Callable[..., pathlib.Path]:
    """Writes a zip of (name, bytes) members."""

    def make(path: pathlib.Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> pathlib.Path:
        with zipfile.ZipFile(path, 'w', method) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return path

    return make


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Makes a record of fields whose pictures are all found, but for those whose name begins with 'no'."""

    def make(fields: dict, pictures: tuple[str, ...] = (), size: tuple[int, int] = (100, 50)) -> Record:
        data = encode(*size)
        return Record(
            fields, 'it', lambda name: None if name.startswith(('no', 'http')) else data, Problems(), pictures
        )

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Read-only data is indexed into this test's own cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg-cache'))
