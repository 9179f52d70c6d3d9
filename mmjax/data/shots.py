# SPDX-License-Identifier: Apache-2.0
"""Few-shot documents: solved examples before a question, as one document."""

import dataclasses
from collections.abc import Sequence

from mmjax.document import Document, Medium, Region, Text


def join(
    examples: Sequence[Document], question: Document, separator: str = '\n', *, learn_examples: bool = False
) -> Document:
    """Returns one document: the examples with their answers, then the question, which alone is learnt unless said.

    Documents with roles become one chat, whose turns need no separator.
    """
    pieces, roles = [], []
    for example in examples:
        pieces += _shifted(example, pieces, weight=None if learn_examples else 0.0)
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
    pictures = sum(isinstance(piece, Medium) for piece in before)
    pieces = []
    for piece in document.pieces:
        changes = {} if weight is None else {'weight': weight}
        if isinstance(piece, Region) and piece.image >= 0:
            changes['image'] = piece.image + pictures
        pieces.append(dataclasses.replace(piece, **changes))
    return pieces
