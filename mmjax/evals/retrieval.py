# SPDX-License-Identifier: Apache-2.0
"""Finding what belongs together: is the right one of many candidates among the nearest?"""

from collections.abc import Sequence

import numpy as np

AT = (1, 5, 10)


def ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns, for each row of similarities [n, m], how many wrong candidates are as near as the nearest right one.

    `right` [n, m] says which candidates are right, at least one a row. A tie counts against the model: one that finds
    everything alike finds nothing.
    """
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    return (~right & (similarity >= best)).sum(axis=1)


def recall(similarity: np.ndarray, right: np.ndarray, name: str) -> dict[str, float]:
    """Returns the shares of rows whose right candidate is the nearest, among the 5, among the 10 nearest.

    Shares that would be 1 whatever the model are left out.
    """
    rank, candidates = ranks(similarity, right), similarity.shape[1]
    return {f'{name}_at_{k}': float((rank < k).mean()) for k in AT if k < candidates}


def both_ways(images: np.ndarray, texts: np.ndarray, owner: Sequence[int]) -> dict[str, float]:
    """Returns the recall of texts by pictures [n, D] and of pictures by texts [m, D]; picture i has text owner[i].

    With the names of classes for texts, `text_at_1` is the accuracy of naming without training (zero-shot).
    """
    right = np.asarray(owner)[:, None] == np.arange(len(texts))
    similarity = images.astype(np.float64) @ texts.astype(np.float64).T
    # Where the pictures were exchanged, a text may have lost all of its own.
    asked = right.any(axis=0)
    return recall(similarity, right, 'text') | recall(similarity.T[asked], right.T[asked], 'image')
