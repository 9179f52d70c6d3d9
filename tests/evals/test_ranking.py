# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmjax.evals.ranking import auroc


@pytest.mark.parametrize(
    'scores, positive, area',
    [([1, 2, 3, 4], [0, 0, 1, 1], 1.0), ([4, 3, 2, 1], [0, 0, 1, 1], 0.0), ([1, 1, 1, 1], [0, 1, 0, 1], 0.5),
     ([1, 2, 2, 3], [0, 0, 1, 1], 0.875), ([1, 2], [1, 1], np.nan)],
)  # fmt: skip
def test_auroc(scores, positive, area):
    assert auroc(np.array(scores), np.array(positive)) == pytest.approx(area, nan_ok=True)


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 60), rng.random(60) < 0.4
    yes, no = scores[positive][:, None], scores[~positive][None]
    assert auroc(scores, positive) == pytest.approx(((yes > no) + 0.5 * (yes == no)).mean())
