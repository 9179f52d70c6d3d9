# SPDX-License-Identifier: Apache-2.0
"""Recall: who is among the nearest."""

import numpy as np
import pytest

from mmjax.evals.retrieval import both_ways, ranks, recall

NEAR = np.array([[3.0, 1, 2], [3, 1, 2], [2, 2, 1]])


@pytest.mark.parametrize(
    'right, rank',
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 2, 2]),
        ([[1, 0, 0], [1, 0, 0], [1, 0, 0]], [0, 0, 1]),  # a tie counts against the model
        ([[0, 1, 1], [0, 1, 1], [1, 1, 0]], [1, 1, 0]),  # the nearest of several right ones
    ],
)
def test_ranks(right, rank):
    assert ranks(NEAR, np.array(right, bool)).tolist() == rank


def test_recall_leaves_out_what_says_nothing():
    similarity = np.eye(7)
    assert recall(similarity, np.eye(7, dtype=bool), 'text') == {'text_at_1': 1.0, 'text_at_5': 1.0}
    constant = recall(np.ones((7, 7)), np.eye(7, dtype=bool), 'text')
    assert constant == {'text_at_1': 0.0, 'text_at_5': 0.0}


def test_pictures_of_one_class_share_its_text():
    images, texts = np.array([[1.0, 0], [0.9, 0.1], [0, 1]]), np.eye(2)
    assert both_ways(images, texts, [0, 0, 1]) == {'text_at_1': 1.0, 'image_at_1': 1.0}
    assert both_ways(images, texts, [0, 1, 1]) == {'text_at_1': 2 / 3, 'image_at_1': 1.0}
    assert both_ways(images, texts, [1, 1, 1]) == {'text_at_1': 1 / 3, 'image_at_1': 1.0}
