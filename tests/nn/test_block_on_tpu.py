# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler makes of a block: products whose gates and sums cost no pass over memory of their own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax import sharding, topology
from mmjax.nn.attention import Attention
from mmjax.nn.block import GatedBlock
from mmjax.nn.mlp import Mlp

pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install -e '.[plan]'")

B, L, D, MEDIA, MEDIA_WIDTH = 2, 512, 512, 64, 256


def program(chip: str) -> str:
    """Returns the compiled text of a block of gated cross-attention, forward, on one device."""
    config = GatedBlock.Config(attn=Attention.Config(heads=4, head_width=64), mlp=Mlp.Config(width=2048, bias=False))
    graph, state = nnx.split(jax.eval_shape(lambda: config.build(D, MEDIA_WIDTH, rngs=nnx.Rngs(0))))
    mesh = Mesh(np.array(topology.devices(chip)[:1]).reshape(1, 1, 1), sharding.AXES, (AxisType.Explicit,) * 3)
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        state = jax.tree.map(lambda x: array(*x.shape), state)
        call = lambda state, x, media, span: (block := nnx.merge(graph, state))(x, block.keys_values(media), span)
        arrays = array(B, L, D), array(B, MEDIA, MEDIA_WIDTH), array(B, L, 2, dtype=jnp.int32)
        return jax.jit(call).lower(state, *arrays).compile().as_text()


def fusions(text: str) -> list[tuple[str, str]]:
    """Returns (type of the result, text of the computation) of every fusion that a program runs by itself."""
    bodies = {}
    for part in re.split(r'\n(?=%|ENTRY )', text):
        name = re.match(r'(?:ENTRY )?%?([\w.-]+)', part)
        bodies[name[1]] = part
    calls = re.findall(r'= (\(.*?\)|\S+) fusion\(.*?calls=%([\w.-]+)', text[text.index('\nENTRY ') :])
    return [(result, bodies[name]) for result, name in calls]


@pytest.mark.parametrize('chip', ['v5e:2x2'])
def test_gate_and_residual_and_the_norms_sum_are_one_fusion_with_the_product(chip):
    row = f'[{B},{L},{D}]'
    written = [(result, body) for result, body in fusions(program(chip)) if f'bf16{row}' in result]
    halves = [(result, body) for result, body in written if 'convolution(' in body]
    # The two halves' sums; the rest of what is written is at most the input of each product, normalised.
    assert len(halves) == 2 and len(written) <= 4
    for _, body in halves:
        assert re.search(r' multiply\(', body) and re.search(r' add\(', body)
    # The norm behind the first half wants each token's sum; it is taken while the token is at hand.
    assert f'f32[{B},{L}]' in halves[0][0] and 'reduce(' in halves[0][1]
