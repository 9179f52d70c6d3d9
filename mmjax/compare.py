# SPDX-License-Identifier: Apache-2.0
"""Measures a pair of towers: which of all texts belongs to a picture, which of all pictures to a text.

The control gives each picture's vector to another document: what remains is what can be had without looking.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmjax.answer import as_read, feed, gather, lay, rows_for
from mmjax.config import ConfigError, Eval
from mmjax.config_io import to_json
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.document import Document
from mmjax.evals import blind, retrieval
from mmjax.evals.metrics import VERSION
from mmjax.report.results import Measured


@jax.jit
def _vectors(model: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    return model.vectors(batch)


def measure(ev: Eval, documents: Sequence[Document], layout: Layout, model: Any, dropped: Counter[str]) -> Measured:
    """Returns recall both ways among the documents, texts that are alike taken as one."""
    if not hasattr(model, 'vectors'):
        raise ConfigError(f'eval {ev.name}: metric retrieval compares vectors, which a {type(model).__name__} has not')
    kept, laid = lay(documents, layout, dropped)
    images, texts, there = _embedded(laid, layout, model)
    if there.sum() < 2:
        raise ConfigError(
            f'eval {ev.name}: {there.sum()} pairs of a picture and words, fewer than two; dropped {dict(dropped)}'
        )
    dropped['no picture or no words'] += int((~there).sum())
    kept, laid = ([item for item, ok in zip(items, there, strict=True) if ok] for items in (kept, laid))
    images, texts = images[there], texts[there]
    words = [item.tokens.tobytes() for item in laid]
    first = {word: i for i, word in reversed([*enumerate(words)])}
    candidates = sorted(first.values())
    number = {words[i]: place for place, i in enumerate(candidates)}
    owner = [number[word] for word in words]
    figures = retrieval.both_ways(images, texts[candidates], owner)
    control: dict[str, float] = {}
    if ev.blind:
        exchanged = blind.derangement(len(images), np.random.default_rng(ev.seed))
        control = retrieval.both_ways(images[exchanged], texts[candidates], owner)
    nearest = (images @ texts[candidates].T).argmax(axis=1)
    read = lambda i: as_read(layout.tokenizer, laid[i].tokens.tolist())
    predictions = [
        {
            'eval': ev.name,
            'key': document.key,
            'question': f'which of {len(candidates)} texts?',
            'expected': read(i),
            'answer': read(candidates[nearest[i]]),
            'scores': {'text_at_1': float(nearest[i] == owner[i])},
        }
        for i, document in enumerate(kept)
    ]
    detail = {
        'documents': len(kept),
        'texts': len(candidates),
        'eval': to_json(ev),
        'metric_version': VERSION,
        'dropped': dict(dropped),
    }
    named = {f'{ev.name}_{key}': value for key, value in figures.items()}
    named |= {f'blind_{ev.name}_{key}': value for key, value in control.items()}
    return Measured(ev.name, named, detail, predictions, kept)


def _embedded(laid: Sequence[Laid], layout: Layout, model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not laid:
        return np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0, bool)
    fed = feed([[item] for item in laid], layout, layout.shape, rows_for(len(laid)))
    found = [gather(_vectors(model, one.batch)) for one in fed]
    images, texts, there = (np.concatenate(parts)[: len(laid)] for parts in zip(*found, strict=True))
    return images, texts, there
