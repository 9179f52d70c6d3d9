# SPDX-License-Identifier: Apache-2.0
"""Specs and meshes: the same values and gradients on every mesh, and clear refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array
from flax import nnx

from mmjax import sharding
from mmjax.models.decoder import Decoder
from mmjax.models.vision import Vit
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, GatedBlock
from mmjax.nn.layers import Norm, parameter
from mmjax.nn.mlp import Mlp
from mmjax.objectives.next_token import token_losses
from mmjax.sharding import P

B, L = 4, 6
BIASED = Attention.Config(heads=4, q_bias=True, k_bias=True, v_bias=True, o_bias=True, inner_norm=Norm.Config())
BLOCK = Block.Config(attn=BIASED, mlp=Mlp.Config(width=16, inner_norm=Norm.Config()))
VIT = Vit.Config(size=(4, 8), patch=4, width=8, depth=1, block=BLOCK, cls=True, pre_norm=Norm.Config())
GROUPED = Block.Config(
    attn=Attention.Config(heads=4, kv_heads=2, qk_norm=Norm.Config(kind='rms')),
    mlp=Mlp.Config(width=16, gated=True, act='silu', bias=False),
)
DECODER = Decoder.Config(vocab=30, width=8, depth=2, block=GROUPED, vocab_multiple=8, remat='block', input_scale=50.0)
GATED = GatedBlock.Config(attn=BIASED, mlp=Mlp.Config(width=16), gate_init=0.5)


class Both(nnx.Module):
    """A tower whose features a decoder looks at."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.vit = VIT.build(rngs=rngs)
        self.decoder = DECODER.build(cross=GATED, every=1, first=0, media_width=8, rngs=rngs)


def inputs() -> list[jax.Array]:
    rng = np.random.default_rng(0)
    place = np.tile(np.arange(L), (B, 1))
    return [
        jnp.asarray(rng.integers(0, 30, (B, L)), jnp.int32),
        jnp.asarray(np.stack([place * 0, place + 1], axis=-1), jnp.int32),
        jnp.asarray(place, jnp.int32),
        jnp.asarray(rng.integers(0, 256, (B, 2, 1, 4, 8, 3)), jnp.uint8),
        jnp.asarray(np.stack([place * 0, np.minimum(place, 4)], axis=-1), jnp.int32),
        jnp.abs(array(B, L)),
    ]


def loss(model: Both, tokens, span, place, pixels, media_span, weight):
    media = sharding.reshape_rows(model.vit(pixels), (B, 4, 8))
    x = model.decoder.embed_tokens(tokens)
    hidden = model.decoder(x, span, place, media=media, media_span=media_span)
    total, count, _ = token_losses(model.decoder, hidden, jnp.roll(tokens, -1, axis=1), weight, z_loss=0.01, chunk=4)
    return total / count


def run(shape: tuple[int, int, int]):
    mesh = sharding.make_mesh(*shape)
    model = sharding.init_sharded(lambda rngs: Both(rngs=rngs), jax.random.key(0), mesh)
    with sharding.use(mesh):
        batch = [jax.device_put(x, P(sharding.ROWS)) for x in inputs()]
        value, grads = jax.jit(jax.value_and_grad(loss))(model, *batch)
    return value, sharding.paths(grads), model, mesh


def test_every_mesh_gives_the_same_loss_and_gradients():
    (want, grads, model, _), (got, sharded, placed, mesh) = run((1, 1, 1)), run((2, 2, 2))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    specs, single = sharding.param_specs(placed, mesh), sharding.paths(model)
    for path, param in sharding.paths(placed).items():
        value, grad = param.get_value(), sharded[path].get_value()
        np.testing.assert_array_equal(value, single[path].get_value(), err_msg=path)
        alone = np.asarray(grads[path].get_value())
        np.testing.assert_allclose(grad, alone, rtol=0, atol=1e-5 * max(np.abs(alone).max(), 0.01), err_msg=path)
        # A gradient lies where its parameter lies, which lies where its spec says.
        for x in (value, grad):
            assert x.sharding.is_equivalent_to(jax.NamedSharding(mesh, specs[path]), x.ndim), path


def test_specs_follow_the_letters_behind_a_depth_axis():
    model = jax.eval_shape(lambda: Both(rngs=nnx.Rngs(0)))
    specs = sharding.param_specs(model)
    want = {
        'decoder/embed/table': P('tp', 'fsdp'),
        'decoder/head/kernel': P('fsdp', 'tp'),
        'decoder/blocks/attn/q/kernel': P(None, 'fsdp', 'tp', None),
        'decoder/blocks/attn/o/kernel': P(None, 'tp', None, 'fsdp'),
        'decoder/blocks/mlp/down/kernel': P(None, 'tp', 'fsdp'),
        'decoder/blocks/attn/q_norm/scale': P(None, None),
        'decoder/xattn/attn/q/bias': P(None, 'tp', None),
        'decoder/xattn/attn_gate': P(None),
        'decoder/norm/scale': P(None),
        'vit/blocks/attn/inner_norm/scale': P(None, 'tp', None),
        'vit/patch/kernel': P(None, 'fsdp'),
        'vit/cls': P(None),
    }
    assert {path: specs[path] for path in want} == want
    assert specs.keys() == sharding.paths(model).keys()


def test_no_device_makes_a_whole_weight():
    mesh = sharding.make_mesh(2, 2, 2)
    c = dataclasses.replace(DECODER, width=64, block=dataclasses.replace(GROUPED, mlp=Mlp.Config(width=4096)))
    make = lambda key: nnx.state(c.build(rngs=nnx.Rngs(key)), nnx.Param)
    abstract = jax.eval_shape(lambda: c.build(rngs=nnx.Rngs(0)))
    program = jax.jit(make, out_shardings=sharding.shardings(abstract, mesh)).lower(jax.random.key(0)).compile()
    assert 'f32[2,64,4096]' not in program.as_text() and 'f32[2,32,2048]' in program.as_text()


@pytest.mark.parametrize(
    'spec, shape, want',
    [
        (P('fsdp', 'tp'), (6, 8), P('fsdp', 'tp')),
        (P('fsdp', 'tp', None), (6, 2, 5), P('fsdp', None, None)),  # two key heads for four devices
        (P('tp'), (1,), P(None)),
        (P(('data', 'fsdp'), None), (8, 3), P(('data', 'fsdp'), None)),
        (P('fsdp'), (7,), r'attn/k with shape \(7,\): its axis 0 of size 7 cannot be split over fsdp=2'),
        (P('tp'), (6,), 'size 6 cannot be split over tp=4; choose a mesh whose tp divides 6'),
        (P('fsdp'), (1,), 'size 1 cannot be split over fsdp=2'),
    ],
)
def test_fit(spec, shape, want):
    mesh = sharding.make_mesh(1, 2, 4)
    if isinstance(want, P):
        assert sharding.fit(spec, shape, mesh, 'attn/k') == want
    else:
        with pytest.raises(ValueError, match=want):
            sharding.fit(spec, shape, mesh, 'attn/k')


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(ValueError, match='mesh data=4 fsdp=2 tp=2 needs 16 devices, 8 are here'):
        sharding.make_mesh(4, 2, 2)


def test_helpers_without_a_mesh():
    assert sharding.current() is None and sharding.where(sharding.act_BLD) is None
    x = array(3, 2)
    assert sharding.place(x, P('fsdp')) is x
    np.testing.assert_array_equal(sharding.broadcast_rows(x, 4), np.tile(x, (4, 1, 1)))
    assert sharding.param_specs(Norm.Config().build(4, rngs=nnx.Rngs(0))) == {'scale': P(None), 'bias': P(None)}
    assert parameter(x, P('fsdp', None)).get_metadata()['spec'] == P('fsdp', None)
