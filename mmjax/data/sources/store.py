# SPDX-License-Identifier: Apache-2.0
"""What is worked out of a data file once and kept: an index of arrays beside it, or in a cache where it is read-only.

An index belongs to one size and modification time of its file; after any change it is made anew. It is written under
another name and then renamed, so that processes which make it at the same time do not harm each other.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator

import numpy as np
import safetensors
import safetensors.numpy

VERSION = '1'  # of what the arrays mean


@dataclasses.dataclass
class Index:
    """Named one-dimensional arrays and notes: in the file `path`, or in memory where nothing is writable."""

    notes: dict[str, str]
    arrays: dict[str, np.ndarray]
    path: str = ''

    def part(self, name: str, start: int, end: int) -> np.ndarray:
        """Returns array[start:end]; a kept index is not loaded for it."""
        return _opened(self.path).get_slice(name)[start:end] if self.path else self.arrays[name][start:end]

    def size(self, name: str) -> int:
        """Returns the length of an array."""
        return _opened(self.path).get_slice(name).get_shape()[0] if self.path else len(self.arrays[name])


# A handle is a mapping of the file, without a file descriptor: 15 microseconds to make, 4 to read a few numbers.
@functools.lru_cache(maxsize=1024)
def _opened(path: str) -> safetensors.safe_open:
    return safetensors.safe_open(path, 'np')


def kept_index(path: pathlib.Path, kind: str, make: Callable[[pathlib.Path], Index], cache: str = '') -> Index:
    """Returns the index of this kind of a file: the kept one if the file is still as it was then, else one made now."""
    stamp = {'version': VERSION, **file_stamp(path)}
    places = list(kept_paths(path, f'.{kind}.index', cache))
    for place in places:
        notes = _notes(place)
        if notes is not None and stamp.items() <= notes.items():
            return Index(notes, {}, str(place))
    index = make(path)
    index.notes |= stamp
    data = safetensors.numpy.save(index.arrays, metadata=index.notes)
    for place in places:
        if write_whole(place, data):
            # A handle of an older file of this name may still be open.
            _opened.cache_clear()
            return Index(index.notes, {}, str(place))
    return index


def file_stamp(path: pathlib.Path) -> dict[str, str]:
    """Returns what changes when a file does."""
    stat = path.stat()
    return {'size': str(stat.st_size), 'modified': str(stat.st_mtime_ns)}


def kept_paths(path: pathlib.Path, suffix: str, cache: str = '') -> Iterator[pathlib.Path]:
    """Yields where a file's derivative may lie: in `cache` if that is given, else beside it or in the user's cache."""
    path = pathlib.Path(os.path.abspath(path))
    name = f'{hashlib.sha256(str(path).encode()).hexdigest()[:16]}-{path.name}{suffix}'
    if cache:
        yield pathlib.Path(cache) / name
        return
    yield path.with_name(path.name + suffix)
    home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    yield pathlib.Path(home) / 'mmjax' / name


def write_whole(path: pathlib.Path, data: bytes) -> bool:
    """Writes a file so that others see all of it or nothing; returns False where that is not allowed."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part')
    try:
        if not may_write(path.parent):
            return False
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        return False
    return True


def may_write(folder: pathlib.Path) -> bool:
    """Tells whether we may put files into a folder, which is made if need be; root too leaves read-only ones alone."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _notes(path: pathlib.Path) -> dict[str, str] | None:
    """Returns the notes of an index file; None where there is none, or what is there is broken."""
    try:
        with safetensors.safe_open(str(path), 'np') as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return None
