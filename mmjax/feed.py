# SPDX-License-Identifier: Apache-2.0
"""Carries batches to the devices ahead of time: a thread decodes and copies batch n + 1 while the devices compute n."""

import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mmjax.batch import Batch
from mmjax.sharding import ROWS, P


class Fed(NamedTuple):
    """A batch on the devices, and what the host knows of it."""

    batch: Batch
    state: np.ndarray  # of the data after this batch, this host's rows: int [rows, 2]
    counts: Counter  # 'tokens', 'images' and 'places' (for tokens) of this host's rows


def rows_of_host(rows: int, mesh: Mesh) -> range:
    """Returns the rows of a global batch that this process must read, those that its devices hold."""
    if rows % (mesh.shape['data'] * mesh.shape['fsdp']):
        raise ValueError(f'{rows} rows cannot be shared out to data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]}')
    slices = [s[0] for s in _sharding(mesh).addressable_devices_indices_map((rows,)).values()]
    held = sorted({(s.start or 0, rows if s.stop is None else s.stop) for s in slices})
    if any(a[1] != b[0] for a, b in itertools.pairwise(held)):
        raise ValueError(f'the devices of process {jax.process_index()} hold rows {held}, which are no single range')
    return range(held[0][0], held[-1][1])


def to_global(batch: Batch, mesh: Mesh) -> Batch:
    """Returns a global batch over the mesh from the rows that this process read."""
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(_sharding(mesh), a), batch)


class Feed:
    """Iterates batches on the devices, `depth` of them made ahead. `state` belongs to the batches handed out so far.

    `pipeline` iterates (batch, ...) and has `state()`; it is used by the feed's thread alone until `close`.
    """

    def __init__(self, pipeline: Any, mesh: Mesh, depth: int = 2):
        self.state: np.ndarray = np.asarray(pipeline.state())
        self.stalled = 0.0  # seconds that `next` has waited in all
        self._queue: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=depth)
        self._next: Fed | BaseException | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(pipeline, mesh), name='feed', daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Fed]:
        return self

    def __next__(self) -> Fed:
        start = time.perf_counter()
        fed = self.peek()
        self.stalled += time.perf_counter() - start
        self._next, self.state = None, fed.state
        return fed

    def peek(self) -> Fed:
        """Returns the batch that comes next without taking it."""
        if self._next is None:
            self._next = self._queue.get()
        if isinstance(self._next, BaseException):
            raise self._next
        return self._next

    def close(self) -> None:
        """Stops the thread; batches that were made ahead are forgotten, the data's state is not."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def _fill(self, pipeline: Any, mesh: Mesh) -> None:
        try:
            for batch, *_ in pipeline:
                state = np.array(pipeline.state())
                if not self._put(Fed(to_global(batch, mesh), state, _count(batch))):
                    return
            raise RuntimeError('the data came to an end; a mixture for training must be endless')
        except BaseException as e:
            self._put(e)

    def _put(self, item: Fed | BaseException) -> bool:
        while not self._closing.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(ROWS))


def _count(batch: Batch) -> Counter:
    tokens = int(np.count_nonzero(batch.span[..., 1] > batch.span[..., 0]))
    sizes = [] if batch.media_size is None else [batch.media_size]
    sizes += [sense.size for sense in (batch.senses or {}).values()]
    images = sum(int(np.count_nonzero(size[..., 0])) for size in sizes)
    return Counter(tokens=tokens, images=images, places=batch.tokens.size)
