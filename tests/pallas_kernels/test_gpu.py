# SPDX-License-Identifier: Apache-2.0
"""The GPU kernels lower for CUDA, walk what they must, and equal the reference on a GPU where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from pallas_kernels.span_attention import api, fused, reference, span_attention
from pallas_kernels.span_attention.gpu import Gpu, ends

SHAPES = {  # N, K, H, Hv, dtype, soft cap
    'grouped heads': (4, 2, 128, 128, 'bfloat16', None),
    'odd widths, cap': (2, 1, 40, 72, 'bfloat16', 30.0),
    'float32': (2, 2, 64, 64, 'float32', None),
    'wide heads': (2, 2, 256, 256, 'bfloat16', None),
}
TRITON = '__gpu$xla.gpu.triton'


@pytest.mark.parametrize('shape', SHAPES)
def test_lowers_for_cuda(shape):
    n, k, h, hv, dtype, cap = SHAPES[shape]
    array = lambda length, heads, width: jax.ShapeDtypeStruct((2, length, heads, width), dtype)
    loss = lambda q, k, v, span: sum(
        x.astype(jnp.float32).sum() for x in fused.attention(Gpu(scale=0.1, soft_cap=cap), q, k, v, span)
    )
    arrays = array(300, n, h), array(1100, k, h), array(1100, k, hv), jax.ShapeDtypeStruct((2, 300, 2), jnp.int32)
    checks = [export.DisabledSafetyCheck.custom_call(TRITON)]  # its format may change between versions of jax
    program = export.export(jax.jit(jax.grad(loss, (0, 1, 2))), platforms=['cuda'], disabled_checks=checks)(*arrays)
    text = program.mlir_module()
    for kernel in ('forward', 'queries', 'keys'):
        assert f'name = "span_attention_{kernel}"' in text
    assert text.count(f'@{TRITON}(') == 3


@pytest.mark.parametrize(
    'some, whole, walk',
    [
        pytest.param('....', '....', (0, 0, 0, 0), id='nothing'),
        pytest.param('.11.', '....', (1, 3, 3, 3), id='cut alone'),
        pytest.param('1111', '.11.', (0, 1, 3, 4), id='whole between cut'),
        pytest.param('.111', '.111', (1, 1, 4, 4), id='whole alone'),
        pytest.param('1111', '1..1', (0, 4, 4, 4), id='whole ones apart count as cut'),
        pytest.param('1..1', '1...', (0, 0, 1, 4), id='a gap is walked'),
    ],
)
def test_ends_of_a_walk(some, whole, walk):
    bools = lambda text: jnp.array([[[c == '1' for c in text]]])
    assert tuple(np.asarray(ends(bools(some), bools(whole)))[0, 0]) == walk


def test_dispatch(monkeypatch):
    # What does not run here is chosen all the same: by platform, length, width and type.
    monkeypatch.setattr(api, 'platform', lambda: 'gpu')
    shape = lambda length, width=64, dtype='bfloat16': jax.ShapeDtypeStruct((1, length, 2, width), dtype)
    chosen = lambda x: repr(jax.make_jaxpr(lambda x, span: span_attention(x, x, x, span))(
        x, jax.ShapeDtypeStruct((1, x.shape[1], 2), jnp.int32)
    ))  # fmt: skip
    assert 'span_attention_forward' in chosen(shape(2048))
    for other in (shape(256), shape(2048, 512), shape(2048, dtype='float16')):
        assert 'span_attention_forward' not in chosen(other)


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs a GPU')
@pytest.mark.parametrize('shape', SHAPES)
def test_equals_reference_on_a_gpu(shape):
    n, k, h, hv, dtype, cap = SHAPES[shape]
    rng = np.random.default_rng(0)
    normal = lambda length, heads, width: jnp.asarray(rng.normal(size=(2, length, heads, width)), dtype)
    q, k, v = normal(1500, n, h), normal(1500, k, h), normal(1500, k, hv)
    start = rng.integers(0, 1500, (2, 1))
    place = np.arange(1500)
    span = jnp.asarray(np.stack([np.where(place < start, 0, start), place * np.ones((2, 1)) + 1], -1), jnp.int32)
    weight = normal(1500, n, hv)

    def of(attention):
        loss = lambda *qkv: (attention(*qkv, span)[0].astype(jnp.float32) * weight).sum()
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)

    settings = {'scale': h**-0.5, 'soft_cap': cap}
    found = of(lambda *arrays: fused.attention(Gpu(**settings), *arrays))
    wanted = of(lambda *arrays: reference.attention(*arrays, **settings))
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        got, want = (x.astype(jnp.float32) for x in (got, want))
        assert jnp.linalg.norm(got - want) < (0.02 if dtype == 'bfloat16' else 1e-4) * jnp.linalg.norm(want)
