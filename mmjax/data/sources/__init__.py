# SPDX-License-Identifier: Apache-2.0
"""Sources: whatever holds data, as documents by index. `open_source` tells the kind from a path or a name.

    digits:caption:test                        the digits that come with the package
    my_docs/                                   Markdown or HTML pages with their pictures
    shards/x-{000..127}.tar                    WebDataset tars
    chat.jsonl  chat.json  docs.jsonl.zip      records; pictures in images.zip, images.tar, images/ or beside the file
    instances.json                             COCO's boxes
    tfds:mnist:test?text=label                 TFDS sets that were prepared as array_record, also by their folder

`?field=value&...` sets fields of the source's Config or of its record format: shards/*.tar?text=alt&quality=score.
A kind is forced by its name before the path: pages:shards/.
"""

import dataclasses
import pathlib
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from mmjax.data.sources.chat import Chat
from mmjax.data.sources.coco import Coco
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.formats import RecordFormat
from mmjax.data.sources.interleaved import Interleaved, Mmc4
from mmjax.data.sources.jsonl import JsonLines
from mmjax.data.sources.pages import HTML, MARKDOWN, Pages
from mmjax.data.sources.pairs import Pair
from mmjax.data.sources.paths import braces
from mmjax.data.sources.pieces import Pieces
from mmjax.data.sources.source import Source
from mmjax.data.sources.tars import Tars
from mmjax.data.sources.tfds import Tfds

SourceConfig = Coco.Config | Digits.Config | JsonLines.Config | Pages.Config | Tars.Config | Tfds.Config

RECORDS = ('.jsonl', '.ndjson', '.json', '.jsonl.gz', '.jsonl.zip', '.json.gz', '.json.zip')
FORMATS: dict[str, Callable[[], RecordFormat]] = {
    'pieces': Pieces, 'chat': Chat, 'interleaved': Interleaved, 'mmc4': Mmc4, 'pair': Pair,
}  # fmt: skip


def open_source(spec: str) -> Source:
    """Opens what a path or name stands for; an error names it, what there is, and the ways out."""
    return source_config(spec).build()


def source_config(spec: str) -> SourceConfig:
    """Returns the Config that a path or name stands for; files are looked at, not indexed."""
    head, mark, tail = spec.rpartition('?')
    if not mark or '=' not in tail:  # a question mark of a wildcard
        head, tail = spec, ''
    config = _config(head)
    for name, value in urllib.parse.parse_qsl(tail, keep_blank_values=True):
        _set(config, name, value, spec)
    return config


def _config(head: str) -> SourceConfig:
    kind, mark, rest = head.partition(':')
    named: dict[str, Callable[[str], SourceConfig]] = {
        'digits': _digits,
        'tfds': _tfds,
        'pages': lambda path: Pages.Config(path=path),
        'tar': lambda path: Tars.Config(paths=(path,)),
        'jsonl': lambda path: JsonLines.Config(paths=(path,)),
        'coco': lambda path: Coco.Config(path=path),
    }
    if kind in named and (mark or kind == 'digits'):
        return named[kind](rest)
    path = pathlib.Path(head).expanduser()
    if path.is_dir():
        return _folder(path)
    lower = head.lower()
    if lower.endswith('.tar'):
        return Tars.Config(paths=(head,))
    if lower.endswith(RECORDS):
        return Coco.Config(path=head) if _is_coco(braces(head)[0]) else JsonLines.Config(paths=(head,))
    raise ValueError(f'{head!r} is no source: {_what_is(path)}. Known are:\n{_known()}')


def _digits(rest: str) -> Digits.Config:
    names = [name for name in rest.split(':') if name]
    return Digits.Config(**dict(zip(('task', 'split'), names, strict=False)))


def _tfds(rest: str) -> Tfds.Config:
    match = re.fullmatch(r'(.+?(?::\d+\.\d+\.\d+)?)(?::([A-Za-z].*))?', rest)
    if match is None:
        raise ValueError(f"'tfds:{rest}' names no set; expected tfds:NAME[/CONFIG][:VERSION][:SPLIT]")
    return Tfds.Config(name=match[1], split=match[2] or 'train')


def _folder(path: pathlib.Path) -> SourceConfig:
    """Returns the Config for what a folder holds; tars and records go before pages: a README may lie beside them."""
    if (path / 'dataset_info.json').is_file():
        return Tfds.Config(name=str(path))
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    if any(name.lower().endswith('.tar') for name in names):
        return Tars.Config(paths=(f'{path}/*.tar',))
    records = [name for name in names if name.lower().endswith(('.jsonl', '.jsonl.gz', '.jsonl.zip'))]
    if records:
        return JsonLines.Config(paths=tuple(f'{path}/{name}' for name in records))
    if next((p for p in path.rglob('*') if p.suffix.lower() in MARKDOWN + HTML), None):
        return Pages.Config(path=str(path))
    raise ValueError(f'{path}/ is no source: {_what_is(path)}. Known are:\n{_known()}')


def _is_coco(path: str) -> bool:
    """Tells COCO's one object with lists from records."""
    if not path.lower().endswith('.json') or not pathlib.Path(path).is_file():
        return False
    with open(path, 'rb') as file:
        return (
            re.match(rb'\s*\{\s*"(info|licenses|images|annotations|categories)"\s*:\s*[\[{]', file.read(4096))
            is not None
        )


def _what_is(path: pathlib.Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f'it holds {", ".join(names[:8]) or "nothing"}{" ..." if len(names) > 8 else ""}'
    return f'it ends with {path.suffix!r}' if path.is_file() else 'there is no such file or folder'


def _known() -> str:
    return (__doc__ or '').split('\n\n')[1]


def _set(config: Any, name: str, value: str, spec: str) -> None:
    """Sets a field from text; a field that a source lacks is one of its record format."""
    if name == 'format' and value in FORMATS and hasattr(config, 'record'):
        config.record = FORMATS[value]()
        return
    first, _, rest = name.partition('.')
    fields = {field.name for field in dataclasses.fields(config)}
    if first not in fields and 'record' in fields:
        config.record = config.record or Pair()
        return _set(config.record, name, value, spec)
    if first not in fields:
        raise ValueError(
            f'{spec!r}: {type(config).__qualname__} has no field {first!r}, it has {", ".join(sorted(fields))}'
        )
    if rest:
        return _set(getattr(config, first), rest, value, spec)
    try:
        setattr(config, first, _parsed(value, getattr(config, first)))
    except (ValueError, KeyError):
        wanted = type(getattr(config, first)).__name__
        raise ValueError(f'{spec!r}: {name} is {value!r}, expected {wanted}') from None


def _parsed(value: str, now: Any) -> Any:
    """Returns text as a value of the type that a field has now."""
    if isinstance(now, bool):
        return {'true': True, '1': True, 'false': False, '0': False}[value.lower()]
    if isinstance(now, tuple):
        return tuple(value.split(','))
    if isinstance(now, str | int | float):
        return type(now)(value)
    raise ValueError(value)
