# SPDX-License-Identifier: Apache-2.0
"""The tokenizer files of a public folder: which a layout reads, whether it fits them, and their copy."""

import dataclasses
import pathlib
import shutil
from typing import Any

from mmjax.config import ConfigError, Run
from mmjax.data.layout import Layout
from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece
from mmjax.weights.files import read_json

PIECES = ('tokenizer.model', 'spiece.model')
# What is copied: all that a folder says of its model beside the weights.
SUFFIXES = ('.json', '.model', '.txt', '.jinja')


def of_folder(folder: pathlib.Path, special: tuple[str, ...], *, needed: bool) -> Any:
    """Returns the config of the tokenizer in a folder, with the special tokens that a layout writes."""
    if (folder / 'tokenizer.json').is_file():
        return HuggingFace.Config(path=str(folder), special=special)
    if found := [name for name in PIECES if (folder / name).is_file()]:
        return SentencePiece.Config(path=str(folder / found[0]), special=special)
    if needed:
        raise ConfigError(f'{folder} holds no tokenizer.json and no {" or ".join(PIECES)}; put one of them there')
    return Bytes.Config()


def moved(c: Any, folder: pathlib.Path) -> Any:
    """Returns the config of a tokenizer of the same kind whose files lie in `folder`, be they there or not yet."""
    if isinstance(c, Bytes.Config):
        return c
    if isinstance(c, HuggingFace.Config):
        return dataclasses.replace(c, path=str(folder))
    name = pathlib.Path(c.path).name
    return dataclasses.replace(c, path=str(folder / (name if name in PIECES else PIECES[0])))


def at(layout: Layout.Config, folder: pathlib.Path, beside: str | None) -> Layout.Config:
    """Returns a layout whose tokenizer lies in `folder`, and that of the words beside pictures in `beside` of it."""
    found = dataclasses.replace(layout, tokenizer=moved(layout.tokenizer, folder))
    if found.beside is not None and beside is not None:
        found.beside = dataclasses.replace(found.beside, tokenizer=moved(found.beside.tokenizer, folder / beside))
    return found


def check(run: Run, folder: pathlib.Path, beside: str | None, *, new_tokens: bool) -> None:
    """Refuses a tokenizer that lacks, or numbers otherwise, what the layout writes, or that the model is too small for.

    Tokens may be missing where `new_tokens` says so: they grow the vocabulary, into rows of which nothing is known.
    """
    vocab, kind = run.model.vocab, run.layout.tokenizer
    if vocab is None or isinstance(kind, Bytes.Config):
        return
    files = 'tokenizer.json' if isinstance(kind, HuggingFace.Config) else pathlib.Path(moved(kind, folder).path).name
    if not (folder / files).is_file():
        raise ConfigError(
            f'{folder / files}: no such file, and layout.tokenizer is {type(kind).__qualname__}; put it there, or set '
            'layout.tokenizer to the kind that is there'
        )
    here = moved(kind, folder)
    spec = run.model.media_spec()
    stands = bool(spec.tokens) and not spec.apart
    written = [t for t in run.layout.special_tokens() if stands or t not in run.layout.image.special_tokens()]
    bare, listed = dataclasses.replace(here, special=()).build(), published(folder)
    missing = [t for t in written if t not in listed and not bare.knows(t)]
    if missing and not new_tokens:
        raise ConfigError(
            f'{folder / files} has no special token {", ".join(map(repr, missing))}, which the layout writes; take a '
            f'config whose layout writes others, or let them grow the vocabulary, untrained: --new-tokens'
        )
    grown = at(run.layout, folder, beside).build(spec).tokenizer
    for token in written:
        if token in listed and grown.id(token) != listed[token]:
            raise ConfigError(
                f'{folder / files}: {token!r} is {grown.id(token)} by layout.tokenizer and {listed[token]} as '
                'published; order layout.tokenizer.special as the published tokens are'
            )
    if grown.size > vocab:
        raise ConfigError(
            f'{folder / files} has {grown.size} tokens, special ones of the layout included, and the model {vocab}; '
            'take the config.json of this tokenizer'
        )


def published(folder: pathlib.Path) -> dict[str, int]:
    """Returns the tokens that a folder's files add to its vocabulary, with their ids."""
    found: dict[str, int] = {}
    if (path := folder / 'tokenizer_config.json').is_file():
        added = read_json(path).get('added_tokens_decoder') or {}
        found |= {token['content']: int(index) for index, token in added.items()}
    if (path := folder / 'added_tokens.json').is_file():
        found |= read_json(path)
    if (path := folder / 'tokenizer.json').is_file():
        found |= {token['content']: token['id'] for token in read_json(path).get('added_tokens') or ()}
    return found


def copy(folder: pathlib.Path, to: pathlib.Path) -> None:
    """Copies what a folder holds beside its weights, and folders of it that hold a tokenizer."""
    to.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        if (file / 'tokenizer.json').is_file():
            copy(file, to / file.name)
        elif file.is_file() and file.suffix in SUFFIXES and not file.name.endswith('.index.json'):
            shutil.copy(file, to / file.name)
