# SPDX-License-Identifier: Apache-2.0
"""Examples stand before the question, never the question itself, and regions still name their pictures."""

import numpy as np
import pytest

from mmjax.data.mix import Mix, Part
from mmjax.data.shots import join
from mmjax.data.sources.digits import Digits
from mmjax.document import Document, Image, Region, Text

BOX = (0.0, 0.0, 1.0, 1.0)


def solved(name):
    return Document(
        [Image(np.zeros((2, 2, 3), np.uint8), name=name), Text(name), Region('', (BOX,), image=0)], key=name
    )


@pytest.mark.parametrize('learn', [False, True])
def test_join(learn):
    document = join([solved('a'), solved('b')], solved('c'), separator='|', learn_examples=learn)
    shown = [getattr(p, 'text', None) or getattr(p, 'name', '') for p in document.pieces]
    assert shown == ['a', 'a', '', '|', 'b', 'b', '', '|', 'c', 'c', '']
    regions = [p for p in document.pieces if isinstance(p, Region)]
    assert [r.image for r in regions] == [0, 1, 2] and [r.weight for r in regions] == [learn, learn, 1]
    assert document.key == 'c' and document.split()[1] is document.pieces[-1]


def test_a_part_with_shots_shows_others_of_its_source_first():
    source = Digits.Config(task='caption', count=5)
    pictures = {d.pieces[0].pixels.tobytes(): d.key for d in map(source.build().__getitem__, range(5))}
    mix = lambda: Mix.Config(parts=[Part(source=source, shots=2, separator='; ')]).build(seed=3)
    one, other, examples = mix(), mix(), set()
    for i in range(40):
        document = one[i]
        shown = [pictures[p.pixels.tobytes()] for p in document.pieces if isinstance(p, Image)]
        assert len({*shown}) == 3 and shown[-1] == document.key
        assert [getattr(p, 'text', '') for p in document.pieces] == [getattr(p, 'text', '') for p in other[i].pieces]
        assert [p.weight > 0 for p in document.pieces if isinstance(p, Text) and p.text.isdigit()] == [True] * 3
        examples.add(tuple(shown))
    assert len(examples) > 20  # drawn anew each time


@pytest.mark.parametrize('shots, message', [(5, '5 examples before each document of .*, which holds 5'), (-1, 'shots')])
def test_refusals(shots, message):
    with pytest.raises(ValueError, match=message):
        Mix.Config(parts=[Part(source=Digits.Config(count=5), shots=shots)]).build(seed=0)
