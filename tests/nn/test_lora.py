# SPDX-License-Identifier: Apache-2.0
"""Low-rank additions: nothing changes at first, the factors learn, merging keeps the outputs, on a mesh too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax import sharding
from mmjax.models.decoder import Decoder
from mmjax.nn import lora
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp
from mmjax.sharding import P

CONFIG = Decoder.Config(
    vocab=20,
    width=8,
    depth=2,
    block=Block.Config(attn=Attention.Config(heads=4, kv_heads=2, o_bias=True), mlp=Mlp.Config(width=12)),
    vocab_multiple=4,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 20, (4, 6)), jnp.int32)
PLACE = jnp.tile(jnp.arange(6), (4, 1))
SPAN = jnp.stack([PLACE * 0, PLACE + 1], axis=-1)
PATTERNS = ('blocks/attn/[qvo]', 'blocks/mlp/down')


def build(rngs: nnx.Rngs) -> Decoder:
    return CONFIG.build(rngs=rngs)


def adapted(rngs: nnx.Rngs) -> Decoder:
    model = build(rngs)
    lora.add(model, PATTERNS, rank=3, alpha=6.0, rngs=rngs)
    return model


@jax.jit
def run(model: Decoder, tokens=TOKENS, span=SPAN, place=PLACE) -> jax.Array:
    return model.logits(model(model.embed_tokens(tokens), span, place))


def model_of(make) -> Decoder:
    return sharding.init_sharded(make, jax.random.key(0), None)


def test_add_changes_nothing_and_merge_keeps_what_was_learnt():
    model = model_of(build)
    before, own = run(model), set(sharding.paths(model))
    paths = lora.add(model, PATTERNS, rank=3, alpha=6.0, rngs=nnx.Rngs(1))
    assert paths == ['blocks/attn/o', 'blocks/attn/q', 'blocks/attn/v', 'blocks/mlp/down']
    assert set(sharding.paths(model)) - own == {f'{path}/lora/{x}' for path in paths for x in 'ab'}
    np.testing.assert_array_equal(run(model), before)
    grads = sharding.paths(jax.jit(jax.grad(lambda model: jnp.square(run(model)[..., :20]).sum()))(model))
    for path in paths:
        assert np.any(grads[f'{path}/lora/b'].get_value())
        param = sharding.paths(model)[f'{path}/lora/b']
        param.set_value(array(*param.shape))
    after = run(model)
    assert np.abs(after - before)[..., :20].max() > 0.1
    lora.merge(model)
    assert set(sharding.paths(model)) == own
    np.testing.assert_allclose(run(model)[..., :20], after[..., :20], atol=1e-5)


def test_scale_is_alpha_over_rank():
    q = disturbed(lambda rngs: stack_of_one(adapted(rngs))).attn.q
    a, b, x = (np.asarray(z) for z in (q.lora.a.get_value(), q.lora.b.get_value(), array(1, 2, 8)))
    want = np.einsum('DR,RNH->DNH', a, b) * 6 / 3
    np.testing.assert_allclose(q.lora.kernel(), want, atol=1e-5)
    np.testing.assert_allclose(q(jnp.asarray(x)), np.einsum('BLD,DNH->BLNH', x, q.kernel.get_value() + want), atol=1e-5)


def stack_of_one(model: Decoder) -> nnx.Module:
    return jax.tree.map(lambda x: x[0], model.blocks)


def test_on_a_mesh():
    mesh = sharding.make_mesh(2, 2, 2)
    model = sharding.init_sharded(adapted, jax.random.key(0), mesh)
    specs = sharding.param_specs(model, mesh)
    assert specs['blocks/attn/q/lora/a'] == P(None, 'fsdp', None)
    assert specs['blocks/attn/q/lora/b'] == P(None, None, 'tp', None)
    assert specs['blocks/attn/o/lora/a'] == P(None, 'tp', None, None)
    for path, param in sharding.paths(model).items():
        if path.endswith('lora/b'):
            value = np.asarray(param.get_value()) + 0.1
            param.set_value(jax.device_put(value, param.get_value().sharding))
    with sharding.use(mesh):
        got = run(model, *(jax.device_put(x, P(sharding.ROWS)) for x in (TOKENS, SPAN, PLACE)))
    plain = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), model)
    np.testing.assert_allclose(np.asarray(got)[..., :20], run(plain)[..., :20], atol=1e-5)


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no Linear matches 'blocks/attn'; this model has \['blocks/attn/k'"):
        lora.add(model_of(build), ['blocks/attn/q', 'blocks/attn'], rank=2, alpha=2.0, rngs=nnx.Rngs(0))
