# SPDX-License-Identifier: Apache-2.0
"""Where pictures are looked up by name: a folder, or tar and zip files."""

import hashlib
import pathlib
import urllib.parse
from collections.abc import Iterable

import numpy as np

from mmjax.data.sources.archives import Deflated, members
from mmjax.data.sources.problems import Problems
from mmjax.data.sources.store import Index, kept_index
from mmjax.document import FileSlice

ARCHIVES = ('.tar', '.zip')


class Folder:
    """Pictures by their paths in a folder, or anywhere by absolute paths."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def find(self, name: str) -> pathlib.Path | None:
        """Returns the file of this name, also where the name is written as in a URL; None if there is none."""
        for spelling in spellings(name):
            try:
                if (path := self.root / spelling).is_file():
                    return path
            except (OSError, ValueError):  # a name that no file can have
                continue
        return None


class Archive:
    """Pictures by their names in tar and zip files; 25 bytes of memory a member."""

    def __init__(self, paths: Iterable[pathlib.Path], problems: Problems, cache: str = ''):
        self.paths = [str(path) for path in paths]
        self.parts: list[dict[str, np.ndarray]] = []
        for path in self.paths:
            index = kept_index(pathlib.Path(path), 'names', _index_names, cache)
            problems.load(index.notes)
            self.parts.append(
                {name: index.part(name, 0, index.size(name)) for name in ('hash', 'offset', 'size', 'deflated')}
            )

    def find(self, name: str) -> FileSlice | None:
        """Returns the member of this name; of several the first; None if there is none."""
        for spelling in spellings(name):
            wanted = _hash(spelling)
            for path, part in zip(self.paths, self.parts, strict=True):
                place = int(np.searchsorted(part['hash'], wanted))
                if place < len(part['hash']) and part['hash'][place] == wanted:
                    kind = Deflated if part['deflated'][place] else FileSlice
                    return kind(path, int(part['offset'][place]), int(part['size'][place]))
        return None


Media = Folder | Archive


def open_media(path: pathlib.Path, problems: Problems, cache: str = '') -> Media:
    """Opens a folder, a tar or a zip as a place to look pictures up in."""
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        return Archive([path], problems, cache)
    raise FileNotFoundError(f'{path}: neither a folder nor a tar or zip with pictures')


def spellings(name: str) -> list[str]:
    """Returns a name as it stands, and as it reads when it was written as in a URL or on Windows."""
    plain = urllib.parse.unquote(name.split('#')[0].split('?')[0])
    return list(dict.fromkeys([name, plain, plain.replace('\\', '/')]))


def _index_names(path: pathlib.Path) -> Index:
    problems = Problems()
    found = [
        (_hash(m.name), m.place.offset, m.place.size, isinstance(m.place, Deflated)) for m in members(path, problems)
    ]
    columns = list(zip(*found, strict=True)) if found else [(), (), (), ()]
    hashes = np.array(columns[0], np.uint64)
    order = np.argsort(hashes, kind='stable')
    return Index(
        problems.dump(),
        {
            'hash': hashes[order],
            'offset': np.array(columns[1], np.int64)[order],
            'size': np.array(columns[2], np.int64)[order],
            'deflated': np.array(columns[3], bool)[order],
        },
    )


def _hash(name: str) -> int:
    """Returns 64 bits of a name; of a hundred million names two meet with a chance of 1 in 3,000."""
    name = name.removeprefix('./')
    return int.from_bytes(hashlib.blake2b(name.encode('utf-8', 'surrogateescape'), digest_size=8).digest(), 'little')
