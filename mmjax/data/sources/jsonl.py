# SPDX-License-Identifier: Apache-2.0
"""JSON lines (or a JSON list) with a record a line, whose pictures lie in folders, tars or zips."""

import dataclasses
import pathlib

import numpy as np

from mmjax.data.sources.formats import RecordFormat, guess
from mmjax.data.sources.lines import index_records
from mmjax.data.sources.media import Media, open_media
from mmjax.data.sources.paths import expand
from mmjax.data.sources.records import Record, parse
from mmjax.data.sources.source import CountingSource
from mmjax.document import Document, FileSlice, Pixels

USUAL_MEDIA = ('images.zip', 'images.tar', 'images')


class JsonLines(CountingSource):
    """Records of one or many JSON files; the file is indexed once, a record is read when it is asked for."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Which files, where their pictures lie, and how a record is turned into a document."""

        paths: tuple[str, ...]
        # Folders, tars, zips, searched in turn; (): images.zip, images.tar, images/ beside the file, then its folder.
        images: tuple[str, ...] = ()
        record: RecordFormat | None = None  # None: told by the fields of each record
        quality: str = ''  # field with the score of a record
        key: str = 'id'  # field that names a record; its number where it has none
        cache: str = ''  # folder for indexes and unpacked files; '': beside the file, or in ~/.cache/mmjax

        def build(self) -> 'JsonLines':
            """Finds the files, indexes those that were not yet, and returns the source."""
            return JsonLines(self)

    def __init__(self, config: Config):
        paths = expand(config.paths)
        super().__init__(paths[0].stem if len(paths) == 1 else f'{paths[0].stem}..{paths[-1].stem}')
        self.config = config
        self.paths = paths
        opened = [index_records(path, self.problems, config.cache) for path in paths]
        self.plain = [str(plain) for plain, _ in opened]
        self.indexes = [index for _, index in opened]
        self.ends = np.cumsum([index.size('start') for index in self.indexes])
        if not self.ends[-1]:
            raise ValueError(
                f'{self.name}: no record in {paths[0]}; {"; ".join(self.problems.lines()) or "it is empty"}'
            )
        self.media: list[Media] = [open_media(path, self.problems, config.cache) for path in self._places()]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, index: int) -> Document:
        """Returns the document of record `index`."""
        file = int(np.searchsorted(self.ends, index, side='right'))
        number = index - (int(self.ends[file - 1]) if file else 0)
        start, size = (int(self.indexes[file].part(name, number, number + 1)[0]) for name in ('start', 'size'))
        key = f'{self.paths[file].stem}:{number}'
        fields = parse(FileSlice(self.plain[file], start, size).read(), key)
        named = fields.get(self.config.key)
        if isinstance(named, str | int):
            key = f'{self.paths[file].stem}:{named}'
        record = Record(fields, key, self._find, self.problems)
        return (self.config.record or guess(fields)).document(record, self.config.quality)

    def _find(self, name: str) -> Pixels | None:
        return next((pixels for media in self.media if (pixels := media.find(name)) is not None), None)

    def _places(self) -> list[pathlib.Path]:
        if self.config.images:
            return [path for pattern in self.config.images for path in _images(pattern)]
        folders = list(dict.fromkeys(path.parent for path in self.paths))
        beside = [folder / name for folder in folders for name in USUAL_MEDIA]
        return [path for path in beside if path.exists()] + folders


def _images(pattern: str) -> list[pathlib.Path]:
    path = pathlib.Path(pattern).expanduser()
    return [path] if path.is_dir() else expand([pattern])
