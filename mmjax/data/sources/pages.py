# SPDX-License-Identifier: Apache-2.0
"""A folder of Markdown or HTML files with their pictures, as people have them: one page, one document."""

import base64
import binascii
import codecs
import collections
import dataclasses
import os
import pathlib
import re
import urllib.parse

from mmjax.data import images
from mmjax.data.sources.html_pages import read_html
from mmjax.data.sources.markdown import read_markdown
from mmjax.data.sources.media import spellings
from mmjax.data.sources.parts import CUT, Part, Picture, joined
from mmjax.data.sources.records import Record
from mmjax.data.sources.source import CountingSource
from mmjax.document import BadDocument, Document, Image, Piece, Pixels, Text

MARKDOWN = ('.md', '.markdown', '.mdown')
HTML = ('.html', '.htm', '.xhtml')
MAX_BYTES = 1 << 25
_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+:|//')  # one letter and a colon is a Windows drive
_CHARSET = re.compile(rb'<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["\']?([A-Za-z0-9_-]+)')
_BOMS = {codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


class Pages(CountingSource):
    """The pages of a folder and its subfolders in the order of their paths; text and pictures as they stand."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Which pages, and where their pictures are looked for."""

        path: str
        suffixes: tuple[str, ...] = MARKDOWN + HTML
        # Where '/static/a.png' begins; '': in the page's folder, or the next one above it that has such a file.
        site: str = ''
        alt: bool = False  # the author's description of a picture follows it as text
        min_side: int = 1  # pictures with a shorter side are left out: icons and spacers
        encoding: str = 'utf-8'  # of pages that do not say theirs

        def build(self) -> 'Pages':
            """Lists the pages and returns the source."""
            return Pages(self)

    def __init__(self, config: Config):
        self.root = pathlib.Path(config.path).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f'{self.root} is no folder of pages')
        super().__init__(self.root.resolve().name)
        self.config = config
        self.paths, others = _list(self.root, tuple(suffix.lower() for suffix in config.suffixes))
        if not self.paths:
            there = ', '.join(f'{count} {suffix or "without suffix"}' for suffix, count in others.most_common(5))
            raise ValueError(
                f'{self.root}: no file ends with {", ".join(config.suffixes)}; there are {there or "no files"}'
            )

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        """Returns the key of page `index`, which is not read."""
        return f'{self.name}:{self.paths[index]}'

    def read(self, index: int) -> Document:
        """Returns page `index`."""
        path = self.root / self.paths[index]
        record = Record({}, self.key(index), lambda name: self._find(path, name), self.problems)
        parts = self._parts(path, record)
        kept: list[Part | Image] = []
        for part in parts:
            if isinstance(part, str):
                kept.append(part)
                continue
            image = self._image(record, part)
            kept.append(CUT if image is None else image)
            if image is not None and self.config.alt and part.alt:
                kept.append(f'\n{part.alt}\n{CUT}')
        pieces: list[Piece] = [Text(part) if isinstance(part, str) else part for part in joined(kept)]
        return record.document(pieces, '', format='page')

    def _parts(self, path: pathlib.Path, record: Record) -> list[Part]:
        if path.stat().st_size > MAX_BYTES:
            raise record.bad('page too large', f'{path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read')
        data = path.read_bytes()
        is_html = path.suffix.lower() in HTML
        encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), '')
        if not encoding and is_html and (told := _CHARSET.search(data[:4096])):
            encoding = told[1].decode()
        encoding = encoding or self.config.encoding
        try:
            text = data.decode(encoding)
        except (UnicodeError, LookupError) as error:
            raise record.bad('page is not in its encoding', f'{error}; set encoding (now {encoding})') from None
        try:
            return read_html(text) if is_html else read_markdown(text)
        except (AssertionError, RecursionError) as error:  # html.parser asserts what hostile pages violate
            raise record.bad('broken page', f'{type(error).__name__}: {error}') from None

    def _image(self, record: Record, picture: Picture) -> Image | None:
        """Returns a picture if it is there and its header can be read; else counts why not."""
        try:
            if picture.source.lower().split('?')[0].endswith('.svg'):
                raise record.bad('vector image (svg)', picture.source)
            image = record.need_image(picture.source)
            short = min(images.size(image))
            if short < self.config.min_side:
                raise record.bad('image too small', f'{picture.source}: {short} pixels')
        except BadDocument as error:
            record.drop(error.reason, error.detail or picture.source)
            return None
        return image

    def _find(self, page: pathlib.Path, source: str) -> Pixels | None:
        """Returns the pixels that an address in a page leads to; None where that is nowhere on this machine."""
        if source.startswith('data:'):
            return _inline(source)
        if source.startswith('file://'):
            source = source.removeprefix('file://')
        if _SCHEME.match(source):
            return None
        for name in spellings(source):
            folders = [page.parent]
            if name.startswith('/'):
                name = name.lstrip('/')
                folders = [pathlib.Path(self.config.site)] if self.config.site else self._upwards(page)
            for folder in folders:
                try:
                    if (path := folder / name).is_file():
                        return path
                except (OSError, ValueError):  # a name that no file can have
                    break
        return None

    def _upwards(self, page: pathlib.Path) -> list[pathlib.Path]:
        """Returns the page's folder and those above it, up to the root of the source."""
        return [self.root / folder for folder in page.relative_to(self.root).parents]


def _inline(source: str) -> bytes | None:
    """Returns the picture that a data: address holds itself."""
    head, _, body = source.partition(',')
    try:
        body = urllib.parse.unquote(body)
        return base64.b64decode(body) if head.endswith(';base64') else body.encode('latin-1')
    except (binascii.Error, UnicodeError):
        return None


def _list(root: pathlib.Path, suffixes: tuple[str, ...]) -> tuple[list[str], collections.Counter[str]]:
    """Returns (the pages by their paths below root, sorted; how many other files there are of each suffix)."""
    pages: list[str] = []
    others: collections.Counter[str] = collections.Counter()
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith('.') and name != 'node_modules']
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes and not name.startswith('.'):
                pages.append((pathlib.Path(folder) / name).relative_to(root).as_posix())
            else:
                others[suffix] += 1
    return sorted(pages), others
