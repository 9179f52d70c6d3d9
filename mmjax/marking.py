# SPDX-License-Identifier: Apache-2.0
"""Measures a model that marks what is wrong with pictures: are wrong pixels, and wrong pictures, told from right ones?

Maps come from the texts beside pictures; or, with `shots`, from what differs from so many right pictures, each shown in
four rotations. The control gives each picture another one's map.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmjax.answer import feed, gather, lay, room, rows_for
from mmjax.config import ConfigError, Eval
from mmjax.config_io import to_json
from mmjax.data import images
from mmjax.data.layout import Layout
from mmjax.document import Document, Image
from mmjax.evals import blind
from mmjax.evals.metrics import VERSION
from mmjax.evals.ranking import auroc
from mmjax.report.results import Measured
from mmjax.sharding import P, place


@jax.jit
def _features(model: Any, batch: Any) -> jax.Array:
    return model.seen(batch)[0]


@jax.jit
def _maps(model: Any, batch: Any, memory: jax.Array | None) -> jax.Array:
    seen = model.seen(batch)
    if memory is not None:
        return model.connector.unlike(seen[0], place(memory, P()))
    return model.connector.maps(*seen)[..., 1].mean(axis=0)


def measure(
    ev: Eval,
    documents: Sequence[Document],
    right: Sequence[Document],
    layout: Layout,
    model: Any,
    dropped: Counter[str],
) -> Measured:
    """Returns areas under the curve over pixels and over pictures, whose score is that of their worst pixel."""
    if layout.spec.marks is None:
        raise ConfigError(f'eval {ev.name}: metric maps, but the model draws none; its connector must be an Inspector')
    kept, laid = lay(documents, layout, dropped)
    fed = list(feed([[item] for item in laid], layout, room(laid), rows_for(len(laid))))
    memory = None
    if right:
        _, known = lay([turned for document in right for turned in rotations(document)], layout, dropped)
        shown = list(feed([[item] for item in known], layout, room(known), rows_for(len(known))))
        there = np.concatenate([gather(one.batch.media_size)[..., 0].ravel() > 0 for one in shown])
        memory = np.concatenate([gather(_features(model, one.batch)) for one in shown])[there]
    maps = np.concatenate([gather(_maps(model, one.batch, memory)) for one in fed])
    marks = np.concatenate([gather(one.batch.marks).reshape(-1, *layout.spec.marks) for one in fed])
    maps, marks = maps[marks[:, 0, 0] >= 0], marks[marks[:, 0, 0] >= 0]
    if not marks.any() or not (marks == 0).all(axis=(1, 2)).any():
        raise ConfigError(f'eval {ev.name}: of {len(marks)} marked pictures none, or all, have something wrong')
    figures = _figures(ev.name, maps, marks)
    if ev.blind:
        exchanged = blind.derangement(len(maps), np.random.default_rng(ev.seed))
        figures |= _figures(f'blind_{ev.name}', maps[exchanged], marks)
    detail = {'documents': len(kept), 'pictures': len(marks), 'eval': to_json(ev), 'metric_version': VERSION}
    return Measured(ev.name, figures, detail | {'dropped': dict(dropped)}, [], kept)


def rotations(document: Document) -> list[Document]:
    """Returns a document with its pictures turned by no, one, two and three right angles."""

    def turned(piece: Any, times: int) -> Any:
        if not isinstance(piece, Image):
            return piece
        marks = None if piece.marks is None else np.rot90(piece.marks, times)
        return dataclasses.replace(piece, pixels=np.rot90(images.read(piece), times), marks=marks)

    return [dataclasses.replace(document, pieces=[turned(p, times) for p in document.pieces]) for times in range(4)]


def _figures(name: str, maps: np.ndarray, marks: np.ndarray) -> dict[str, float]:
    worst, wrong = maps.max(axis=(1, 2)), marks.any(axis=(1, 2))
    return {f'{name}_pixel_auroc': auroc(maps, marks > 0), f'{name}_image_auroc': auroc(worst, wrong)}
