# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mmjax.data.laid import Laid, Shape
from mmjax.data.pack import efficiency, pack
from mmjax.document import Image


def laid(key: str, tokens: int, media: int = 0) -> Laid:
    """A document of so many tokens and pictures, its integers all zero."""
    z = np.zeros(tokens, np.int32)
    spans = np.zeros((tokens, 2), np.int32)
    size = np.ones((media, 3), np.int32)
    return Laid(key, z, z.astype(np.float32), spans, z, z - 1, spans, [Image(b'')] * media, size)


def keys(rows):
    return [''.join(d.key for d in row) for row in rows]


@pytest.mark.parametrize(
    'sizes, shape, rows',
    [
        ([(4, 0), (6, 0), (3, 0), (7, 0)], Shape(10), ['dc', 'ba']),
        ([(2, 0), (5, 0), (5, 0), (3, 0), (5, 0)], Shape(10), ['bc', 'eda']),
        ([(1, 2), (1, 2), (1, 1)], Shape(10, 3), ['ac', 'b']),  # media fill up before tokens do
        ([(9, 0), (8, 0), (1, 0)], Shape(10), ['ac', 'b']),  # the tightest row takes the small one
    ],
)
def test_best_fit(sizes, shape, rows):
    assert keys(pack([laid(k, *s) for k, s in zip('abcde', sizes, strict=False)], shape)) == rows


def test_every_document_once_and_no_row_too_full():
    rng = np.random.default_rng(0)
    documents = [laid(f'{i},', int(rng.integers(1, 100)), int(rng.integers(0, 4))) for i in range(300)]
    rows = pack(documents, Shape(128, 6))
    assert sorted(d.key for row in rows for d in row) == sorted(d.key for d in documents)
    assert all(sum(d.need.tokens for d in row) <= 128 and sum(d.need.media for d in row) <= 6 for row in rows)
    assert efficiency(pack([laid('x', 60), laid('y', 4)], Shape(64)), Shape(64)) == 1.0


def test_too_large_is_refused():
    with pytest.raises(ValueError, match=r"'a' needs Shape\(tokens=11.*holds Shape\(tokens=10"):
        pack([laid('a', 11)], Shape(10))
