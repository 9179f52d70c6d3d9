# SPDX-License-Identifier: Apache-2.0
import pytest

from mmjax.data.sources.echo import Echo


def test_a_string_is_repeated_and_learnt_from_the_second_time_on():
    source, lengths = Echo.Config(shortest=3, longest=9, length=40).build(), set()
    for i in range(60):
        once, again = source[i].pieces
        n = len(once.text)
        assert (once.text + again.text) == (once.text * 40)[:40] and (once.weight, again.weight) == (0.0, 1.0)
        lengths.add(n)
    assert lengths == set(range(3, 10))
    apart = Echo.Config(shortest=3, longest=9, length=40, ordered=False).build()
    for (once, again), (same, other) in ((source[i].pieces, apart[i].pieces) for i in range(9)):
        assert once == same and sorted(again.text) == sorted(other.text) and again.text != other.text
    assert source[5].pieces == source[5].pieces and source[5].pieces != source[6].pieces


@pytest.mark.parametrize('wrong', [dict(letters=''), dict(shortest=0), dict(shortest=9, longest=8), dict(length=24)])
def test_refusals(wrong):
    with pytest.raises(ValueError, match='1 <= shortest <= longest < length'):
        Echo.Config(**wrong).build()
    with pytest.raises(IndexError, match='document 3 of 3'):
        Echo.Config(count=3).build()[3]
