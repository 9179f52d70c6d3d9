# SPDX-License-Identifier: Apache-2.0
"""The cases of encoder-decoders and of language models that fill gaps."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import IGNORE, Result, load, pictures, running, score, text_batch
from references import Reference

from mmjax.batch import Batch
from mmjax.data import masks
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.vlm import Vlm
from mmjax.objectives.next_token import token_losses
from mmjax.weights import bert, florence2, t5


def run_bert(r: Reference) -> Result:
    """Runs BertForMaskedLM, whose tokens are all of the first kind."""
    config = Vlm.Config(decoder=bert.masked(r.config))
    model, account, _ = load(config.build, bert.masked_table(config.decoder).under('decoder/', ''), r)
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    outputs = score(model, text_batch(ids, mask, span=two_way(mask)), None)
    return Result(outputs, account, {'logits': mask == 1})


def run_t5(r: Reference) -> Result:
    """Runs T5ForConditionalGeneration twice: input and output as arrays of their own, and both in one row."""
    config = t5.config(r.config)
    model, account, _ = load(config.build, t5.table(config), r)
    ids, mask, labels = (r.inputs[name] for name in ('input_ids', 'attention_mask', 'labels'))
    written = shifted(labels, r.config['decoder_start_token_id'])
    apart, together = separate(model, ids, mask, written), one_row(model, ids, mask, written)
    np.testing.assert_allclose(together, apart['hidden'], rtol=1e-4, atol=1e-5)
    outputs = harness.run(lambda m: losses(m, jnp.asarray(apart['hidden']), labels), model)
    outputs = {**outputs, 'logits': outputs['logits'][..., : config.vocab]}
    outputs['encoder_last_hidden_state'] = apart['source']
    return Result(outputs, account, {'encoder_last_hidden_state': mask == 1})


def run_florence(r: Reference) -> Result:
    """Runs Florence2ForConditionalGeneration, in whichever of its layouts."""
    x = r.inputs
    config = florence2.config(r.config, side=x['pixel_values'].shape[-1])
    model, account, _ = load(config.build, florence2.table(config, florence2.layout_of(r.weights)), r)
    ids, mask, labels = x['input_ids'], x['attention_mask'], x['labels']
    text = r.config['text_config']
    written = shifted(labels, text['decoder_start_token_id'], text.get('pad_token_id', 1))
    slot = running(ids == r.config['image_token_id'])
    room = np.full((len(ids), labels.shape[1] + 1), -1, np.int32)
    media = dict(
        slot=np.concatenate([slot, room], axis=1), **pictures(x['pixel_values'][:, None], config.encoder.patch)
    )
    batch = joined(ids, mask, written, **media)
    outputs = score_joined(model, batch, mask, labels)
    encode = lambda m: m.decoder.encode(m._fused(batch)[0], batch.span, batch.position)
    outputs['encoder_last'] = np.asarray(harness.run(encode, model))[:, : ids.shape[1]]
    return Result(outputs, account, {'encoder_last': mask == 1})


def two_way(mask: np.ndarray) -> jnp.ndarray:
    """Returns spans with which all tokens of a row see each other; mask is 1 on the left, where they are."""
    end = np.broadcast_to(mask.sum(axis=1, keepdims=True), mask.shape)
    return jnp.asarray(np.stack([end * 0, end * mask], axis=-1).astype(np.int32))


def separate(model: Seq2seq, ids: np.ndarray, mask: np.ndarray, written: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the encoder and the decoder give for an input and an output."""
    rows, length = written.shape
    count = np.broadcast_to(mask.sum(axis=1, keepdims=True), (rows, length))
    looks = jnp.asarray(np.stack([count * 0, count], axis=-1).astype(np.int32))

    def run(model):
        source = model.encode(model.embed_tokens(jnp.asarray(ids)), two_way(mask), places(ids))
        x = model.embed_tokens(jnp.asarray(written))
        span = jnp.asarray(harness.causal(np.ones_like(written)))
        return dict(source=source, hidden=model.decoder(x, span, places(written), media=source, media_span=looks))

    return harness.run(run, model)


def one_row(model: Seq2seq, ids: np.ndarray, mask: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Returns the same hidden states of the output, for rows that hold both."""
    b = joined(ids, mask, written)
    run = lambda m: m(m.embed_tokens(b.tokens), b.span, b.position, media_span=b.media_span)
    return outputs_of(np.asarray(harness.run(run, model)), mask, written.shape[1])


def joined(ids: np.ndarray, mask: np.ndarray, written: np.ndarray, **media: np.ndarray) -> Batch:
    """Returns the batch of rows that hold an input, then an output, then one place that is empty at least."""
    first, length = mask.sum(axis=1), written.shape[1]
    rows, total = len(ids), int(first.max()) + length + 1
    tokens, position = (np.zeros((rows, total), np.int32) for _ in range(2))
    span, looks = (np.zeros((rows, total, 2), np.int32) for _ in range(2))
    for b, n in enumerate(first.tolist()):
        end = n + length
        tokens[b, :n], tokens[b, n:end] = ids[b, mask[b] == 1], written[b]
        span[b, :end], looks[b, :end], position[b, :end] = masks.input_output(end, n)
    fields = dict(tokens=tokens, weight=np.zeros_like(tokens, np.float32), span=span, position=position)
    return jax.tree.map(jnp.asarray, Batch(**fields, media_span=looks, **media))


def outputs_of(values: np.ndarray, mask: np.ndarray, length: int) -> np.ndarray:
    """Returns what belongs to the outputs of such rows."""
    return np.stack([values[b, n : n + length] for b, n in enumerate(mask.sum(axis=1))])


def shifted(labels: np.ndarray, start: int, pad: int = 0) -> np.ndarray:
    """Returns the output that is read when `labels` are predicted: they, one place later, behind `start`."""
    begin = np.full_like(labels[:, :1], start)
    return np.concatenate([begin, np.where(labels == IGNORE, pad, labels)[:, :-1]], axis=1)


def score_joined(model: Vlm, batch: Batch, mask: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the logits of the outputs and the mean loss; a label belongs to the place that predicts it."""
    spread = np.full(batch.tokens.shape, IGNORE)
    for b, n in enumerate(mask.sum(axis=1)):
        spread[b, n + 1 : n + 1 + labels.shape[1]] = labels[b]
    found = score(model, batch, spread)
    return {**found, 'logits': outputs_of(np.asarray(found['logits']), mask, labels.shape[1])}


def losses(model: Seq2seq, hidden: jnp.ndarray, labels: np.ndarray) -> dict[str, jnp.ndarray]:
    """Returns the logits of the words and the mean loss; a label belongs to the place where it stands."""
    counts = jnp.asarray(labels != IGNORE)
    total, weight, _ = token_losses(model, hidden, jnp.where(counts, labels, 0), counts.astype(jnp.float32))
    return {'logits': model.logits(hidden), 'loss': total / weight}


def places(ids: np.ndarray) -> jnp.ndarray:
    """Returns 0, 1, 2 ... for each row."""
    return jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
