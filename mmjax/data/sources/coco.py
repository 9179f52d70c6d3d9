# SPDX-License-Identifier: Apache-2.0
"""COCO's detection files: pictures with boxes of categories in one JSON file."""

import dataclasses
import json
import pathlib
from typing import Any

from mmjax.data.sources.boxes import BoxFormat
from mmjax.data.sources.jsonl import USUAL_MEDIA
from mmjax.data.sources.media import open_media
from mmjax.data.sources.pairs import regions
from mmjax.data.sources.records import Record
from mmjax.data.sources.source import CountingSource
from mmjax.document import Document, Pixels

PIXELS = BoxFormat(order='xywh', unit='pixels')


class Coco(CountingSource):
    """One document a picture: the picture, then a region for each category that it shows, in the order of the boxes."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Which file, and where its pictures lie."""

        path: str
        images: str = ''  # folder, tar or zip; '': images.zip, images.tar or images/ beside the file, else its folder
        crowds: bool = False  # whether boxes round crowds count
        cache: str = ''

        def build(self) -> 'Coco':
            """Loads the annotations and returns the source."""
            return Coco(self)

    def __init__(self, config: Config):
        path = pathlib.Path(config.path).expanduser()
        super().__init__(path.stem)
        self.config = config
        try:
            told = json.loads(path.read_bytes())
            self.images: list[dict[str, Any]] = [dict(image) for image in told['images']]
            self.names = {category['id']: category['name'] for category in told['categories']}
            self.annotations: dict[Any, list[tuple[Any, Any]]] = {image['id']: [] for image in self.images}
            for note in told['annotations']:
                if note['image_id'] not in self.annotations:
                    self.problems.add('box of a picture that is not listed', f'annotation {note.get("id")}')
                elif config.crowds or not note.get('iscrowd'):
                    self.annotations[note['image_id']].append((note['category_id'], note['bbox']))
        except (ValueError, KeyError, TypeError) as error:
            wanted = 'it must hold images, annotations with bbox, and categories'
            raise ValueError(f'{path}: not a COCO file: {type(error).__name__}: {error}; {wanted}') from None
        beside = [path.parent / name for name in USUAL_MEDIA]
        place = pathlib.Path(config.images) if config.images else next((p for p in beside if p.exists()), path.parent)
        self.media = open_media(place, self.problems, config.cache)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Document:
        """Returns the document of picture `index`."""
        fields = self.images[index]
        record = Record(fields, f'{self.name}:{fields["id"]}', self._find, self.problems)
        image = record.need_image(fields.get('file_name'))
        notes = self.annotations[fields['id']]
        unknown = {category for category, _ in notes} - set(self.names)
        if unknown:
            raise record.bad('unknown category', f'{sorted(unknown, key=repr)} of {sorted(self.names, key=repr)}')
        fields['size'] = [fields.get('width'), fields.get('height')]
        told = 'size' if all(fields['size']) else ''
        boxes = record.boxes([box for _, box in notes], PIXELS, image, told)
        labels = [self.names[category] for category, _ in notes]
        return record.document([image, *regions(labels, boxes)], '', format='detection')

    def _find(self, name: str) -> Pixels | None:
        return self.media.find(name)
