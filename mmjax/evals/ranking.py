# SPDX-License-Identifier: Apache-2.0
"""How well scores tell two kinds apart, whatever the threshold."""

import numpy as np


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the chance that a positive scores higher than a negative, ties counted half; nan without both."""
    scores, positive = scores.ravel(), positive.ravel().astype(bool)
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float('nan')
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # from 1, equal ones share the mean of theirs
    return float((rank[positive].sum() - yes * (yes + 1) / 2) / (yes * no))
