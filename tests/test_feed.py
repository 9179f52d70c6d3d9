# SPDX-License-Identifier: Apache-2.0
import time

import jax
import numpy as np
import pytest
import tiny

from mmjax import sharding
from mmjax.feed import Feed, rows_of_host, to_global


def make(mesh, seconds=0.0):
    return Feed(tiny.Pipeline(tiny.Mixture(seconds), tiny.Layout(), 8, 0, (0, 8)), mesh)


def test_order_and_state_belong_to_what_was_handed_out():
    mesh = sharding.make_mesh(2, 2, 2)
    feed, alone = make(mesh), tiny.Pipeline(tiny.Mixture(), tiny.Layout(), 8, 0, (0, 8))
    np.testing.assert_array_equal(feed.state, alone.state())
    for _, (batch, _) in zip(range(5), alone, strict=False):
        peeked = feed.peek()
        before = feed.state.copy()
        fed = next(feed)
        assert fed is peeked and not np.array_equal(before, feed.state)
        np.testing.assert_array_equal(fed.batch.tokens, batch.tokens)
        np.testing.assert_array_equal(feed.state, alone.state())
        assert fed.counts == {'tokens': 48, 'images': 0, 'places': 48}
    feed.close()
    np.testing.assert_array_equal(feed.state, alone.state())


def test_batches_are_made_while_the_devices_compute():
    feed = make(sharding.make_mesh(), seconds=0.05)
    next(feed)
    start = feed.stalled
    for _ in range(5):
        time.sleep(0.15)
        next(feed)
    feed.close()
    assert feed.stalled - start < 0.5 * 5 * 0.05, 'the thread does not work ahead'


def test_an_error_of_the_data_reaches_the_loop():
    class Broken(tiny.Pipeline):
        def __iter__(self):
            yield from ((batch, None) for batch, _ in zip([tiny.make_batch(8)] * 2, range(2), strict=True))
            raise OSError('the file is gone')

    feed = Feed(Broken(tiny.Mixture(), tiny.Layout(), 8, 0, (0, 8)), sharding.make_mesh())
    next(feed), next(feed)
    for _ in range(2):
        with pytest.raises(OSError, match='the file is gone'):
            next(feed)
    feed.close()


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 2, 2), (4, 2, 1), (1, 1, 8)])
def test_rows_of_one_process_are_all_rows(shape):
    mesh = sharding.make_mesh(*shape)
    assert rows_of_host(16, mesh) == range(16)
    batch = to_global(tiny.make_batch(16), mesh)
    assert jax.typeof(batch.tokens).sharding.spec == sharding.P(sharding.ROWS, None)


def test_rows_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match='6 rows cannot be shared out to data 2 x fsdp 2'):
        rows_of_host(6, sharding.make_mesh(2, 2, 2))
