# SPDX-License-Identifier: Apache-2.0
"""WebDataset tars: the members KEY.json, KEY.jpg, KEY.txt ... are one sample.

A tar is read through once to learn where its members lie (about 40,000 members a second); after that any sample costs
one small read, and pictures are slices of the tar that nobody reads before a batch needs them.
"""

import concurrent.futures
import dataclasses
import logging
import pathlib
from typing import Any

import numpy as np

from mmjax.data.sources.archives import tar_members
from mmjax.data.sources.formats import RecordFormat, guess
from mmjax.data.sources.paths import expand
from mmjax.data.sources.problems import Problems
from mmjax.data.sources.records import Record, parse
from mmjax.data.sources.source import CountingSource
from mmjax.data.sources.store import Index, kept_index
from mmjax.document import Document, FileSlice

PICTURES = ('jpg', 'jpeg', 'png', 'webp', 'gif', 'bmp', 'tif', 'tiff', 'ppm', 'avif', 'jp2')
log = logging.getLogger(__name__)


class Tars(CountingSource):
    """Samples of one or many tars; sample i is the i-th in the order of the paths, then of the first members."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Which tars (`{000..127}` and wildcards are spelt out), and how a sample is turned into a document."""

        paths: tuple[str, ...]
        record: RecordFormat | None = None  # None: told by the fields of each record
        quality: str = ''  # field with the score of a sample
        cache: str = ''  # folder for the indexes; '': beside each tar, or in ~/.cache/mmjax where that is read-only

        def build(self) -> 'Tars':
            """Finds the tars, indexes those that were not yet, and returns the source."""
            return Tars(self)

    def __init__(self, config: Config):
        self.paths = expand(config.paths)
        super().__init__(self.paths[0].stem if len(self.paths) == 1 else f'{self.paths[0].stem}..{self.paths[-1].stem}')
        self.config = config
        self.indexes = _indexes(self.paths, config.cache)
        for index in self.indexes:
            self.problems.load(index.notes)
        counts = [index.size('starts') - 1 for index in self.indexes]
        self.ends = np.cumsum(counts)
        if not self.ends[-1]:
            raise ValueError(
                f'{self.name}: no sample in {len(self.paths)} tars: {"; ".join(self.problems.lines()) or "empty"}'
            )

    def __len__(self) -> int:
        return int(self.ends[-1])

    def key(self, index: int) -> str:
        """Returns the key of sample `index`, which is not read."""
        return self._sample(index)[0]

    def read(self, index: int) -> Document:
        """Returns the document of sample `index`."""
        key, name, files = self._sample(index)
        fields: dict[str, Any] = {}
        if 'json' in files:
            fields = parse(files['json'].read(), key)
        record = Record(
            fields, key, _Beside(name, files).find, self.problems, tuple(n for n in files if _is_picture(n))
        )
        if 'txt' in files:
            try:
                fields.setdefault('txt', files['txt'].read().decode('utf-8').strip())
            except UnicodeDecodeError as error:
                raise record.bad('text is not UTF-8', str(error)) from None
        return (self.config.record or guess(fields)).document(record, self.config.quality)

    def _sample(self, index: int) -> tuple[str, str, dict[str, FileSlice]]:
        """Returns (the document's key, the sample's, its members by what follows its key)."""
        tar = int(np.searchsorted(self.ends, index, side='right'))
        start = int(self.ends[tar - 1]) if tar else 0
        name, files = _sample(self.indexes[tar], self.paths[tar], index - start)
        return f'{self.paths[tar].stem}:{name}', name, files


@dataclasses.dataclass
class _Beside:
    """Finds the members of a sample by what follows its key, or by their whole names."""

    key: str
    files: dict[str, FileSlice]

    def find(self, name: str) -> FileSlice | None:
        """Returns the member; '00.jpg', 'KEY.00.jpg' and 'folder/KEY.00.jpg' name the same one."""
        name = name.rsplit('/', 1)[-1]
        return self.files.get(name.removeprefix(self.key.rsplit('/', 1)[-1] + '.').lower())


def _is_picture(suffix: str) -> bool:
    return suffix.rsplit('.', 1)[-1] in PICTURES


def _indexes(paths: list[pathlib.Path], cache: str) -> list[Index]:
    """Returns the index of each tar; those that are new are read through, several at a time for slow file systems."""
    log.info('opening %d tars; those that are new are read through once', len(paths))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda path: kept_index(path, 'samples', _index_samples, cache), paths))


def _index_samples(path: pathlib.Path) -> Index:
    """Reads a tar through: members sample by sample, `starts` tells where each sample begins.

    Members of a key belong together wherever they stand; a key whose kind of member comes again begins a new sample
    (two shards written one after the other may both begin with key 0000).
    """
    problems = Problems()
    samples: list[dict[str, FileSlice]] = []
    keys: list[str] = []
    latest: dict[str, dict[str, FileSlice]] = {}
    for member in tar_members(path, problems):
        folder, _, name = member.name.rpartition('/')
        stem, _, suffix = name.partition('.')
        if not stem:
            continue  # .DS_Store, ._photo.jpg
        if not suffix:
            problems.add('tar member without a suffix', f'{path.name}:{member.name}')
            continue
        key, suffix = f'{folder}/{stem}' if folder else stem, suffix.lower()
        if key not in latest or suffix in latest[key]:
            latest[key] = {}
            samples.append(latest[key])
            keys.append(key)
        latest[key][suffix] = member.place
    places = [place for files in samples for place in files.values()]
    # Names as one string of bytes: 'KEY\nsuffix\nsuffix' for each sample.
    names = [
        '\n'.join([key, *files]).encode('utf-8', 'surrogateescape') for key, files in zip(keys, samples, strict=True)
    ]
    return Index(
        problems.dump(),
        {
            'starts': np.cumsum([0] + [len(files) for files in samples], dtype=np.int64),
            'offsets': np.array([place.offset for place in places], np.int64),
            'sizes': np.array([place.size for place in places], np.int64),
            'name_starts': np.cumsum([0] + [len(name) for name in names], dtype=np.int64),
            'names': np.frombuffer(b''.join(names), np.uint8),
        },
    )


def _sample(index: Index, path: pathlib.Path, number: int) -> tuple[str, dict[str, FileSlice]]:
    """Returns (key, members by what follows the key) of a sample."""
    start, end = (int(v) for v in index.part('starts', number, number + 2))
    name_start, name_end = (int(v) for v in index.part('name_starts', number, number + 2))
    names = index.part('names', name_start, name_end).tobytes().decode('utf-8', 'surrogateescape')
    key, *suffixes = names.split('\n')
    offsets, sizes = index.part('offsets', start, end).tolist(), index.part('sizes', start, end).tolist()
    places = zip(suffixes, offsets, sizes, strict=True)
    return key, {suffix: FileSlice(str(path), offset, size) for suffix, offset, size in places}
