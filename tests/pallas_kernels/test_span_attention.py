# SPDX-License-Identifier: Apache-2.0
"""Attention over intervals: the mask that a span means, and every implementation against the reference."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.span_attention import reference, span_attention, xla
from pallas_kernels.span_attention.reference import visible


def draw(mask: np.ndarray) -> list[str]:
    return [''.join('1' if seen else '.' for seen in row) for row in np.asarray(mask)]


@pytest.mark.parametrize(
    'spans, rows',
    [
        pytest.param([(0, 1), (0, 2), (0, 3), (0, 4)], ['1...', '11..', '111.', '1111'], id='causal'),
        pytest.param([(0, 2), (0, 2), (0, 3), (0, 4)], ['11..', '11..', '111.', '1111'], id='picture, then text'),
        pytest.param([(0, 1), (0, 2), (2, 3), (0, 0)], ['1...', '11..', '..1.', '....'], id='packed, then padding'),
        pytest.param([(-3, 2), (3, 9), (2, 1), (4, 9)], ['11..', '...1', '....', '....'], id='beyond the keys'),
    ],
)
def test_visible(spans, rows):
    assert draw(visible(jnp.array(spans), 4)) == rows


def packed(rng: np.random.Generator, rows: int, length: int, keys: int) -> np.ndarray:
    """Returns spans of causal documents with two-way pictures, some padding and a few odd ones, scaled to the keys."""
    span = np.zeros((rows, length, 2), np.int32)
    for b in range(rows):
        cuts = np.unique(rng.integers(0, length, 4))
        for start, end in itertools.pairwise(cuts):
            place = np.arange(start, end)
            picture = start + rng.integers(0, end - start + 1)
            span[b, start:end] = np.stack([place * 0 + start, np.maximum(place + 1, picture)], axis=-1)
    span = span * keys // length
    span[0, 0], span[-1, -1] = (-2, keys + 3), (keys, 1)
    return span


SHAPES = {  # B, L, S, N, K, H, Hv, soft cap
    'grouped heads': (2, 37, 37, 4, 2, 8, 8, None),
    'one key head, wide values, cap': (3, 20, 50, 4, 1, 8, 16, 2.0),
    'one query': (2, 1, 33, 2, 2, 4, 4, None),
    'more queries than keys': (1, 40, 7, 2, 2, 4, 4, 5.0),
}
IMPLEMENTATIONS = {
    'default': span_attention,
    'xla, small tiles by row': lambda *args, **kw: xla.attention(*args, tile=xla.Tiles(8, 7, True), **kw),
    'xla, small tiles, all rows': lambda *args, **kw: xla.attention(*args, tile=xla.Tiles(16, 4, False), **kw),
}


def arrays(shape: str, dtype=jnp.float32):
    b, length, s, n, k, h, hv, cap = SHAPES[shape]
    rng = np.random.default_rng(0)
    normal = lambda *size: jnp.asarray(rng.normal(size=size), dtype)
    span = jnp.asarray(packed(rng, b, length, s))
    return normal(b, length, n, h), normal(b, s, k, h), normal(b, s, k, hv), span, normal(b, length, n, hv), cap


def value_and_grads(attention, q, k, v, span, weight, cap):
    def loss(q, k, v):
        out = attention(q, k, v, span, scale=0.3, soft_cap=cap)
        return (out.astype(jnp.float32) * weight).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


@functools.cache
def expected(shape: str):
    return value_and_grads(reference.attention, *arrays(shape))


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_equals_reference(name, shape):
    for got, want in zip(value_and_grads(IMPLEMENTATIONS[name], *arrays(shape)), expected(shape), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_bfloat16_is_as_good_as_its_inputs():
    found = value_and_grads(span_attention, *arrays('grouped heads', jnp.bfloat16))
    for got, want in zip(found, expected('grouped heads'), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.05)


@pytest.mark.parametrize('name', ['reference', *IMPLEMENTATIONS])
def test_what_sees_nothing_and_what_is_not_seen(name):
    attention = reference.attention if name == 'reference' else IMPLEMENTATIONS[name]
    q, k, v, _, weight, _ = arrays('grouped heads')
    length = q.shape[1]
    span = jnp.zeros((2, length, 2), jnp.int32).at[0, 20:].set(jnp.array([5, 9])).at[1, :, 0].set(3)
    out, dq, dk, dv = value_and_grads(attention, q, k, v, span, weight, None)
    assert not np.any(out[0, :20]) and not np.any(out[1]) and np.all(np.any(out[0, 20:], axis=(1, 2)))
    assert not np.any(dq[0, :20]) and not np.any(dq[1])
    for grad in (dk, dv):
        assert not np.any(grad[0, :5]) and not np.any(grad[0, 9:]) and not np.any(grad[1])
        assert np.all(np.any(grad[0, 5:9], axis=(1, 2)))


def test_reference_is_causal_attention():
    q, k, v, *_ = arrays('grouped heads')
    place = jnp.arange(q.shape[1])
    span = jnp.broadcast_to(jnp.stack([place * 0, place + 1], axis=-1), (2, q.shape[1], 2))
    want = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(span_attention(q, k, v, span, implementation='reference'), want, atol=2e-6)


@pytest.mark.parametrize('by_row', [True, False])
def test_blocks_that_nobody_sees_are_never_touched(by_row):
    q, k, v, *_ = arrays('grouped heads')
    span = jnp.zeros((2, q.shape[1], 2), jnp.int32).at[..., 0].set(9).at[..., 1].set(15)
    tile = xla.Tiles(16, 8, by_row)  # the keys 8..15 are one block
    spoilt = v.at[:, :8].set(jnp.nan).at[:, 16:].set(jnp.nan)
    out, *grads = value_and_grads(
        lambda *args, **kw: xla.attention(*args, tile=tile, **kw), q, k, spoilt, span, jnp.ones(q.shape), None
    )
    assert all(np.isfinite(x).all() for x in (out, *grads))


def test_memory_grows_with_the_length_not_its_square():
    def scratch(length: int) -> int:
        x = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        span = jax.ShapeDtypeStruct((1, length, 2), jnp.int32)
        loss = lambda q, k, v, span: span_attention(q, k, v, span).sum()
        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, span).compile().memory_analysis().temp_size_in_bytes

    assert scratch(4096) < 2.5 * scratch(2048) < 2048 * 2048 * 4


@pytest.mark.parametrize(
    'heads, implementation, message',
    [(3, None, '3 query heads cannot share 2 key heads'), (4, 'tpu', "no implementation 'tpu'")],
)
def test_refusals(heads, implementation, message):
    q, k, v, span, *_ = arrays('grouped heads')
    with pytest.raises(ValueError, match=message):
        span_attention(q[:, :, :heads], k, v, span, implementation=implementation)
