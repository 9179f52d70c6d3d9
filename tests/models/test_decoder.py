# SPDX-License-Identifier: Apache-2.0
"""The decoder: cached = full, one mesh = another, positions, head, and models too large to hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array, disturbed
from flax import nnx

from mmjax import sharding
from mmjax.models.decoder import Decoder
from mmjax.models.trunk import Local
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch, GatedBlock
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp, Transform
from mmjax.nn.positions import Learned, Relative, Rotary, Sinusoidal
from mmjax.sharding import P

B, L, MEDIA, WIDTH = 4, 8, 6, 12
ATTN = Attention.Config(heads=4, kv_heads=2, head_width=4, q_bias=True)
BLOCK = Block.Config(attn=ATTN, mlp=Mlp.Config(width=16, gated=True, act='silu'))
CONFIG = Decoder.Config(vocab=20, width=WIDTH, depth=3, block=BLOCK, vocab_multiple=8)
WITHIN = CrossBranch.Config(attn=Attention.Config(heads=2, head_width=4, o_bias=True), sum_norm=Norm.Config())
GATED = GatedBlock.Config(attn=Attention.Config(heads=2, head_width=4), mlp=Mlp.Config(width=16), gate_init=0.5)
LENGTHS = np.array([8, 5, 3, 6])  # of the prompts
NEW = 3  # tokens after them


def variant(**changes) -> Decoder.Config:
    return dataclasses.replace(CONFIG, **changes)


def with_attn(**changes) -> Decoder.Config:
    return variant(block=dataclasses.replace(BLOCK, attn=dataclasses.replace(ATTN, **changes)))


VARIANTS = {
    'rotary': CONFIG,
    'xpos': variant(position=Rotary.Config(decay=4.0)),
    'learned': variant(position=Learned.Config(length=L + NEW), tied=True),
    'sinusoidal': variant(position=Sinusoidal.Config(offset=2), input_scale=3.0, embed_scale=2.0),
    'window': with_attn(window=3),
    'relative': variant(position=Relative.Config(buckets=4, reach=6)),
    'local': variant(local=Local.Config(window=3, every=2, position=Rotary.Config(theta=10.0))),
    'bert': variant(
        block=dataclasses.replace(BLOCK, norm=None, sum_norm=Norm.Config()),
        embed_norm=Norm.Config(),
        norm=None,
        position=Learned.Config(length=L + NEW),
        transform=Transform.Config(),
        tied=True,
        head_bias=True,
    ),
    'parallel, one key head': variant(
        block=dataclasses.replace(
            BLOCK, parallel=True, attn=dataclasses.replace(ATTN, kv_heads=1, qk_norm=Norm.Config(kind='rms'))
        )
    ),
}


def model_of(c: Decoder.Config, cross: GatedBlock.Config | CrossBranch.Config | None = None) -> Decoder:
    build = lambda rngs: c.build(cross=cross, every=2, first=1, media_width=MEDIA, rngs=rngs)
    return disturbed(build, by=0.2)


def causal(length: int) -> tuple[jax.Array, jax.Array]:
    place = jnp.tile(jnp.arange(length), (B, 1))
    return jnp.stack([place * 0, place + 1], axis=-1), place


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 20, (B, L + NEW)), jnp.int32)


def looks(length: int) -> jax.Array:
    """Returns spans of media tokens: early tokens see none, later ones one half or the other."""
    place = np.arange(length)
    span = np.stack([np.where(place < 6, 0, 3), np.where(place < 2, 0, np.where(place < 6, 3, 5))], axis=-1)
    return jnp.tile(jnp.asarray(span), (B, 1, 1))


CROSSED = {'gated blocks before': (CONFIG, GATED), 'branches within': (VARIANTS['bert'], WITHIN)}


@pytest.mark.parametrize('name', [*VARIANTS, *CROSSED])
def test_cached_equals_full(name):
    """Prompts of different lengths stand left in their rows; each goes on where its own prompt ended."""
    crossed = name in CROSSED
    model = model_of(*(CROSSED[name] if crossed else (VARIANTS[name],)))
    media = array(B, 5, MEDIA) if crossed else None
    args = lambda span: dict(media=media, media_span=span) if crossed else {}

    @jax.jit
    def full():
        span, place = causal(L + NEW)
        return model.logits(model(model.embed_tokens(TOKENS), span, place, **args(looks(L + NEW))))

    @jax.jit
    def cached():
        span, place = causal(L)
        real = place < LENGTHS[:, None]
        span = jnp.where(real[..., None], span, 0)
        # Padding is full of other tokens: nothing of it may reach what follows.
        tokens = jnp.where(real, TOKENS[:, :L], 19)
        cache = model.init_cache(B, L + NEW, jnp.float32)
        hidden, cache = model.prefill(model.embed_tokens(tokens), span, place, cache, **args(looks(L)))
        outs = [model.logits(hidden)]
        for n in range(NEW):
            at = jnp.asarray(LENGTHS) + n
            pick = lambda x, at=at: jnp.take_along_axis(x, at.reshape(-1, *[1] * (x.ndim - 1)), axis=1)
            span = jnp.stack([at * 0, at + 1], axis=-1)[:, None]
            seen = dict(media_span=pick(looks(L + NEW))) if crossed else {}
            x = model.embed_tokens(pick(TOKENS))
            hidden, cache = model.step(x, span, at[:, None], at, cache, **seen)
            outs.append(model.logits(hidden))
        return outs

    want, (prompt, *steps) = full(), cached()
    for b, length in enumerate(LENGTHS):
        np.testing.assert_allclose(prompt[b, :length], want[b, :length], atol=1e-4)
        for n, step in enumerate(steps):
            np.testing.assert_allclose(step[b, 0], want[b, length + n], atol=1e-4)


def test_a_step_of_several_tokens_equals_several_steps():
    model = model_of(VARIANTS['window'])

    @jax.jit
    def run():
        span, place = causal(L + NEW)
        x = model.embed_tokens(TOKENS)
        cache = model.init_cache(B, L + NEW, jnp.float32)
        _, cache = model.prefill(x[:, :L], span[:, :L], place[:, :L], cache)
        start = jnp.full(B, L)
        together, one = model.step(x[:, L:], span[:, L:], place[:, L:], start, cache)
        alone, two = [], cache
        for n in range(L, L + NEW):
            here = slice(n, n + 1)
            hidden, two = model.step(x[:, here], span[:, here], place[:, here], start * 0 + n, two)
            alone.append(hidden)
        return (together, one), (jnp.concatenate(alone, axis=1), two)

    for got, want in zip(*map(jax.tree.leaves, run()), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('shape', [(2, 2, 2), (1, 2, 4)])
def test_every_mesh_gives_the_same_steps(shape):
    """A cached step is written row by row on each device, and key heads fewer than tp are kept whole."""
    model = model_of(VARIANTS['parallel, one key head'], GATED)
    mesh = sharding.make_mesh(*shape)
    span, place = causal(L)
    rows = (TOKENS[:, :L], span, place, array(B, 5, MEDIA), looks(L), jnp.asarray(LENGTHS))

    def run(model, tokens, span, place, media, media_span, lengths):
        cache = model.init_cache(B, L + NEW, jnp.float32)
        x = model.embed_tokens(tokens)
        hidden, cache = model.prefill(x, span, place, cache, media=media, media_span=media_span)
        at = jnp.stack([lengths * 0, lengths + 1], axis=-1)[:, None]
        step, cache = model.step(x[:, :1], at, lengths[:, None], lengths, cache, media_span=media_span[:, -1:])
        return model.logits(hidden), model.logits(step), cache

    want = jax.jit(run)(model, *rows)
    with sharding.use(mesh):
        state = jax.device_put(nnx.state(model), sharding.shardings(model, mesh))
        rows = (jax.device_put(x, P(sharding.ROWS)) for x in rows)
        got = jax.jit(run)(nnx.merge(nnx.graphdef(model), state), *rows)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_logits_scale_cap_and_padding():
    model, hidden = model_of(variant(vocab=17, logit_scale=0.5, logit_cap=3.0, head_bias=True)), array(B, L, WIDTH)
    got = model.logits(hidden)
    raw = np.asarray(hidden) @ np.asarray(model.head.kernel.get_value()) + np.asarray(model.head.bias.get_value())
    np.testing.assert_allclose(got[..., :17], (3 * np.tanh(0.5 * raw / 3))[..., :17], atol=1e-5)
    assert got.shape[-1] == 24 and np.all(got[..., 17:] == -np.inf)


def test_tied_head_is_the_table():
    model, hidden = model_of(VARIANTS['learned']), array(B, L, WIDTH)
    want = np.asarray(hidden) @ np.asarray(model.embed.table.get_value()).T
    np.testing.assert_allclose(model.logits(hidden)[..., :20], want[..., :20], atol=1e-5)
    assert 'head/kernel' not in sharding.paths(model)


def test_inputs_are_scaled_where_the_config_says():
    model = model_of(variant(embed_scale=2.0, input_scale=3.0, position=None, norm=None, depth=1))
    table = np.asarray(model.embed.table.get_value())
    np.testing.assert_allclose(model.embed_tokens(TOKENS), 2 * table[np.asarray(TOKENS)], rtol=1e-6)
    span, place = causal(L)
    x = array(B, L, WIDTH)
    block = jax.tree.map(lambda p: p[0], model.blocks)
    np.testing.assert_allclose(model(x, span, place), block(3 * x, span)[0], atol=1e-5)


def test_all_but_some_layers_see_a_window():
    model = model_of(VARIANTS['local'])
    span, place = causal(L)
    near = jnp.maximum(span, jnp.stack([place - 2, place * 0], axis=-1))
    far, turned = (Rotary.Config(theta=theta).build(4)(place) for theta in (10_000.0, 10.0))

    @jax.jit
    def run(model, x):
        want = x
        for layer in range(3):
            block = jax.tree.map(lambda p, layer=layer: p[layer], model.blocks)
            want, _ = block(want, *((span, far) if layer == 1 else (near, turned)))
        return model(x, span, place), model.norm(want)

    np.testing.assert_allclose(*run(model, array(B, L, WIDTH)), atol=1e-5)


@pytest.mark.parametrize('std', [0.02, 0.5])
def test_the_table_starts_with_the_deviation_asked_for(std):
    table = variant(vocab=400, embed_std=std).build(rngs=nnx.Rngs(0)).embed.table.get_value()
    assert np.std(table) == pytest.approx(std, rel=0.05)


def test_packed_documents_equal_separate_ones():
    model = model_of(CONFIG, GATED)
    cut, media = 3, array(B, 5, MEDIA)
    place = np.arange(L)
    start = np.where(place < cut, 0, cut)
    tile = lambda x: jnp.tile(jnp.asarray(x), (B,) + (1,) * x.ndim)
    span, position = tile(np.stack([start, place + 1], axis=-1)), tile(place - start)

    @jax.jit
    def run(tokens, span, position, media_span):
        return model(model.embed_tokens(tokens), span, position, media=media, media_span=media_span)

    packed = run(TOKENS[:, :L], span, position, looks(L))
    alone = run(TOKENS[:, cut:L], span[:, cut:] - cut, position[:, cut:], looks(L)[:, cut:])
    np.testing.assert_allclose(packed[:, cut:], alone, atol=1e-5)


def test_the_largest_model_is_named_without_its_memory():
    attn = Attention.Config(heads=48, kv_heads=1, head_width=256)
    block = Block.Config(attn=attn, mlp=Mlp.Config(width=4 * 18432, gated=True, bias=False), parallel=True)
    c = Decoder.Config(vocab=256_000, width=18432, depth=118, block=block, tied=True)
    model = jax.eval_shape(lambda: c.build(rngs=nnx.Rngs(0)))
    count = sum(np.prod(p.shape) for p in sharding.paths(model).values())
    assert 5.3e11 < count < 5.7e11
    mesh = jax.sharding.AbstractMesh((4, 64, 16), sharding.AXES)
    specs = sharding.param_specs(model, mesh)
    assert specs['blocks/attn/k/kernel'] == P(None, 'fsdp', None, None)
    assert specs['blocks/attn/q/kernel'] == P(None, 'fsdp', 'tp', None)


def test_bert_enters_and_leaves_through_norms():
    model = model_of(dataclasses.replace(VARIANTS['bert'], depth=1, kinds=2))
    x, hidden = array(B, L, WIDTH), array(B, L, WIDTH)
    span, place = causal(L)
    block = jax.tree.map(lambda p: p[0], model.blocks)
    for kind in (None, place // 3 % 2):
        kinds = model.kinds[...][0 if kind is None else kind]
        last = block(model.embed_norm(x + model.position(place) + kinds), span)[0]
        want = model.transform.norm(jax.nn.gelu(model.transform.dense(last), approximate=False))
        np.testing.assert_allclose(model(x, span, place, kind=kind), want, atol=1e-5)
    want = model.embed.attend(hidden) + model.bias[...]
    np.testing.assert_allclose(model.logits(hidden)[..., :20], want[..., :20], atol=1e-5)


def test_branches_within_look_at_media_or_are_not_there():
    model, span_place = model_of(VARIANTS['bert'], WITHIN), causal(L)
    x, media = model.embed_tokens(TOKENS[:, :L]), array(B, 5, MEDIA)
    blind = model(x, *span_place)
    nothing = model(x, *span_place, media=media, media_span=jnp.zeros((B, L, 2), jnp.int32))
    seen = model(x, *span_place, media=media, media_span=looks(L))
    np.testing.assert_allclose(blind, nothing, atol=1e-5)
    # Tokens before the first that looks do not change: what it saw reaches only those that see it.
    np.testing.assert_allclose(blind[:, :2], seen[:, :2], atol=1e-5)
    assert np.abs(blind[:, 2:] - seen[:, 2:]).max() > 0.01
