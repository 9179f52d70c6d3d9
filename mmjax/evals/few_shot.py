# SPDX-License-Identifier: Apache-2.0
"""Few-shot prompts: solved examples, chosen at random or by the likeness of their pictures, before each question."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.document import Document, Image, Region, Text, Video


def join(examples: Sequence[Document], question: Document, separator: str = '\n') -> Document:
    """Returns one document: the examples with their answers, then the question. Only the question has loss weights.

    Documents with roles become one chat, whose turns need no separator.
    """
    pieces, roles = [], []
    for example in examples:
        pieces += _shifted(example, pieces, weight=0.0)
        roles += example.meta.get('roles', [])
        if separator and not roles:
            pieces.append(Text(separator, weight=0.0))
    pieces += _shifted(question, pieces)
    roles += question.meta.get('roles', [])
    return dataclasses.replace(
        question, pieces=pieces, meta={**question.meta, 'roles': roles} if roles else question.meta
    )


def _shifted(document: Document, before: Sequence, weight: float | None = None) -> list:
    """Returns the pieces as they stand behind `before`: regions name their picture by its number in the document."""
    pictures = sum(isinstance(piece, Image | Video) for piece in before)
    pieces = []
    for piece in document.pieces:
        changes = {} if weight is None else {'weight': weight}
        if isinstance(piece, Region) and piece.image >= 0:
            changes['image'] = piece.image + pictures
        pieces.append(dataclasses.replace(piece, **changes))
    return pieces


def at_random(questions: int, examples: int, shots: int, seed: int, same: bool) -> np.ndarray:
    """Returns the examples [questions, shots] shown before each question, without repetition.

    `same` says that examples and questions are one set: a question is then never its own example.
    """
    _enough(examples - same, shots)
    rows = []
    for q in range(questions):
        # One generator a question: the choice for a question does not depend on how many are asked.
        others = np.delete(np.arange(examples), q) if same else np.arange(examples)
        rows.append(np.random.default_rng((seed, q)).choice(others, shots, replace=False))
    return np.array(rows).reshape(questions, shots)


def most_similar(questions: np.ndarray, examples: np.ndarray, shots: int, same: bool) -> np.ndarray:
    """Returns the examples [questions, shots] whose features have the highest cosine with each question's, best last.

    The best stands last, nearest to the question, as in RICES.
    """
    _enough(len(examples) - same, shots)
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    likeness = unit(questions) @ unit(examples).T
    if same:
        np.fill_diagonal(likeness, -np.inf)
    return np.argsort(-likeness, axis=1, kind='stable')[:, :shots][:, ::-1]


def _enough(examples: int, shots: int) -> None:
    if shots > examples:
        raise ValueError(f'{shots} examples before each question, but only {examples} to choose from; lower shots')
