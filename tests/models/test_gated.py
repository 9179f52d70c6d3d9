# SPDX-License-Identifier: Apache-2.0
"""The gated connector: learned tokens stand at the ends of a medium, squares of features become one."""

import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax.models.gated import GatedConnector


@pytest.mark.parametrize(
    'merge, ends, frames, features, grid',
    [(1, 0, 2, (4, 6), (8, 6)), (1, 1, 1, (4, 6), (1, 26)), (2, 1, 1, (4, 6), (1, 8)), (2, 0, 1, (4, 6), (2, 3))],
)
def test_grid(merge, ends, frames, features, grid):
    assert GatedConnector.Config(hidden=8, merge=merge, ends=ends).grid(frames, features) == grid


def test_tokens_between_their_ends():
    config = GatedConnector.Config(hidden=8, merge=2, ends=1)
    part = disturbed(lambda rngs: config.build(5, 7, features=(4, 2), rngs=rngs))
    x, count = array(3, 8, 5), jnp.full(3, 8)
    y = part(x, count)
    assert y.shape == (3, 4, 7)
    np.testing.assert_array_equal(y[:, 0], np.broadcast_to(part.ends[...][0], (3, 7)))
    np.testing.assert_array_equal(y[:, -1], np.broadcast_to(part.ends[...][1], (3, 7)))
    # A feature of the lower square moves its token only.
    moved = part(x.at[0, 5].add(1.0), count)
    assert (moved != y).any(axis=-1).tolist() == [[False, False, True, False], [False] * 4, [False] * 4]


@pytest.mark.parametrize(
    'changes, frames, message',
    [(dict(act='swish'), 1, "'swish'; choose one of"), (dict(ends=2), 1, 'ends is 2'), (dict(ends=1), 3, '3 frames')],
)
def test_what_cannot_work_is_refused(changes, frames, message):
    with pytest.raises(ValueError, match=message):
        GatedConnector.Config(hidden=8, **changes).build(4, 4, frames=frames, features=(2, 2), rngs=nnx.Rngs(0))
