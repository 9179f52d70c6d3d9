# SPDX-License-Identifier: Apache-2.0
"""Attention over intervals: the mask that a span means, and every implementation against the reference."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.span_attention import api, fused, reference, span_attention, tpu_decode
from pallas_kernels.span_attention.gpu import Gpu
from pallas_kernels.span_attention.reference import visible
from pallas_kernels.span_attention.tiles import END, FIRST, HIGH, LAST, LOW, START, Format, Planned, Tile, list_tiles
from pallas_kernels.span_attention.tpu import Sizes, Tpu
from pallas_kernels.span_attention.xla import Tiles, Xla


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


def pieces(rng, length: int, most: int) -> list[tuple[int, int]]:
    """Cuts 0..length into up to `most` pieces."""
    cuts = np.unique([0, *rng.integers(1, length + 1, most - 1), length])
    return list(itertools.pairwise(cuts))


def causal(rng, length: int, keys: int) -> np.ndarray:
    place = np.arange(length)
    return np.stack([place * 0, np.minimum(place + 1 + max(keys - length, 0), keys)], axis=-1)


def packed(rng, length: int, keys: int, pictures: bool = False) -> np.ndarray:
    """Causal documents and padding; with pictures, some of each document is seen both ways."""
    span = np.zeros((length, 2), int)
    for start, end in pieces(rng, length - length // 6, 4):
        place = np.arange(start, end)
        picture = start + rng.integers(0, end - start + 1) if pictures else 0
        span[start:end] = np.stack([place * 0 + start, np.maximum(place + 1, picture)], axis=-1)
    return span * keys // length


def packed_pictures(rng, length: int, keys: int) -> np.ndarray:
    span = np.zeros((length, 2), int)
    for start, end in pieces(rng, length, 5):
        span[start:end] = start, end
    return span * keys // length


def last_picture(rng, length: int, keys: int) -> np.ndarray:
    """Text sees the media tokens of one picture, of the next from some token on; nothing before the first."""
    each, number = max(keys // 4, 1), np.sort(rng.integers(0, 5, length))
    return np.stack([np.maximum(number - 1, 0) * each, number * each], axis=-1)


def window(rng, length: int, keys: int) -> np.ndarray:
    span = causal(rng, length, keys)
    return np.stack([np.maximum(span[:, 1] - 5, 0), span[:, 1]], axis=-1)


def prefix(rng, length: int, keys: int) -> np.ndarray:
    return np.maximum(causal(rng, length, keys), [0, keys // 3])


def intervals(rng, length: int, keys: int) -> np.ndarray:
    """Any order, some beyond the keys, some the wrong way round."""
    return rng.integers(-2, keys + 3, (length, 2))


SPANS = {
    'causal': causal,
    'packed': packed,
    'pictures in text': functools.partial(packed, pictures=True),
    'last picture': last_picture,
    'packed pictures': packed_pictures,
    'window': window,
    'prefix': prefix,
    'ragged cache': lambda rng, length, keys: np.tile([0, rng.integers(0, keys + 1)], (length, 1)),
    'any': intervals,
    'nothing': lambda rng, length, keys: np.tile([3, 3], (length, 1)),
    'nothing below the keys': lambda rng, length, keys: np.tile([-5, 0], (length, 1)),
}
SHAPES = {  # B, L, S, N, K, H, Hv, soft cap
    'grouped heads': (2, 300, 300, 4, 2, 32, 32, None),
    'tiles divide': (1, 256, 256, 2, 2, 64, 64, None),
    'one key head, wide values, cap': (2, 140, 330, 3, 1, 40, 72, 2.0),
    'one query': (3, 1, 290, 2, 1, 32, 32, None),
    'more queries than keys': (1, 270, 7, 2, 2, 32, 32, 5.0),
}
SMALL = Sizes(256, 256, 128, 128)
KERNELS = {
    'xla': Xla,
    'xla, small tiles by row': functools.partial(Xla, tile=Tiles(32, 28, True)),
    'xla, small tiles, all rows': functools.partial(Xla, tile=Tiles(64, 16, False)),
    'tpu': functools.partial(Tpu, interpret=True),
    'tpu, small tiles': functools.partial(Tpu, sizes=SMALL, interpret=True),
    # Two key tiles' gradients fit: longer rows are cut.
    'tpu, in parts': functools.partial(Tpu, sizes=SMALL._replace(vmem=2 * 2 * 128 * 256 * 12), interpret=True),
    'gpu': functools.partial(Gpu, interpret=True),
}


@functools.cache
def arrays(shape: str, dtype=jnp.float32):
    b, length, s, n, k, h, hv, cap = SHAPES[shape]
    rng = np.random.default_rng(0)
    normal = lambda *size: jnp.asarray(rng.normal(size=size), dtype)
    weights = normal(b, length, n, hv), normal(b, length, n)
    return (normal(b, length, n, h), normal(b, s, k, h), normal(b, s, k, hv)), weights, cap


@functools.cache
def spans(name: str, shape: str) -> jax.Array:
    b, length, s, *_ = SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, name)))
    return jnp.asarray(np.stack([SPANS[name](rng, length, s) for _ in range(b)]), jnp.int32)


@functools.cache
def compiled(name: str, cap: float | None):
    """Returns the jitted (out, lse, dq, dk, dv) of an implementation: one program for all spans of a shape."""
    settings = {'scale': 0.3, 'soft_cap': cap}
    if name == 'reference':
        attention = functools.partial(reference.attention, **settings)
    else:
        attention = functools.partial(fused.attention, KERNELS[name](**settings))

    def loss(qkv, span, weights):
        out, lse = attention(*qkv, span)
        seen = jnp.where(lse < fused.NOTHING, lse, 0.0)
        return sum((x.astype(jnp.float32) * w).sum() for x, w in zip((out, seen), weights, strict=True)), (out, lse)

    return jax.jit(lambda qkv, span, weights: jax.value_and_grad(loss, has_aux=True)(qkv, span, weights))


def run(name: str, shape: str, span: str, dtype=jnp.float32):
    qkv, weights, cap = arrays(shape, dtype)
    (_, (out, lse)), grads = compiled(name, cap)(qkv, spans(span, shape), weights)
    return out, lse, *grads


@functools.cache
def expected(shape: str, span: str):
    return run('reference', shape, span)


def equal(name: str, shape: str, span: str) -> None:
    for got, want in zip(run(name, shape, span), expected(shape, span), strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('span', SPANS)
@pytest.mark.parametrize('name', KERNELS)
def test_every_mask_equals_reference(name, span):
    equal(name, 'grouped heads', span)


OTHER_SHAPES = [shape for shape in SHAPES if shape != 'grouped heads']
# Interpreted, the three kernels for GPUs are dear: what pads both ways, with odd widths and a cap, and the fewest keys.
GPU_SHAPES = ['one key head, wide values, cap', 'more queries than keys']


@pytest.mark.parametrize(
    'name, shape', [(name, shape) for name in KERNELS for shape in (GPU_SHAPES if name == 'gpu' else OTHER_SHAPES)]
)
def test_every_shape_equals_reference(name, shape):
    for span in ('pictures in text', 'any') if 'more' not in shape else ('last picture', 'any'):
        equal(name, shape, span)


@pytest.mark.parametrize('name', KERNELS)
def test_bfloat16_is_as_good_as_its_inputs(name):
    found = run(name, 'grouped heads', 'pictures in text', jnp.bfloat16)
    for got, want in zip(found, expected('grouped heads', 'pictures in text'), strict=True):
        got = got.astype(jnp.float32)
        assert jnp.linalg.norm(got - want) < 0.01 * jnp.linalg.norm(want)
    assert [x.dtype for x in found] == [jnp.bfloat16, jnp.float32, *[jnp.bfloat16] * 3]


@pytest.mark.parametrize('name', KERNELS)
def test_what_sees_nothing_and_what_is_not_seen(name):
    (q, k, v), weights, _ = arrays('grouped heads')
    span = jnp.zeros((2, q.shape[1], 2), jnp.int32).at[0, 20:].set(jnp.array([5, 9])).at[1, :, 0].set(3)
    (_, (out, lse)), (dq, dk, dv) = compiled(name, None)((q, k, v), span, weights)
    assert not np.any(out[0, :20]) and not np.any(out[1]) and np.all(np.any(out[0, 20:], axis=(1, 2)))
    assert np.all(lse[0, :20] == np.float32(fused.NOTHING)) and np.all(lse[0, 20:] < 100)
    assert not np.any(dq[0, :20]) and not np.any(dq[1])
    for grad in (dk, dv):
        assert not np.any(grad[0, :5]) and not np.any(grad[0, 9:]) and not np.any(grad[1])
        assert np.all(np.any(grad[0, 5:9], axis=(1, 2)))


@pytest.mark.parametrize('name', KERNELS)
def test_bit_equal_from_run_to_run(name):
    first, second = (run(name, 'grouped heads', 'pictures in text') for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize('name', ['reference', 'xla', 'tpu, small tiles'])
def test_vmap_and_remat_and_scan(name):
    settings = {'scale': 0.2}
    single = functools.partial(reference.attention, **settings)
    if name != 'reference':
        single = functools.partial(fused.attention, KERNELS[name](**settings))
    rng = np.random.default_rng(1)
    normal = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)
    q, k, v = normal(3, 2, 40, 4, 32), normal(3, 2, 50, 2, 32), normal(2, 50, 2, 32)
    span = jnp.asarray(np.stack([packed(rng, 40, 50, pictures=True) for _ in range(2)]), jnp.int32)
    body = lambda q, k, v: jax.remat(lambda *qkv: single(*qkv, span)[0])(q, k, v)

    def mapped(q, k, v):
        return jnp.sin(jax.vmap(body, (0, 0, None))(q, k, v)).sum()

    def scanned(q, k, v):
        return jax.lax.scan(lambda total, qk: (total + jnp.sin(body(*qk, v)).sum(), None), 0.0, (q, k))[0]

    found = jax.jit(jax.grad(mapped, (0, 1, 2)))(q, k, v)
    for got, want in zip(found, jax.jit(jax.grad(scanned, (0, 1, 2)))(q, k, v), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_reference_is_causal_attention():
    (q, k, v), _, _ = arrays('grouped heads')
    want = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    got = span_attention(q, k, v, spans('causal', 'grouped heads'), implementation='reference')
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize('implementation', ['reference', 'xla'])
def test_sinks_are_one_more_key_of_value_zero(implementation):
    (q, k, v), (weight, _), _ = arrays('grouped heads')
    sinks, span = jnp.array([-1.0, 0.0, 0.5, 3.0]), spans('pictures in text', 'grouped heads')

    def by_hand(q, k, v, sinks):
        groups = lambda x: jnp.repeat(x, 2, axis=2)
        scores = jnp.einsum('blnh,bsnh->bnls', q, groups(k)) * 0.3
        scores = jnp.where(visible(span, k.shape[1])[:, None], scores, -jnp.inf)
        column = jnp.broadcast_to(sinks[:, None, None], (*scores.shape[:3], 1))
        weights = jax.nn.softmax(jnp.concatenate([scores, column], axis=-1), axis=-1)[..., :-1]
        return (jnp.einsum('bnls,bsnh->blnh', weights, groups(v)) * weight).sum()

    def found(q, k, v, sinks):
        out = span_attention(q, k, v, span, scale=0.3, sinks=sinks, implementation=implementation)
        return (out * weight).sum()

    want = jax.value_and_grad(by_hand, (0, 1, 2, 3))(q, k, v, sinks)
    got = jax.value_and_grad(found, (0, 1, 2, 3))(q, k, v, sinks)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), got, want)


@pytest.mark.parametrize('rows', [1, 2])
def test_a_bias_is_added_to_the_capped_scores(rows):
    (q, k, v), (weight, _), _ = arrays('grouped heads')
    span = spans('pictures in text', 'grouped heads')
    bias = jnp.asarray(np.random.default_rng(2).normal(size=(rows, 4, q.shape[1], k.shape[1])), jnp.float32)

    def by_hand(q, k, v, bias):
        groups = lambda x: jnp.repeat(x, 2, axis=2)
        scores = 2 * jnp.tanh(jnp.einsum('blnh,bsnh->bnls', q, groups(k)) * 0.3 / 2) + bias
        mask = visible(span, k.shape[1])[:, None]
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1) * mask
        return (jnp.einsum('bnls,bsnh->blnh', weights, groups(v)) * weight).sum()

    def found(q, k, v, bias):
        return (span_attention(q, k, v, span, scale=0.3, soft_cap=2.0, bias=bias) * weight).sum()

    want = jax.value_and_grad(by_hand, (0, 1, 2, 3))(q, k, v, bias)
    got = jax.value_and_grad(found, (0, 1, 2, 3))(q, k, v, bias)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), got, want)


def test_log_of_the_sums():
    (q, k, v), _, _ = arrays('grouped heads')
    span = spans('packed', 'grouped heads')
    _, lse = span_attention(q, k, v, span, return_lse=True)
    empty = np.asarray(span[..., 0] >= span[..., 1])
    assert empty.any() and np.array_equal(np.isneginf(lse), np.broadcast_to(empty[..., None], lse.shape))
    scores = jnp.einsum('lh,sh->ls', q[0, :, 0], k[0, :, 0]) * 32**-0.5
    want = jax.nn.logsumexp(jnp.where(visible(span[0], 300), scores, -jnp.inf), axis=-1)
    np.testing.assert_allclose(lse[0, :, 0], want, rtol=1e-5)


@pytest.mark.parametrize('name', ['reference', *KERNELS])
def test_what_stands_before_and_behind_all_spans_may_be_nan(name):
    (q, k, v), weights, _ = arrays('grouped heads')
    span = jnp.zeros((2, q.shape[1], 2), jnp.int32).at[..., 0].set(9).at[..., 1].set(150)
    spoil = lambda x: x.at[:, :9].set(jnp.nan).at[:, 150:].set(jnp.inf)
    found = compiled(name, None)((q, spoil(k), spoil(v)), span, weights)
    jax.tree.map(np.testing.assert_array_equal, found, compiled(name, None)((q, k, v), span, weights))


def test_tiles_are_those_that_some_query_sees():
    rng = np.random.default_rng(3)
    for name in ('causal', 'packed', 'pictures in text', 'window', 'nothing'):
        span = np.stack([SPANS[name](rng, 64, 64) for _ in range(2)])
        tiles = list_tiles(jnp.asarray(span), 64, Tile(8, 16))
        form, entries = Format.of(2, 64, 64, Tile(8, 16)), np.asarray(tiles[1 : 1 + tiles[0]])
        row, queries, keys, flags = form.row(entries), form.line(entries), form.keys(entries), entries
        seen = np.asarray(visible(jnp.asarray(span), 64)).reshape(2, 8, 8, 4, 16)
        some, every = seen.any((2, 4)), seen.all((2, 4))
        # A line that sees nothing keeps one tile, to write its zeros.
        wanted = {*zip(*np.nonzero(some), strict=True)} | {(b, i, k) for b, i, k in zip(row, queries, keys, strict=True)
                                                           if not some[b, i].any()}  # fmt: skip
        assert [*zip(row, queries, keys, strict=True)] == sorted(wanted), name
        assert len({*zip(row, queries, strict=True)}) == 16
        for b, i, j, flag in zip(row, queries, keys, flags, strict=True):
            assert every[b, i, j] == (not flag & (LOW | HIGH)), name
        ends = lambda *axes: [key for key, _ in itertools.groupby(zip(*axes, strict=True))]
        for bits, axes in ((FIRST, (row, queries)), (LAST, (row, queries)), (START, (row,)), (END, (row,))):
            assert ((flags & bits) > 0).sum() == len(ends(*axes))
        assert flags[0] & FIRST and flags[0] & START and flags[-1] & LAST and flags[-1] & END


def test_tpu_kernels_neither_race_nor_read_out_of_bounds():
    # No public name says what the interpreter found. Reads before writes give NaN, reads beyond an array raise.
    interpreter = pytest.importorskip('jax._src.pallas.mosaic.interpret.interpret_pallas_call')
    (q, k, v), weights, _ = arrays('tiles divide')
    span = spans('pictures in text', 'tiles divide')
    kernel = Tpu(scale=0.3, sizes=SMALL, interpret=pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan'))
    out, pull = jax.vjp(lambda *qkv: fused.attention(kernel, *qkv, span), q, k, v)
    want, pull_back = jax.vjp(lambda *qkv: reference.attention(*qkv, span, scale=0.3), q, k, v)
    np.testing.assert_allclose(out[0], want[0], rtol=1e-5, atol=1e-5)
    for got, wanted in zip(pull((weights[0], out[1] * 0)), pull_back((weights[0], out[1] * 0)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5)
    assert not interpreter.races.races_found


def test_lists_made_before_a_loop_change_nothing(monkeypatch):
    (q, k, v), (weight, _), _ = arrays('tiles divide')
    q, k, v, weight = (x[:1, :150] for x in (q, k, v, weight))
    span, kernel = spans('pictures in text', 'tiles divide')[:1, :150], KERNELS['tpu, small tiles'](scale=0.3)

    def loss(q, k, v, span):
        body = lambda x, _: (jax.remat(lambda x: fused.attention(kernel, x, k, v, span)[0])(x), None)
        return (jax.lax.scan(body, q, None, length=2)[0] * weight).sum()

    both, planned = jax.jit(jax.value_and_grad(loss, (0, 1, 2))), kernel.plan(q, k, span)
    want = both(q, k, v, span)
    unexpected = lambda *args: pytest.fail(f'listed again: {args}')
    monkeypatch.setattr('pallas_kernels.span_attention.tiles.list_tiles', unexpected)
    jax.tree.map(np.testing.assert_array_equal, both(q, k, v, planned), want)


@functools.cache
def decoding(cap: float | None, name: str = 'tpu'):
    if name == 'xla':
        kernel = Xla(scale=0.3, soft_cap=cap)
    else:
        kernel = Tpu(scale=0.3, soft_cap=cap, decode=tpu_decode.Cut(256, 128), interpret=True)
    return kernel, jax.jit(kernel.forward)


@pytest.mark.parametrize('kernel', ['tpu', 'xla'])
@pytest.mark.parametrize(
    'shape, dtype',
    [
        ('grouped heads', jnp.float32),
        ('grouped heads', jnp.bfloat16),
        ('one key head, wide values, cap', jnp.float32),
        ('one query', jnp.float32),
    ],
)
def test_decoding_equals_reference(kernel, shape, dtype):
    (q, k, v), _, cap = arrays(shape, dtype)
    q, (_, run) = q[:, ::60], decoding(cap, kernel)
    for name in ('ragged cache', 'pictures in text', 'window', 'any', 'nothing', 'nothing below the keys'):
        span = spans(name, shape)[:, ::60]
        wide = (x.astype(jnp.float32) for x in (q, k, v))
        want = reference.attention(*wide, span, scale=0.3, soft_cap=cap)
        for got, wanted in zip(run(q, k, v, span), want, strict=True):
            limit = 1e-5 if dtype == jnp.float32 else 0.02
            np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=limit, rtol=limit, err_msg=name)
    span = jnp.broadcast_to(jnp.array([9, 150]), (*q.shape[:2], 2))
    spoil = lambda x: x.at[:, :9].set(jnp.nan).at[:, 150:].set(jnp.inf)
    jax.tree.map(np.testing.assert_array_equal, run(q, spoil(k), spoil(v), span), run(q, k, v, span))


def test_a_layer_of_a_cache_is_read_where_it_lies():
    (q, k, v), _, _ = arrays('one query')
    span, (kernel, run) = spans('ragged cache', 'one query'), decoding(None)
    cache = [jnp.stack([x * jnp.nan, x, x * 2]) for x in (k, v)]
    found = jax.jit(kernel.decode_in_place)(q, *cache, span, jnp.array(1))
    jax.tree.map(np.testing.assert_array_equal, found, run(q, k, v, span))
    for name in ('reference', 'xla'):
        call = functools.partial(span_attention, implementation=name)
        np.testing.assert_array_equal(call(q, *cache, span, layer=jnp.array(1)), call(q, k, v, span))


def test_a_list_made_before_decoding_changes_nothing(monkeypatch):
    (q, k, v), _, _ = arrays('one query')
    span, (kernel, run) = spans('ragged cache', 'one query'), decoding(None)
    planned, want = kernel.plan(q, k, span), run(q, k, v, span)
    unexpected = lambda *args: pytest.fail(f'listed again: {args}')
    monkeypatch.setattr('pallas_kernels.span_attention.tiles.list_tiles', unexpected)
    jax.tree.map(np.testing.assert_array_equal, run(q, k, v, planned), want)


def test_vmap_leaves_lists_of_fewer_rows_behind():
    span = jnp.zeros((2, 4, 2), jnp.int32)
    planned = Planned(span, {(16, 4, 16, 1, 1): list_tiles(span, 16, Tile(4, 16))})
    call = fused.folded(lambda planned, q, k, v: (jnp.full(len(q), len(planned.lists)),))
    lists = lambda x: call(x, x, x, planned)[0]
    assert lists(jnp.zeros((2, 4))).tolist() == [1, 1]
    assert jax.vmap(lists)(jnp.zeros((3, 2, 4))).tolist() == [[0, 0]] * 3


def test_memory_grows_with_the_length_not_its_square():
    def scratch(length: int) -> int:
        x = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        span = jax.ShapeDtypeStruct((1, length, 2), jnp.int32)
        loss = lambda q, k, v, span: span_attention(q, k, v, span).sum()
        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, span).compile().memory_analysis().temp_size_in_bytes

    assert scratch(4096) < 2.5 * scratch(2048) < 2048 * 2048 * 4


@pytest.mark.parametrize(
    'change, error, message',
    [
        ({'q': (2, 5, 3, 8)}, ValueError, '3 query heads cannot share 2 key heads'),
        ({'q': (2, 5, 4, 9)}, ValueError, r'q \(2, 5, 4, 9\), k \(2, 7, 2, 8\)'),
        ({'span': (2, 7, 2)}, ValueError, r'span \(2, 7, 2\)'),
        ({'sinks': (3,)}, ValueError, r'one sink for each of 4 heads, not \(3,\)'),
        ({'bias': (1, 2, 5, 7)}, ValueError, r'a bias \[1 or B,N,L,S\], not \(1, 2, 5, 7\)'),
        ({'bias': (3, 4, 5, 7)}, ValueError, r'not \(3, 4, 5, 7\), for q \(2, 5, 4, 8\)'),
        ({'q': (5, 4, 8)}, ValueError, r'takes q \[B,L,N,H\], k \[B,S,K,H\], .* not q \(5, 4, 8\)'),
        ({'k': (3, 2, 7, 2, 8)}, ValueError, r'k \[B,S,K,H\], .* k \(3, 2, 7, 2, 8\)'),
        ({'layer': ()}, ValueError, r'k \[depth,B,S,K,H\], .* k \(2, 7, 2, 8\)'),
    ],
)
def test_refuses_arrays_that_do_not_belong_together(change, error, message):
    shapes = {'q': (2, 5, 4, 8), 'k': (2, 7, 2, 8), 'v': (2, 7, 2, 8), 'span': (2, 5, 2), 'sinks': (4,)} | change
    with pytest.raises(error, match=message):
        api.check_arrays(**{name: np.zeros(shape, np.int32) for name, shape in shapes.items()})


def test_refusals():
    (q, k, v), _, _ = arrays('one query')
    span = spans('causal', 'one query')
    with pytest.raises(TypeError, match='spans of integers, not float32'):
        api.check_arrays(q, k, v, span.astype(jnp.float32), None)
    with pytest.raises(ValueError, match="no implementation 'cuda'"):
        span_attention(q, k, v, span, implementation='cuda')
    for other in ('xla', 'tpu'):
        with pytest.raises(ValueError, match=f"'{other}' takes no bias; 'reference' does"):
            span_attention(q, k, v, span, bias=jnp.zeros((1, 2, 1, 290)), implementation=other)
    with pytest.raises(ValueError, match=r"'tpu' does not run on .*'xla' does"):
        span_attention(q, k, v, span, implementation='tpu')


@pytest.mark.parametrize('name', api.KERNELS)
def test_kernels_refuse_what_they_are_not_made_for(name, monkeypatch):
    monkeypatch.setattr(api, 'platform', lambda: name)
    wide, half = jnp.zeros((1, 8, 1, 512), jnp.bfloat16), jnp.zeros((1, 8, 1, 64), jnp.float16)
    span, narrow = jnp.zeros((1, 8, 2), int), jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
    for arrays, error, message in (
        ((wide, wide, wide), ValueError, "heads of 32 to 256 .* not of 512 with values of 512 in bfloat16; 'xla'"),
        ((narrow, narrow, wide), ValueError, "not of 64 with values of 512 in bfloat16; 'xla' takes them"),
        ((half, half, half), ValueError, "in bfloat16 or float32, not of 64 with values of 64 in float16; 'xla'"),
        ((narrow, narrow, half), TypeError, "one type, not bfloat16, bfloat16 and float16; 'xla' takes them"),
    ):
        with pytest.raises(error, match=message):
            span_attention(*arrays, span, implementation=name)
