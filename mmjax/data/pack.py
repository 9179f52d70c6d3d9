# SPDX-License-Identifier: Apache-2.0
"""Packing: which documents share a row.

A window of documents is packed at a time, the longest first, each into the row where it leaves the least room (best fit
decreasing), by tokens, media and states together:

    row 0   aaaaaaaaaaaaaaaaaaaaaaaabbbbbbb.
    row 1   ccccccccccccccccccddddddddddee..
"""

from collections.abc import Sequence

import numpy as np

from mmjax.data.laid import Laid, Shape


def pack(documents: Sequence[Laid], shape: Shape) -> list[list[Laid]]:
    """Returns rows of documents; every document is in exactly one. Raises ValueError for one larger than a row."""
    needs = np.array([d.need for d in documents], np.int64).reshape(-1, len(shape))
    for document, need in zip(documents, needs, strict=True):
        if (need > shape).any():
            raise ValueError(
                f'document {document.key!r} needs {Shape(*need.tolist())}, a row holds {shape}; layout must split it'
            )
    free = np.empty((len(documents), len(shape)), np.int64)
    rows: list[list[Laid]] = []
    # A stable sort: among documents of one length the order of the window decides, not the sorting algorithm.
    for i in np.argsort(-needs[:, 0], kind='stable'):
        fits = (free[: len(rows)] >= needs[i]).all(axis=1)
        if fits.any():
            row = int(np.where(fits, free[: len(rows), 0], shape.tokens + 1).argmin())
        else:
            row = len(rows)
            rows.append([])
            free[row] = shape
        rows[row].append(documents[i])
        free[row] -= needs[i]
    return rows


def efficiency(rows: Sequence[Sequence[Laid]], shape: Shape) -> float:
    """Returns the share of token places that documents fill."""
    return sum(d.need.tokens for row in rows for d in row) / max(1, len(rows) * shape.tokens)
