# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder over one row: cached = full, packed = separate, and the output never reaches the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import disturbed
from flax import nnx

from mmjax.batch import Batch
from mmjax.decode import generate
from mmjax.decode.generate import Rules
from mmjax.decode.sampling import Decoding
from mmjax.models.decoder import Decoder
from mmjax.models.fusion import CrossAttention
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.trunk import Trunk
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch, GatedBlock
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned, Relative

WIDTH, VOCAB = 8, 16
ATTN, MLP = Attention.Config(heads=2), Mlp.Config(width=12)
BEFORE, AFTER = dict(norm=Norm.Config(kind='rms')), dict(norm=None, sum_norm=Norm.Config())


def seq2seq(norms: dict, encoder, decoder, last: Norm.Config | None, **enter) -> Seq2seq.Config:
    """Returns a model whose stacks differ in depth and positions."""
    block = Block.Config(attn=ATTN, mlp=MLP, **norms)
    return Seq2seq.Config(
        encoder=Trunk.Config(depth=1, block=block, norm=last, position=encoder, **enter),
        decoder=Decoder.Config(
            vocab=VOCAB,
            width=WIDTH,
            depth=2,
            block=block,
            norm=last,
            position=decoder,
            tied=True,
            vocab_multiple=1,
            **enter,
        ),
        cross=CrossBranch.Config(attn=ATTN, **norms),
    )


LEARNED = Learned.Config(length=16)
CONFIGS = {
    't5': seq2seq(
        BEFORE, Relative.Config(buckets=8, reach=5, two_way=True), Relative.Config(buckets=4, reach=5), Norm.Config()
    ),
    'bart': seq2seq(AFTER, LEARNED, LEARNED, None, embed_norm=Norm.Config()),
}


@pytest.fixture(scope='module', params=CONFIGS)
def model(request) -> Seq2seq:
    return disturbed(lambda rngs: CONFIGS[request.param].build(rngs=rngs))


def row(*documents: tuple[int, int], length: int) -> tuple[np.ndarray, ...]:
    """Returns the tokens, spans, positions and spans of the source of documents with so many inputs and outputs."""
    tokens, position = (np.zeros(length, np.int32) for _ in range(2))
    span, looks = (np.zeros((length, 2), np.int32) for _ in range(2))
    start = 0
    for number, (inputs, outputs) in enumerate(documents):
        middle, end = start + inputs, start + inputs + outputs
        tokens[start:end] = np.random.default_rng(number).integers(0, VOCAB, inputs + outputs)
        position[start:end] = [*range(inputs), *range(outputs)]
        span[start:middle], looks[middle:end] = (start, middle), (start, middle)
        span[middle:end] = [(middle, place + 1) for place in range(middle, end)]
        start = end
    return tokens, span, position, looks


def batch(*rows: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [np.stack(fields) for fields in zip(*rows, strict=True)]


@jax.jit
def forward(model, tokens, span, position, looks):
    return model.logits(model(model.embed_tokens(tokens), span, position, media_span=looks))


def test_packed_documents_equal_separate_ones(model):
    packed = forward(model, *batch(row((4, 3), (2, 4), length=14)))
    # The second document alone: its tokens are those of number 1.
    tokens, span, position, looks = row((4, 3), (2, 4), length=14)
    alone = forward(
        model, *batch((tokens[7:], np.maximum(span[7:] - 7, 0), position[7:], np.maximum(looks[7:] - 7, 0)))
    )
    np.testing.assert_allclose(packed[0, 9:13], alone[0, 2:6], atol=1e-5)


def test_outputs_see_the_whole_input_and_what_was_written_before(model):
    tokens, span, position, looks = batch(row((4, 4), length=8))
    want = forward(model, tokens, span, position, looks)[0, 4:]
    for place, changed in [(0, range(4)), (3, range(4)), (5, (1, 2, 3)), (7, (3,))]:
        other = tokens.copy()
        other[0, place] = (other[0, place] + 1) % VOCAB
        got = forward(model, other, span, position, looks)[0, 4:]
        assert np.flatnonzero(np.abs(got - want).max(axis=-1) > 1e-5).tolist() == list(changed)


def test_cached_equals_full(model):
    """Inputs of different lengths; each row writes on behind its own input and the token that starts the output."""
    sizes, new = [(5, 4), (2, 4)], 3
    rows = batch(*(row(size, length=9) for size in sizes))
    tokens, span, position, looks = (jnp.asarray(x) for x in rows)
    prompt = jnp.array([inputs + 1 for inputs, _ in sizes])
    want = forward(model, tokens, span, position, looks)

    @jax.jit
    def cached(model):
        keep = (jnp.arange(6) < prompt[:, None])[..., None]
        x = model.embed_tokens(tokens)
        first = x[:, :6], span[:, :6] * keep, position[:, :6]
        hidden, cache = model.prefill(*first, model.init_cache(2, 9, jnp.float32), media_span=looks[:, :6] * keep)
        outs = [hidden]
        for n in range(new):
            at = prompt + n
            pick = lambda a, at=at: a[np.arange(2), at][:, None]
            hidden, cache = model.step(pick(x), pick(span), pick(position), at, cache, media_span=pick(looks))
            outs.append(hidden)
        return [model.logits(hidden) for hidden in outs]

    prompts, *steps = cached(model)
    for b, (inputs, _) in enumerate(sizes):
        np.testing.assert_allclose(prompts[b, inputs], want[b, inputs], atol=1e-5)
        for n, step in enumerate(steps):
            np.testing.assert_allclose(step[b, 0], want[b, inputs + 1 + n], atol=1e-5)


def test_answers_are_those_of_the_full_forward():
    """Prompts are inputs with the token that starts the output; positions of the answer count from it."""
    config = Vlm.Config(decoder=CONFIGS['bart'])
    model = disturbed(lambda rngs: config.build(rngs=rngs))
    rows = batch(*(row((inputs, 1), length=6) for inputs in (5, 2)))
    prompts = [jnp.asarray(x) for x in rows]
    weight = jnp.zeros((2, 6), jnp.float32)
    read = Batch(prompts[0], weight, prompts[1], prompts[2], media_span=prompts[3])
    never = Rules(jnp.zeros(VOCAB, bool), jnp.zeros(VOCAB, bool))
    written = np.asarray(generate.sample(model, read, never, jax.random.key(0), Decoding(max_new_tokens=3)).tokens)
    for b, inputs in enumerate((5, 2)):
        tokens, *rest = row((inputs, 4), length=9)
        tokens[: inputs + 1], tokens[inputs + 1 : inputs + 4] = rows[0][b, : inputs + 1], written[b]
        logits = np.asarray(forward(model.decoder, *batch((tokens, *rest))))[0, inputs : inputs + 3]
        assert logits.argmax(axis=-1).tolist() == written[b].tolist()


def test_the_decoder_cannot_look_at_media_too():
    gated = GatedBlock.Config(attn=ATTN, mlp=MLP)
    config = Vlm.Config(decoder=CONFIGS['t5'], fusion=CrossAttention.Config(block=gated))
    with pytest.raises(ValueError, match='the decoder of a Seq2seq looks at its encoder'):
        config.build(rngs=nnx.Rngs(0))
