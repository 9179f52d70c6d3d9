# SPDX-License-Identifier: Apache-2.0
"""Writing with the cache is the full forward pass, token by token, for both fusions, ragged rows and any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.decode import beam, generate
from mmjax.decode.generate import Rules
from mmjax.decode.sampling import Decoding
from mmjax.models import connector
from mmjax.models.decoder import Decoder
from mmjax.models.fusion import CrossAttention, Splice
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, GatedBlock
from mmjax.nn.mlp import Mlp

V, END, PICTURE, PLACES = 40, 0, 1, 4
LENGTHS = [9, 5, 12, 7]


def config(fusion: str) -> Vlm.Config:
    block = Block.Config(attn=Attention.Config(heads=4, kv_heads=2), mlp=Mlp.Config(width=32))
    vit = Vit.Config(size=(8, 8), patch=4, width=16, depth=1, block=block)
    decoder = Decoder.Config(vocab=V, width=16, depth=2, block=block)
    if fusion == 'splice':
        return Vlm.Config(encoder=vit, connector=connector.Linear.Config(), fusion=Splice.Config(), decoder=decoder)
    gated = GatedBlock.Config(attn=Attention.Config(heads=4), mlp=Mlp.Config(width=32), gate_init=0.7)
    return Vlm.Config(encoder=vit, fusion=CrossAttention.Config(block=gated, every=2), decoder=decoder)


def prompts(fusion: str, lengths: list[int], width: int) -> Batch:
    """One picture a row: its four places stand first (splice), or all tokens look at it (cross-attention)."""
    rows, rng = len(lengths), np.random.default_rng(0)
    tokens, span = rng.integers(2, V, (4, 16), np.int32)[:rows, :width], np.zeros((rows, width, 2), np.int32)
    slot, media_span = np.full((rows, width), -1, np.int32), np.zeros((rows, width, 2), np.int32)
    for r, length in enumerate(lengths):
        span[r, :length, 1] = np.arange(1, length + 1)
        if fusion == 'splice':
            tokens[r, 1 : 1 + PLACES], slot[r, 1 : 1 + PLACES] = PICTURE, np.arange(PLACES)
            span[r, 1 : 1 + PLACES, 1] = 1 + PLACES
        else:
            media_span[r, 2:length, 1] = PLACES
        tokens[r, length:] = 0
    position = np.where(span[..., 1] > 0, np.arange(width), 0).astype(np.int32)
    pixels = rng.integers(0, 255, (4, 1, 1, 8, 8, 3), np.uint8)[:rows]
    size = np.full((rows, 1, 3), [1, 2, 2], np.int32)
    weight = np.zeros((rows, width), np.float32)
    splices = fusion == 'splice'
    return Batch(
        tokens, weight, span, position, slot if splices else None, None if splices else media_span, pixels, size
    )


def on_device(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: sharding.place(jnp.asarray(x), sharding.P(sharding.ROWS)), batch)


def rules() -> Rules:
    return Rules(jnp.arange(V) == END, jnp.arange(V) == PICTURE)


def continued(batch: Batch, tokens: list[int]) -> Batch:
    """The first row's prompt with tokens of text behind it."""
    length = batch.tokens.shape[1]
    ends = length + 1 + np.arange(len(tokens))
    more = {
        'tokens': tokens,
        'weight': np.zeros(len(tokens)),
        'span': np.stack([ends * 0, ends], axis=1),
        'position': ends - 1,
        'slot': ends * 0 - 1,
        'media_span': np.stack([ends * 0, ends * 0 + PLACES], axis=1),
    }
    fields = {name: new for name, new in more.items() if getattr(batch, name) is not None}
    join = lambda old, new: np.concatenate([old, np.asarray(new, old.dtype)[None]], axis=1)
    longer = {name: join(getattr(batch, name), new) for name, new in fields.items()}
    return batch._replace(**longer)


@pytest.fixture(scope='module', params=['splice', 'cross'])
def case(request):
    return request.param, sharding.init_sharded(config(request.param).build, jax.random.key(1), None)


def test_cached_is_full(case):
    fusion, model = case
    row, new = 1, 5
    length, batch = LENGTHS[row], on_device(prompts(fusion, LENGTHS, 12))
    written = generate.sample(model, batch, rules(), jax.random.key(0), Decoding(max_new_tokens=new))
    tokens = written.tokens[row, : int(written.length[row])].tolist()
    tokens += [END] * (len(tokens) < new)

    forward = jax.jit(lambda model, batch: model.logits(model(batch)))
    cut = lambda x: x[row : row + 1, :length] if x.shape[1] == 12 else x[row : row + 1]
    alone = continued(jax.tree.map(cut, prompts(fusion, LENGTHS, 12)), tokens)
    full = forward(model, on_device(alone))[0, length - 1 :]
    assert np.where(np.arange(128) == PICTURE, -np.inf, full).argmax(axis=-1)[: len(tokens)].tolist() == tokens

    prompt = generate.Prompt.of(batch)
    scores, cache = jax.jit(generate.prefill, static_argnums=3)(model, batch, prompt, new)
    for place, token in enumerate(tokens):
        np.testing.assert_allclose(scores[row, :V], full[place, :V], atol=1e-4)
        scores, cache = jax.jit(generate.step)(model, jnp.full(4, token), jnp.int32(place), prompt, cache)


@pytest.mark.parametrize('beams', [1, 2])
def test_ragged_is_alone(case, beams):
    fusion, model = case
    how = Decoding(max_new_tokens=5, beams=beams)

    def write(rows):
        batch = jax.tree.map(lambda x: jnp.asarray(x[rows]), prompts(fusion, LENGTHS, 12))
        if beams > 1:
            return beam.search(model, batch, rules(), how)
        return generate.sample(model, batch, rules(), jax.random.key(0), how)

    together = write(slice(None))
    for r in (1, 2):
        alone = write(slice(r, r + 1))
        assert alone.tokens[0].tolist() == together.tokens[r].tolist()
        np.testing.assert_allclose(alone.log_prob[0], together.log_prob[r], rtol=1e-4)


# Beams and draws differ from greedy decoding in how a token is chosen; each is tried with one fusion.
MESHED = {'splice': {'temperature': 1.0, 'top_k': 5, 'top_p': 0.9}, 'cross': {'beams': 2}}


def test_mesh_is_one_device(case):
    fusion, how = case[0], Decoding(max_new_tokens=4, **MESHED[case[0]])

    def write(mesh, rows):
        with sharding.use(mesh):
            model = sharding.init_sharded(config(fusion).build, jax.random.key(1), mesh)
            batch = on_device(jax.tree.map(lambda x: x[:rows], prompts(fusion, LENGTHS, 12)))
            if how.beams > 1:
                return beam.search(model, batch, rules(), how)
            return generate.sample(model, batch, rules(), jax.random.key(0), how)

    one, eight = write(None, 4), write(sharding.make_mesh(2, 2, 2), 4)
    assert one.tokens.tolist() == eight.tokens.tolist()
    np.testing.assert_allclose(one.log_prob, eight.log_prob, rtol=1e-4)
    # On a mesh of one device a lone row is not to be taken for something without rows.
    assert write(sharding.make_mesh(), 1).tokens.tolist() == write(None, 1).tokens.tolist()
