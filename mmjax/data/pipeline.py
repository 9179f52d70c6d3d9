# SPDX-License-Identifier: Apache-2.0
"""The order of the rows: batches as a function of (seed, step), whatever the number of hosts, workers or restarts.

Row r of every global batch is fed by stream r. Every R documents of the mixture (R rows a global batch) are dealt to
the R streams, one each, beginning at a random stream. A stream takes a window of its documents at a time, packs it
into rows, shuffles those, and gives them out one by one. So its state is two integers (window, rows given out of it),
and a host can serve any of the streams.

    documents of the mixture   0 1 2 3 | 4 5 6 7 | 8 9 ...
    dealt to the streams       2 3 0 1 | 0 1 2 3 | 3 0 ...
"""

import collections
import concurrent.futures
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.batch import Batch
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix
from mmjax.data.pack import pack
from mmjax.data.render import Row, render, stack
from mmjax.document import BadDocument

# So many windows in a row without a single usable document mean that the data is unfit, not unlucky.
MOST_EMPTY = 16


class Info(NamedTuple):
    """What the host knows of a batch: the keys of each row's documents."""

    keys: list[list[str]]


class Stats:
    """What went through a pipeline since it was made, and what was left out and why."""

    def __init__(self):
        self.documents = self.tokens = self.places = self.images = 0
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def drop(self, error: BadDocument) -> None:
        """Counts a document that was left out."""
        self.dropped[error.reason] += 1
        self.examples.setdefault(error.reason, str(error))

    @property
    def efficiency(self) -> float:
        """The share of token places that documents filled."""
        return self.tokens / max(1, self.places)


class Stream:
    """The rows that one row of the batch is made of, in order. The next window is laid out bit by bit, row by row."""

    def __init__(self, mix: Mix, layout: Layout, seed: int, number: int, rows: int, window: int, stats: Stats):
        self._mix, self._layout, self._seed, self._stats = mix, layout, seed, stats
        self._number, self._rows, self._size = number, rows, window
        self.seek(0, 0)

    def seek(self, window: int, given: int) -> None:
        """Goes to a place that `state` named."""
        self._window, self._given = window, given
        self._current: list[list[Laid]] | None = None
        self._ahead: list[Laid] = []
        self._read = 0  # documents of the window after the current one that are laid out already

    @property
    def state(self) -> tuple[int, int]:
        """(window, rows given out of it)."""
        return self._window, self._given

    def __next__(self) -> list[Laid]:
        if self._current is None:
            self._current = self._packed(self._laid(self._window, 0, self._size), self._window)
        empty = 0
        while self._given >= len(self._current):
            empty += not self._current
            if empty > MOST_EMPTY:
                raise ValueError(
                    f'{MOST_EMPTY * self._size} documents in a row were dropped: {dict(self._stats.dropped)}; '
                    f'for example {next(iter(self._stats.examples.values()), "none")}'
                )
            rest = self._laid(self._window + 1, self._read, self._size)
            self._window, self._given = self._window + 1, 0
            self._current = self._packed(self._ahead + rest, self._window)
            self._ahead, self._read = [], 0
        row = self._current[self._given]
        self._given += 1
        # A whole window at once would stall the device; so each row brings its share of the next one.
        due = self._size * self._given // len(self._current)
        self._ahead += self._laid(self._window + 1, self._read, due)
        self._read = due
        return row

    def _laid(self, window: int, start: int, stop: int) -> list[Laid]:
        laid = []
        for i in range(window * self._size + start, window * self._size + stop):
            try:
                laid += self._layout(self._mix[self._rows * i + self._dealt(i)])
            except BadDocument as error:
                self._stats.drop(error)
        return laid

    def _dealt(self, block: int) -> int:
        """Returns which of a block's documents is this stream's.

        Always the same one would tie a stream to one source: mixtures alternate their sources in a fixed pattern.
        """
        return (self._number + int(np.random.default_rng([self._seed, 1, block]).integers(self._rows))) % self._rows

    def _packed(self, laid: list[Laid], window: int) -> list[list[Laid]]:
        rows = pack(laid, self._layout.shape)
        order = np.random.default_rng([self._seed, 2, self._number, window]).permutation(len(rows))
        return [rows[i] for i in order]


class Pipeline:
    """An endless iterator of (Batch, Info) of this host's rows; threads decode pictures ahead of their turn."""

    def __init__(
        self,
        data: Mix.Config,
        layout: Layout,
        rows: int,
        seed: int,
        row_range: tuple[int, int] | None = None,
        workers: int = 2,
        prefetch: int = 2,
    ):
        start, stop = row_range or (0, rows)
        if not 0 <= start < stop <= rows:
            raise ValueError(f'rows {start} to {stop} of a batch of {rows}; 0 <= first < end <= rows is needed')
        self.stats, self.layout = Stats(), layout
        mix = data.build(seed)
        self._streams = [Stream(mix, layout, seed, r, rows, data.window, self.stats) for r in range(start, stop)]
        self._pool = concurrent.futures.ThreadPoolExecutor(max(1, workers), 'decode')
        self._prefetch = max(1, prefetch)
        self._pending: collections.deque[tuple[list[concurrent.futures.Future[Row]], np.ndarray]] = collections.deque()
        self._state = self._now()

    def state(self) -> np.ndarray:
        """Returns the state of this host's streams after the batch handed out last, int64 [rows, 2]."""
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Goes on behind the batch after which `state` was taken."""
        if np.shape(state) != self._state.shape:
            raise ValueError(
                f'data state of shape {np.shape(state)} for {len(self._streams)} rows of two numbers; '
                'it belongs to a batch of another size'
            )
        self._pending.clear()
        for stream, (window, given) in zip(self._streams, np.asarray(state).tolist(), strict=True):
            stream.seek(window, given)
        self._state = self._now()

    def __iter__(self) -> Iterator[tuple[Batch, Info]]:
        return self

    def __next__(self) -> tuple[Batch, Info]:
        while len(self._pending) < self._prefetch:
            futures = [self._pool.submit(render_row, next(s), self.layout) for s in self._streams]
            self._pending.append((futures, self._now()))
        futures, state = self._pending.popleft()
        rows = [future.result() for future in futures]
        self._state = state
        self._count(rows)
        return stack(rows), Info([row.keys for row in rows])

    def _now(self) -> np.ndarray:
        return np.array([s.state for s in self._streams], np.int64)

    def _count(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for error in row.blanked:
                self.stats.drop(error)
            self.stats.documents += len(row.keys) - len(row.blanked)
            self.stats.tokens += int(np.count_nonzero(row.batch.span[:, 1] > row.batch.span[:, 0]))
            self.stats.places += len(row.batch.span)
            if row.batch.media_size is not None:
                self.stats.images += int(np.count_nonzero(row.batch.media_size[:, 0]))
            for sense in (row.batch.senses or {}).values():
                self.stats.images += int(np.count_nonzero(sense.size[:, 0]))


def render_row(documents: Sequence[Laid], layout: Layout) -> Row:
    """Returns one row of a batch, pictures decoded."""
    return render(documents, layout.shape, layout.spec, layout.decode, layout.pad)


def finite(laid: Sequence[Laid], layout: Layout, rows: int) -> Iterator[tuple[Batch, Info]]:
    """Yields batches that hold every given document once; the last one is filled up with empty rows."""
    packed = pack(laid, layout.shape)
    for start in range(0, len(packed), rows):
        some = packed[start : start + rows]
        rendered = [render_row(row, layout) for row in some + [[]] * (rows - len(some))]
        yield stack(rendered), Info([row.keys for row in rendered])
