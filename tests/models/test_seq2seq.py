# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder over one row: cached = full, packed = separate, and the output never reaches the input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import disturbed
from flax import nnx

from mmjax.data import masks, templates
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.data.tokenizer import Bytes
from mmjax.decode import generate
from mmjax.decode.generate import Rules
from mmjax.decode.sampling import Decoding
from mmjax.document import Document, Image, Text
from mmjax.models.connector import Linear
from mmjax.models.decoder import Decoder
from mmjax.models.fusion import CrossAttention
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.trunk import Trunk
from mmjax.models.vision import Vit
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
    """Prompts of different lengths, pictures in all of them; the rows trained on hold prompt and answer."""
    form = templates.t5()
    decoder = CONFIGS['bart']
    decoder = dataclasses.replace(decoder, decoder=dataclasses.replace(decoder.decoder, vocab=256 + 3))
    block = Block.Config(attn=ATTN, mlp=MLP)
    tower = Vit.Config(size=(4, 4), patch=2, width=WIDTH, depth=1, block=block)
    config = Vlm.Config(encoder=tower, connector=Linear.Config(), decoder=decoder)
    model, spec = disturbed(lambda rngs: config.build(rngs=rngs)), config.media_spec()
    tokenizer = Bytes.Config(special=form.special_tokens())
    fields = dict(tokenizer=tokenizer, image=form.image, text=form.text, overlong='drop')
    layout = Layout.Config(max_tokens=16, max_media=1, **fields).build(spec)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3), np.uint8)
    pieces = [[Image(pictures[0]), Text('abc', weight=0.0)], [Text('d', weight=0.0), Image(pictures[1])]]
    prompts = [layout.prompt(Document(part)) for part in pieces]
    rows = lambda laid: jax.tree.map(jnp.asarray, stack([render_row([one], layout) for one in laid]))
    never = Rules(jnp.zeros(259, bool), jnp.zeros(259, bool))
    how = Decoding(max_new_tokens=3)
    written = np.asarray(generate.sample(model, rows(prompts), never, jax.random.key(0), how).tokens)
    whole = [longer(prompt, answer) for prompt, answer in zip(prompts, written, strict=True)]
    logits = np.asarray(jax.jit(lambda model, batch: model.logits(model(batch)))(model, rows(whole)))
    for b, prompt in enumerate(prompts):
        last = len(prompt.tokens) - 1
        assert logits[b, last : last + 3].argmax(axis=-1).tolist() == written[b].tolist()


def longer(prompt: Laid, answer: np.ndarray) -> Laid:
    """Returns a prompt with more of its output."""
    tokens = np.concatenate([prompt.tokens, answer])
    span, looks, position = masks.input_output(len(tokens), int((prompt.media_span[:, 1] == 0).sum()))
    slot = np.concatenate([prompt.slot, np.full(len(answer), -1, np.int32)])
    weight = np.zeros(len(tokens), np.float32)
    fields = dict(tokens=tokens, weight=weight, span=span, media_span=looks, position=position, slot=slot)
    return dataclasses.replace(prompt, **fields)


def test_the_decoder_cannot_look_at_media_too():
    gated = GatedBlock.Config(attn=ATTN, mlp=MLP)
    config = Vlm.Config(decoder=CONFIGS['t5'], fusion=CrossAttention.Config(block=gated))
    with pytest.raises(ValueError, match='the decoder of a Seq2seq looks at its encoder'):
        config.build(rngs=nnx.Rngs(0))
