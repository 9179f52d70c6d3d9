# SPDX-License-Identifier: Apache-2.0
"""The TPU kernels compile for every generation, forward and backward, by the real compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax import topology
from mmjax.models.decoder import Decoder
from mmjax.models.trunk import Local
from mmjax.nn.attention import Attention, attend
from mmjax.nn.block import Block
from mmjax.nn.cache import KeyValue
from mmjax.nn.mlp import Mlp
from pallas_kernels.span_attention import tiles, tpu

pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install -e '.[plan]'")

CHIPS = ('v4:2x2x1', 'v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1')
SHAPES = {  # L, S, N, K, H, dtype, soft cap
    'grouped heads': (2048, 2048, 8, 2, 128, 'bfloat16', None),
    'odd sizes, float32, cap': (1100, 1300, 4, 4, 72, 'float32', 30.0),
    'rows longer than VMEM': (8192, 65536, 2, 2, 256, 'bfloat16', None),
}


LIST_TILES = tiles.list_tiles
DECODE = {  # as above
    'one query': (1, 8192, 32, 8, 128, 'bfloat16', None),
    'many heads, some queries': (4, 2000, 16, 16, 128, 'float32', 30.0),
    'keys that tiles do not divide': (3, 5000, 8, 2, 256, 'bfloat16', None),
}


def compiled(chip: str, length: int, s: int, n: int, k: int, h: int, dtype: str, cap: float | None, grad: bool = True):
    # As the models call it: on an explicit mesh, rows over fsdp, heads over tp.
    mesh = Mesh(np.array(topology.devices(chip)[:4]).reshape(1, 2, 2), ('data', 'fsdp', 'tp'), (AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        array = lambda *size, spec, dtype=dtype: jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, spec))
        heads = P(('data', 'fsdp'), None, 'tp', None)
        q, kv = array(2, length, n, h, spec=heads), array(2, s, k, h, spec=heads)
        span = array(2, length, 2, spec=P(('data', 'fsdp'), None, None), dtype='int32')

        out = lambda q, k, v, span: attend(q, KeyValue(k, v), span, scale=0.1, soft_cap=cap)
        loss = lambda *arrays: out(*arrays).astype(jnp.float32).sum()
        return jax.jit(jax.grad(loss, (0, 1, 2)) if grad else out).lower(q, kv, kv, span).compile()


CASES = [
    *((chip, 'grouped heads') for chip in CHIPS),
    *(('v5e:2x2', shape) for shape in SHAPES if 'grouped' not in shape),
]


@pytest.mark.parametrize('chip, shape', CASES)
def test_compiles(chip, shape):
    program = compiled(chip, *SHAPES[shape])
    text = program.as_text()
    assert 'span_attention_forward' in text and 'span_attention_backward' in text
    length, s, *_ = SHAPES[shape]
    assert program.memory_analysis().temp_size_in_bytes < length * s * 4  # no [L, S] array of scores


@pytest.mark.parametrize(
    'chip, shape',
    [*((chip, 'one query') for chip in CHIPS), *(('v5e:2x2', shape) for shape in DECODE if shape != 'one query')],
)
def test_a_cache_is_read_where_it_lies(chip, shape):
    program = compiled(chip, *DECODE[shape], grad=False)
    assert 'span_attention_decode' in program.as_text() and 'span_attention_forward' not in program.as_text()
    _, s, _, k, h, dtype, _ = DECODE[shape]
    cache = s * k // 2 * h * jnp.dtype(dtype).itemsize  # a device's row of keys
    assert program.memory_analysis().temp_size_in_bytes < cache / 4


@pytest.mark.parametrize('local, views', [(None, 1), (Local.Config(window=256), 2)], ids=['alike', 'windows'])
def test_a_scanned_decoder_lists_tiles_once_a_step_and_view(local, views, monkeypatch):
    made = []
    for module in (tiles, tpu):
        monkeypatch.setattr(module, 'list_tiles', lambda *args: made.append(args) or LIST_TILES(*args))
    block = Block.Config(attn=Attention.Config(heads=1, head_width=128), mlp=Mlp.Config(width=128))
    config = Decoder.Config(vocab=128, width=128, depth=3, block=block, remat='block', local=local)
    devices = np.array(topology.devices('v5e:2x2')[:2]).reshape(1, 2, 1)  # two lists, each of its device's row
    mesh = Mesh(devices, ('data', 'fsdp', 'tp'), (AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        graph, params = nnx.split(nnx.eval_shape(lambda: config.build(rngs=nnx.Rngs(0))))
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, 'bfloat16', sharding=x.sharding), params)
        rows = NamedSharding(mesh, P(('data', 'fsdp')))
        array = lambda *size, dtype: jax.ShapeDtypeStruct(size, dtype, sharding=rows)
        loss = lambda params, *arrays: nnx.merge(graph, params)(*arrays).astype(jnp.float32).sum()
        arrays = array(2, 1024, 128, dtype='bfloat16'), array(2, 1024, 2, dtype='int32'), array(2, 1024, dtype='int32')
        text = jax.jit(jax.grad(loss)).lower(params, *arrays).compile().as_text()
    listing = [line for line in text.splitlines() if 'list_tiles/' in line]
    assert listing and len(made) == views and 'span_attention_backward' in text
    # What a loop over layers computes has the loop in its name.
    assert not [line for line in listing if 'while/body' in line]


def test_a_step_of_decoding_reads_its_cache_where_it_lies():
    # A scan over the layers writes each its key and value and reads its part of one array: nothing of it is copied.
    block = Block.Config(attn=Attention.Config(heads=8, kv_heads=8, head_width=128), mlp=Mlp.Config(width=128))
    config = Decoder.Config(vocab=128, width=128, depth=3, block=block)
    devices = np.array(topology.devices('v5e:2x2')[:2]).reshape(1, 2, 1)
    mesh = Mesh(devices, ('data', 'fsdp', 'tp'), (AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        graph, params = nnx.split(nnx.eval_shape(lambda: config.build(rngs=nnx.Rngs(0))))
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, 'bfloat16', sharding=x.sharding), params)
        cache = jax.eval_shape(lambda params: nnx.merge(graph, params).init_cache(32, 8192, jnp.bfloat16), params)
        rows = NamedSharding(mesh, P(('data', 'fsdp')))
        array = lambda *size, dtype='int32': jax.ShapeDtypeStruct(size, dtype, sharding=rows)
        step = lambda params, cache, *arrays: nnx.merge(graph, params).step(*arrays, cache)
        arrays = array(32, 1, 128, dtype='bfloat16'), array(32, 1, 2), array(32, 1), array(32)
        program = jax.jit(step, donate_argnums=1).lower(params, cache, *arrays).compile()
    assert 'span_attention_decode' in program.as_text()
    layer = 16 * 8192 * 8 * 128 * 2  # bytes of a device's keys, too many for VMEM
    assert program.memory_analysis().temp_size_in_bytes < layer / 4
