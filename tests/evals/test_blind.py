# SPDX-License-Identifier: Apache-2.0
"""The control gives every document another's pictures, of the same sizes, and nothing else changes."""

import numpy as np
import pytest

from mmjax.document import Document, Image, Text, Video
from mmjax.evals import blind


def picture(value, size=(4, 4)):
    return Image(np.full((*size, 3), value, np.uint8), name=str(value))


def size(image):
    return image.pixels.shape[1], image.pixels.shape[0]


@pytest.mark.parametrize('count', [2, 3, 10])
def test_derangement(count):
    for seed in range(20):
        order = blind.derangement(count, np.random.default_rng(seed))
        assert sorted(order) == list(range(count)) and all(i != j for i, j in enumerate(order))


def test_shuffle():
    sizes = [(4, 4), (4, 4), (4, 6), (4, 4), (4, 6), (8, 8)]
    documents = [Document([Text('a'), picture(i, s), Text(str(i))], key=str(i)) for i, s in enumerate(sizes)]
    documents.append(Document([Text('no picture')]))
    documents.append(Document([Video((picture(7), picture(8)), (0.0, 1.0)), Text('v')]))
    shuffled, owner = blind.shuffle(documents, size, seed=3)
    assert owner[5:] == [-1, -1, -1]
    for i, (document, other) in enumerate(zip(shuffled[:5], owner[:5], strict=True)):
        assert other != i and sizes[other] == sizes[i]
        assert document.pieces[1].name == str(other) and document.pieces[2].text == document.key == str(i)
    assert blind.shuffle(documents, size, seed=3)[1] == owner
    assert documents[0].pieces[1].name == '0'
