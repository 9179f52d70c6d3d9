# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves in a work directory: figures, one line for each answer, and the first pictures.

results.json         {"caption_exact": 0.97, "blind_caption_exact": 0.08, ..., "detail": {...}}
predictions.jsonl    {"eval": "caption", "key": ..., "prompt": ..., "answer": ..., "scores": {...}, ...}
report/pictures/     the pictures of the first predictions of each evaluation
report/documents/    the first documents of each evaluation that only took a loss, as pieces of HTML
"""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as pillow

from mmjax.data import images
from mmjax.data.show import document_html
from mmjax.document import BadDocument, Document, Image, Video

PACKAGES = ('mmjax', 'jax', 'jaxlib', 'flax', 'numpy', 'pillow', 'tokenizers', 'sentencepiece', 'grain')
SHOWN = 8  # predictions of each evaluation whose pictures are kept
LARGEST = 512  # pixels of the longer side of a kept picture
PICTURES = 6  # of one document; of more, the last
READ = 3  # documents kept of an evaluation that asked nothing


class Measured(NamedTuple):
    """What one evaluation found."""

    name: str
    figures: dict[str, float]  # 'caption_exact', 'blind_caption_exact', 'caption_loss' ...
    detail: dict[str, Any]  # all that is needed to get the same figures again
    predictions: list[dict[str, Any]]  # one for each document that was asked
    documents: list[Document]  # those documents, examples before the question


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide what comes out."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'not installed'
    return found


def save(workdir: pathlib.Path, measured: Sequence[Measured], detail: dict[str, Any]) -> dict[str, Any]:
    """Writes the files above and returns the content of results.json."""
    folder, documents = workdir / 'report' / 'pictures', workdir / 'report' / 'documents'
    for kept in (folder, documents):
        kept.mkdir(parents=True, exist_ok=True)
        for old in (*kept.glob('*.png'), *kept.glob('*.html')):
            old.unlink()
    results: dict[str, Any] = {}
    lines = []
    for one in measured:
        results |= one.figures
        if not one.predictions:
            (documents / f'{one.name}.html').write_text('\n'.join(map(document_html, one.documents[:READ])))
        for number, prediction in enumerate(one.predictions):
            if number < SHOWN:
                stem = f'{one.name}_{number}'
                prediction = {**prediction, 'pictures': _keep(one.documents[number], folder, stem)}
            lines.append(json.dumps(prediction, ensure_ascii=False))
    results['detail'] = {**detail, 'versions': versions(), 'evals': {one.name: one.detail for one in measured}}
    _write(workdir / 'predictions.jsonl', ''.join(f'{line}\n' for line in lines))
    _write(workdir / 'results.json', json.dumps(results, indent=2, ensure_ascii=False) + '\n')
    return results


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_suffix('.new')
    beside.write_text(text)
    beside.replace(path)


def _keep(document: Document, folder: pathlib.Path, stem: str) -> list[str]:
    """Writes a document's pictures as PNG, those of a video included; returns their names in the folder."""
    pictures: list[Image] = []
    for piece in document.pieces:
        if isinstance(piece, Image | Video):
            pictures += piece.frames if isinstance(piece, Video) else [piece]
    names = []
    for number, picture in enumerate(pictures[-PICTURES:]):
        try:
            image = pillow.fromarray(np.asarray(images.read(picture)))
        except BadDocument:
            continue
        image.thumbnail((LARGEST, LARGEST))
        names.append(f'{stem}_{number}.png')
        image.save(folder / names[-1])
    return names
