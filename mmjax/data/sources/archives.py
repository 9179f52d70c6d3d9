# SPDX-License-Identifier: Apache-2.0
"""Members of tar and zip files by byte offset. Files are never unpacked, rewritten or loaded whole.

A tar that is cut off or damaged in the middle gives what can be read: after the damage the next valid header is looked
for, and the bytes between are counted.
"""

import dataclasses
import os
import pathlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mmjax.data.sources.problems import Problems
from mmjax.document import FileSlice

BLOCK = 512
CHUNK = 2048 * BLOCK
MAX_INFLATED = 1 << 30  # a member of a hostile zip would fill the memory


@dataclasses.dataclass(frozen=True)
class Deflated(FileSlice):
    """A compressed member of a zip; `read` returns it inflated."""

    def read(self) -> bytes:
        """Returns the bytes, inflated; of a part of the member what can be inflated."""
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(super().read(), MAX_INFLATED)


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    place: FileSlice


def members(path: pathlib.Path, problems: Problems) -> Iterator[Member]:
    """Yields the files of a tar or zip in their order; what cannot be read is counted."""
    return zip_members(path, problems) if path.suffix.lower() == '.zip' else tar_members(path, problems)


def zip_members(path: pathlib.Path, problems: Problems) -> Iterator[Member]:
    """Yields the files of a zip: stored ones as plain slices, deflated ones as slices to inflate."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, 'rb') as file:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    problems.add('encrypted or rare zip member', f'{path.name}:{info.filename}')
                    continue
                # The local header has name and extra fields of its own, whose lengths may differ from the directory's.
                file.seek(info.header_offset + 26)
                name_size, extra_size = struct.unpack('<HH', file.read(4))
                offset = info.header_offset + 30 + name_size + extra_size
                kind = Deflated if info.compress_type == zipfile.ZIP_DEFLATED else FileSlice
                yield Member(info.filename, kind(str(path), offset, info.compress_size))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        problems.add('unreadable zip', f'{path}: {error}')


def tar_members(path: pathlib.Path, problems: Problems) -> Iterator[Member]:
    """Yields the files of a tar, also of several tars written one after the other."""
    end = os.path.getsize(path)
    with open(path, 'rb') as file:
        if file.read(2) == b'\x1f\x8b':
            raise ValueError(f'{path} is compressed, so nothing in it can be read by its place; unpack it with gunzip')
        start: int | None = 0
        found = False  # whether a valid header stands at start
        while start is not None:
            stop = start
            for member, following in _tar_run(file, start):
                stop = following
                if member.offset_data + member.size > end:
                    there = max(end - member.offset_data, 0)
                    problems.add('truncated tar member', f'{path.name}:{member.name}, {there} of {member.size} bytes')
                elif member.isreg():
                    yield Member(member.name, FileSlice(str(path), member.offset_data, member.size))
            # A header that is valid but leads nowhere (a broken name extension) must not be found again.
            skipped = BLOCK if found and stop == start else 0
            start, damaged = _next_header(file, stop + skipped, end)
            damaged, found = damaged + skipped, True
            if damaged:
                problems.add('damaged bytes in tar', f'{path.name}: from byte {stop} on', damaged)


def _tar_run(file: BinaryIO, start: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yields (member, the byte where the next header stands) until the tar ends or a header is no header."""
    file.seek(start)
    try:
        archive = tarfile.TarFile(fileobj=file)
        while (member := archive.next()) is not None:
            yield member, archive.offset
            archive.members = []  # TarFile would keep them all
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        return


def _next_header(file: BinaryIO, start: int, end: int) -> tuple[int | None, int]:
    """Returns (the byte of the next valid header from `start` on or None, the damaged bytes before it)."""
    damaged = 0
    for place in range(start, end, CHUNK):
        file.seek(place)
        data = file.read(min(CHUNK, end - place))
        blocks = np.frombuffer(data[: len(data) // BLOCK * BLOCK], np.uint8).reshape(-1, BLOCK)
        for row in np.flatnonzero((blocks[:, 257:262] == np.frombuffer(b'ustar', np.uint8)).all(1)):
            if _is_header(blocks[row].tobytes()):
                return place + BLOCK * int(row), damaged + BLOCK * int(blocks[:row].any(1).sum())
        damaged += BLOCK * int(blocks.any(1).sum()) + (len(data) % BLOCK if any(data[blocks.size :]) else 0)
    return None, damaged


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, 'surrogateescape')
    except tarfile.HeaderError:
        return False
    return True
