# SPDX-License-Identifier: Apache-2.0
"""Arrays on the disk as zarr 3 has them (zarr-specs.readthedocs.io, core 3.0), written piece by piece.

    kernel/zarr.json    shape, dtype, shape of a chunk
    kernel/c/3/0/0      a chunk's numbers, row by row, not compressed: weights look random

A stacked array has at least a chunk for each member, so that one block of a model is written after the other.

tensorstore, which reads them, writes them too slowly for an import to keep up with half the disk's reading: measured in
turns in one run, 0.24 to 0.40 of it past the cache (0.49 to 0.99 here) and 300 MB more memory.
"""

import errno
import json
import math
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np

CHUNK = 64 << 20  # most bytes of a chunk
WORKERS = 4  # threads; more than cores, since they wait for the disk
HELD = 512 << 20  # bytes that they hold together, unless a single piece is larger
PAGE = 4096  # bytes
STRIP = 128  # columns of a turned matrix that are copied at once


def create(folder: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype, *, stacked: bool) -> None:
    """Writes zarr.json of an array whose chunks are yet to come."""
    grid = dict(name='regular', configuration=dict(chunk_shape=chunk_shape(shape, dtype, stacked=stacked)))
    meta = dict(
        zarr_format=3,
        node_type='array',
        shape=shape,
        data_type=dtype.name,
        chunk_grid=grid,
        chunk_key_encoding=dict(name='default'),
        codecs=[dict(name='bytes', configuration=dict(endian='little'))],
        fill_value=0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'zarr.json').write_text(json.dumps(meta))


def chunk_shape(shape: tuple[int, ...], dtype: np.dtype, *, stacked: bool) -> tuple[int, ...]:
    """Returns the shape of a chunk: as many whole rows of one member as CHUNK holds, and as divide it evenly."""
    lead, own = (shape[:1], shape[1:]) if stacked else ((), shape)
    if not own:
        return (1,) * len(lead)
    size = max(dtype.itemsize * math.prod(own[1:]), 1)
    most = max(min(CHUNK // size, own[0]), 1)
    rows = next(n for n in range(most, 0, -1) if own[0] % n == 0)
    return (1,) * len(lead) + (rows, *own[1:])


def write(folder: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype, member: int | None, array: np.ndarray) -> None:
    """Writes the chunks of an array, or of a member of a stacked one, to the disk."""
    chunk = chunk_shape(shape, dtype, stacked=member is not None)
    rows = (chunk if member is None else chunk[1:])[:1]
    for i in range(len(array) // rows[0] if rows else 1):
        place = ([] if member is None else [member]) + [i] * len(rows) + [0] * (array.ndim - 1)
        path = folder.joinpath('c', *map(str, place))
        path.parent.mkdir(parents=True, exist_ok=True)
        piece = in_order((array[i * rows[0] : (i + 1) * rows[0]] if rows else array).astype(dtype, copy=False))
        _store(path, piece.reshape(-1).view(np.uint8))


def in_order(array: np.ndarray) -> np.ndarray:
    """Returns a copy, at the beginning of a page, with its numbers row by row.

    A turned matrix is copied in strips, whose rows stay in the cache: five times faster than numpy's own copy.
    """
    room = np.empty(array.nbytes + PAGE, np.uint8)
    found = room[-room.ctypes.data % PAGE :][: array.nbytes].view(array.dtype).reshape(array.shape)
    if array.flags.c_contiguous:
        found[...] = array
        return found
    wide = array.shape[-1] > STRIP
    for i in range(0, array.shape[-1] if wide else array.shape[-2], STRIP if wide else 1):
        strip = (..., slice(i, i + STRIP)) if wide else (..., i, slice(None))
        found[strip] = array[strip]
    return found


def _store(path: pathlib.Path, data: np.ndarray) -> None:
    """Writes bytes that begin at a page of memory; they are on the disk when it returns."""
    whole = len(data) - len(data) % PAGE
    done = _past_the_cache(path, data[:whole]) if whole else 0
    with open(path, 'r+b' if done else 'wb', buffering=0) as file:
        file.seek(done)
        rest = memoryview(data[done:])
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _past_the_cache(path: pathlib.Path, data: np.ndarray) -> int:
    """Writes whole pages without the system's copy of them, if the file system can; returns how many bytes it wrote.

    It takes a tenth of the processor's time, and what others have in the cache stays there.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    except (AttributeError, OSError):  # another system than Linux, another file system
        return 0
    try:
        done = 0
        while done < len(data) and done % PAGE == 0:
            done += os.write(file, memoryview(data[done:]))
        return done
    except OSError as e:
        if e.errno == errno.EINVAL:
            return 0
        raise
    finally:
        os.close(file)


def at_once(jobs: Iterable[tuple[int, Callable[[], None]]]) -> None:
    """Runs jobs in threads, each of which holds so many bytes; raises the first error, when no other job is begun."""
    budget = _Budget(HELD)

    def run(size: int, job: Callable[[], None]) -> None:
        with budget.take(size):
            job()

    with ThreadPoolExecutor(WORKERS) as threads:
        done = [threads.submit(run, size, job) for size, job in jobs]
        try:
            finished, _ = wait(done, return_when=FIRST_EXCEPTION)
            for one in finished:
                one.result()
        finally:
            threads.shutdown(cancel_futures=True)


class _Budget:
    """Bytes that are lent; who wants more than there are in all gets them alone."""

    def __init__(self, size: int):
        self._free, self._size, self._change = size, size, threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        size = min(size, self._size)
        with self._change:
            self._change.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._change:
                self._free += size
                self._change.notify_all()
