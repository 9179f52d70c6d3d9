# SPDX-License-Identifier: Apache-2.0
"""A question is never its own example."""

import numpy as np
import pytest

from mmjax.evals import few_shot


def test_at_random():
    chosen = few_shot.at_random(5, 6, 4, seed=1, same=True)
    assert chosen.shape == (5, 4) and all(q not in row and len(set(row)) == 4 for q, row in enumerate(chosen))
    assert (few_shot.at_random(3, 6, 4, seed=1, same=True) == chosen[:3]).all()
    assert few_shot.at_random(2, 3, 0, seed=1, same=False).shape == (2, 0)


def test_most_similar():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1]], np.float32)
    assert few_shot.most_similar(features, features, 2, same=True)[0].tolist() == [3, 1]
    assert few_shot.most_similar(features[:1], features, 2, same=False)[0].tolist() == [1, 0]


def test_refuses_too_many_shots():
    with pytest.raises(ValueError, match='only 3 to choose'):
        few_shot.at_random(4, 4, 4, seed=0, same=True)
