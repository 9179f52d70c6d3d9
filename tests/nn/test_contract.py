# SPDX-License-Identifier: Apache-2.0
"""The product of all affine maps: the same gradients on every mesh, and nothing is sent that nobody stores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax import sharding
from mmjax.nn.contract import contract
from mmjax.sharding import P

X = np.random.default_rng(0).standard_normal((8, 4, 16)).astype(np.float32)
UP = np.random.default_rng(1).standard_normal((3, 16, 4, 8)).astype(np.float32) / 4
DOWN = np.random.default_rng(2).standard_normal((3, 4, 8, 16)).astype(np.float32) / 4
MESHES = [(1, 8, 1), (2, 2, 2), (4, 2, 1), (1, 4, 2), (2, 1, 4)]


def loss(x, up, down):
    """Three layers of two products each, over and out of two axes, scanned and computed again as blocks are."""

    def layer(x, weights):
        h = jnp.tanh(contract(x, weights[0], 1, P('tp', None)))
        return x + contract(h, weights[1], 2, P(None)), None

    x = jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, (up, down))[0]
    return jnp.square(x).mean()


def placed(mesh):
    put = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, P(*spec)))
    rows = put(X, ('data', 'fsdp'), None, None)
    return rows, put(UP, None, 'fsdp', 'tp', None), put(DOWN, None, 'tp', None, 'fsdp')


@pytest.mark.parametrize('sizes', MESHES, ids=str)
@pytest.mark.parametrize('wanted', [(0, 1, 2), (1,), (0,), (2,)], ids=str)
def test_gradients_of_every_mesh(sizes, wanted):
    mesh = sharding.make_mesh(*sizes)
    with sharding.use(mesh):
        found = jax.jit(jax.grad(loss, wanted))(*placed(mesh))
    for one, expected in zip(found, jax.grad(loss, wanted)(X, UP, DOWN), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('sizes', [(1, 8, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize('wanted, scattered', [((1, 2), 2), ((2,), 1), ((0,), 0)], ids=str)
def test_gradients_are_sent_to_who_stores_them(sizes, wanted, scattered):
    mesh = sharding.make_mesh(*sizes)
    with sharding.use(mesh):
        text = jax.jit(jax.grad(loss, wanted)).lower(*placed(mesh)).compile().as_text()
    assert len(re.findall(r' reduce-scatter\(', text)) == scattered
    # No device sums a whole kernel's gradient for all.
    kernel = UP[0].size // sizes[2]
    sums = [np.prod([int(n) for n in dims.split(',')]) for dims in re.findall(r'f32\[([\d,]+)\]\S* all-reduce\(', text)]
    assert all(size < kernel for size in sums)


def test_a_kernel_that_is_stored_whole():
    mesh = sharding.make_mesh(1, 8, 1)
    with sharding.use(mesh):
        x, up, _ = placed(mesh)
        up = jax.device_put(UP[0], NamedSharding(mesh, P(None, None, None)))
        text = jax.jit(jax.grad(lambda w: contract(x, w, 1, P(None, None)).sum())).lower(up).compile().as_text()
    assert 'reduce-scatter' not in text
