# SPDX-License-Identifier: Apache-2.0
"""Records of JSON files by byte offset: the lines of .jsonl, the elements of a .json list.

Compressed files (.gz, .zip) are unpacked once, into the cache or beside the file: there is no way to read their middle.
"""

import glob
import gzip
import json
import os
import pathlib
import re
import secrets
import shutil
import zipfile

import numpy as np

from mmjax.data.sources.problems import Problems
from mmjax.data.sources.store import Index, file_stamp, kept_index, kept_paths, may_write

CHUNK = 1 << 24
COMPRESSED = ('.gz', '.zip')
_GAP = re.compile(r'[\s,]*')


def index_records(path: pathlib.Path, problems: Problems, cache: str = '') -> tuple[pathlib.Path, Index]:
    """Returns (the file that holds the records, the `start` and `size` in bytes of each)."""
    plain = unpacked(path, cache) if path.suffix.lower() in COMPRESSED else path
    index = kept_index(plain, 'records', _index, cache)
    problems.load(index.notes)
    return plain, index


def unpacked(path: pathlib.Path, cache: str = '') -> pathlib.Path:
    """Returns the unpacked file of a .gz, or of a .zip with one member; it is made once for each state of the file."""
    suffix = f'.{"-".join(file_stamp(path).values())}.unpacked'
    places = list(kept_paths(path, suffix, cache))
    for place in places:
        if place.is_file():
            return place
    for place in places:
        try:
            if may_write(place.parent):
                _unpack(path, place)
                for old in place.parent.glob(glob.escape(place.name.removesuffix(suffix)) + '.*.unpacked*'):
                    if not old.name.startswith(place.name):
                        old.unlink(missing_ok=True)  # of a former state of the file
                return place
        except OSError:
            continue
    raise OSError(
        f'{path} must be unpacked to be read, but none of {[str(p.parent) for p in places]} can be written to'
    )


def _unpack(path: pathlib.Path, place: pathlib.Path) -> None:
    temporary = place.with_name(f'{place.name}.{os.getpid()}.{secrets.token_hex(4)}.part')
    try:
        with open(temporary, 'wb') as out:
            if path.suffix.lower() == '.gz':
                with gzip.open(path) as file:
                    shutil.copyfileobj(file, out, CHUNK)
            else:
                with zipfile.ZipFile(path) as archive:
                    names = [name for name in archive.namelist() if not name.endswith('/')]
                    if len(names) != 1:
                        raise ValueError(f'{path} holds {len(names)} files {names[:3]}, expected one .jsonl')
                    with archive.open(names[0]) as file:
                        shutil.copyfileobj(file, out, CHUNK)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _index(path: pathlib.Path) -> Index:
    problems = Problems()
    with open(path, 'rb') as file:
        first = file.read(4096).lstrip(b'\xef\xbb\xbf \t\r\n')[:1]
    starts, ends = _elements(path, problems) if first == b'[' else _lines(path)
    return Index(problems.dump(), {'start': starts, 'size': ends - starts})


def _lines(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the starts and ends of the lines that are not blank; what they hold is seen when they are read."""
    breaks = [np.array([-1], np.int64)]
    with open(path, 'rb') as file:
        done = 0
        while chunk := file.read(CHUNK):
            breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + done)
            done += len(chunk)
    places = np.concatenate([*breaks, np.array([done], np.int64)])
    starts, ends = places[:-1] + 1, places[1:]
    keep = ends - starts > 1  # '\r' alone is blank too
    return starts[keep], ends[keep]


def _elements(path: pathlib.Path, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Returns the starts and ends of the objects in the list that a JSON file holds."""
    starts: list[int] = []
    ends: list[int] = []
    decode = json.JSONDecoder().raw_decode
    with open(path, 'rb') as file:
        # Read as Latin-1 a character is a byte, so that places in the text are places in the file; JSON's own signs are
        # ASCII in UTF-8 too.
        text = file.read(CHUNK).decode('latin-1')
        base, place = 0, text.index('[') + 1
        while True:
            place = _GAP.match(text, place).end()
            if text.startswith(']', place):
                break
            try:
                value, end = decode(text, place)
            except (ValueError, RecursionError) as error:
                more = file.read(max(CHUNK, len(text) - place))
                if not more:
                    problems.add('JSON list is cut off', f'{path.name}: at byte {base + place}: {error}')
                    break
                base, text, place = base + place, text[place:] + more.decode('latin-1'), 0
                continue
            if isinstance(value, dict):
                starts.append(base + place)
                ends.append(base + end)
            else:
                problems.add('not a JSON object', f'{path.name}: at byte {base + place}')
            place = end
    return np.array(starts, np.int64), np.array(ends, np.int64)
