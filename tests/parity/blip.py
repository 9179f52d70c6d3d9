# SPDX-License-Identifier: Apache-2.0
"""The cases of the BLIP line."""

from typing import Any

import composed
import jax.numpy as jnp
import languages
import numpy as np
from cases import masked
from flax import nnx
from harness import Result, load, pictures, run, running, score, text_batch
from references import Reference

from mmjax.objectives import align
from mmjax.objectives.momentum import Queue, momentum_pairs
from mmjax.weights import Account, blip, blip2, qformer, textbind


def run_captioner(r: Reference) -> Result:
    """Runs BlipForConditionalGeneration."""
    config = blip.captioner(r.config)
    model, account, _ = load(config.build, blip.captioner_table(config), r)
    mask = r.inputs['attention_mask']
    batch = text_batch(r.inputs['input_ids'], mask, **looked_at(r.inputs['pixel_values'], mask, config))
    outputs = score(model, batch, r.inputs['labels'])
    outputs['image_embeds'] = run(lambda m: m.media(batch), model)
    return Result(outputs, account, masked(r, mask))


def looked_at(pixels: np.ndarray, mask: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """Returns the batch's fields for one picture a row, all of which every token of the row sees."""
    end = mask * config.media_spec().tokens
    return dict(
        media_span=np.stack([end * 0, end], axis=-1).astype(np.int32), **pictures(pixels[:, None], config.encoder.patch)
    )


def run_retriever(r: Reference) -> Result:
    """Runs BlipForImageTextRetrieval."""
    config = blip.retriever(r.config)
    model, account, _ = load(config.build, blip.retriever_table(config), r)
    tokens, mask = jnp.asarray(r.inputs['input_ids'], jnp.int32), r.inputs['attention_mask']
    length = jnp.asarray(mask.sum(axis=1), jnp.int32)
    pixels = jnp.asarray(r.inputs['pixel_values'].transpose(0, 2, 3, 1))

    def outputs(model: Any) -> dict[str, Any]:
        features = model.vision(pixels[:, None, None])[:, 0, 0]
        return {
            'image_last': features,
            'question_embeds': model.read(tokens, length, features),
            'itm_score': model.match(features, tokens, length),
            'itc_score': model.similarity(model.images(pixels), model.texts(tokens, length)),
        }

    return Result(run(outputs, model), account, {'question_embeds': mask == 1})


def run_answerer(r: Reference) -> Result:
    """Runs BlipForQuestionAnswering."""
    config = blip.answerer(r.config)
    question = r.inputs['input_ids']
    config.connector.most_words = question.shape[1]
    model, account, _ = load(config.build, blip.answerer_table(config), r)
    answer = r.inputs['decoder_input_ids']
    batch = text_batch(
        answer,
        words=question[:, None].astype(np.int32),
        **looked_at(r.inputs['pixel_values'], np.ones_like(answer), config),
    )
    outputs = {'loss': score(model, batch, r.inputs['labels'])['loss']}
    outputs['image_embeds'] = run(lambda m: m.encoder(batch.pixels, batch.media_size)[:, 0, 0], model)
    return Result(outputs, account)


def run_momentum(r: Reference) -> Result:
    """Runs the contrast of BLIP's training with slow towers and queues."""
    x = {name: jnp.asarray(value) for name, value in r.inputs.items()}
    queue = Queue(x['image_queue'].T, x['text_queue'].T, jnp.int32(0))
    vectors = (x[name] for name in ('image_feat', 'text_feat', 'image_feat_m', 'text_feat_m'))
    loss, to_texts, to_images = momentum_pairs(*vectors, queue, temperature=x['temp'], alpha=x['alpha'])
    return Result(dict(loss_ita=loss, sim_i2t=to_texts, sim_t2i=to_images), Account())


class Sides(nnx.Module):
    """A tower and its Q-Former, without a language model."""

    def __init__(self, encoder: nnx.Module, connector: nnx.Module):
        self.encoder, self.connector = encoder, connector


def run_stage_one(r: Reference) -> Result:
    """Runs the three losses of BLIP-2's first stage; the reference's features come from nowhere."""
    c, x = r.config, r.inputs
    config = qformer.config(c, queries=c['query_length'], reads=True, most=x['input_ids'].shape[1])
    config.words.begin = 98  # of the reference; no config says it
    config.heads = qformer.heads(c, width=r.weights['vision_proj.weight'].shape[0], temperature=1.0, writes=True)
    build = lambda rngs: config.build(c['encoder_width'], None, rngs=rngs)
    q, account, _ = load(build, qformer.table(config, qformer.LAVIS), r)
    words = jnp.asarray(np.where(x['attention_mask'] == 1, x['input_ids'], -1), jnp.int32)
    features, there = jnp.asarray(x['image_embeds']), jnp.ones(len(words), bool)
    count = jnp.full(len(words), features.shape[1])
    wrong = (jnp.asarray(x[name], jnp.int32) for name in ('neg_image', 'neg_text'))

    def outputs(q: Any) -> dict[str, Any]:
        loss_itc, similarity = align.contrast(q, features, count, words, there, 0.1)
        loss_itm, itm = align.verdict(q, features, count, words, there, *wrong)
        loss_lm, hidden = align.captions(q, features, count, words, there, 0.1)
        return dict(
            loss_itc=loss_itc, sim_i2t=similarity, sim_t2i=similarity.T, loss_itm=loss_itm, itm_logits=itm,
            loss_lm=loss_lm, lm_logits=q.heads.logits(hidden)[..., : q.heads.vocab],
            query_out=q.read(features, count, None, 'two-way')[0], text_out=q.read(None, None, words, 'two-way')[1],
        )  # fmt: skip

    return Result(run(outputs, q), account, masked(r, x['attention_mask']))


def run_blip2_retriever(r: Reference) -> Result:
    """Runs Blip2ForImageTextRetrieval."""
    c, x = r.config, r.inputs
    tower, asking = blip2.retriever(c, most=x['input_ids'].shape[1])
    build = lambda rngs: Sides(encoder=tower.build(rngs=rngs), connector=asking.build(tower.width, None, rngs=rngs))
    model, account, _ = load(build, blip2.retriever_table(tower, asking), r)
    words = jnp.asarray(np.where(x['attention_mask'] == 1, x['input_ids'], -1), jnp.int32)
    pixels = jnp.asarray(x['pixel_values'].transpose(0, 2, 3, 1))[:, None, None]

    def outputs(model: Any) -> dict[str, Any]:
        features, q = model.encoder(pixels)[:, 0, 0], model.connector
        count = jnp.full(len(words), features.shape[1])
        images = q.heads.images(q.read(features, count, None, 'two-way')[0])
        texts = q.heads.texts(q.read(None, None, words, 'two-way')[1])
        itm = q.heads.match(q.read(features, count, words, 'two-way')[0])
        return dict(image_embeds=images, text_embeds=texts, itc=q.heads.similarity(images, texts), itm=itm)

    return Result(run(outputs, model), account)


def run_blip2(r: Reference) -> Result:
    """Runs BLIP-2 and InstructBLIP before decoders, InstructBLIP-Video too."""
    x, pixels = r.inputs, r.inputs['pixel_values']
    video, asked = pixels.ndim == 5, x.get('qformer_input_ids')
    config = blip2.config(r.config, frames=pixels.shape[1], most=0 if asked is None else asked.shape[1])
    model, account, _ = load(config.build, blip2.table(config, r.config['text_config']['model_type']), r)
    frames = pixels if video else pixels[:, None]
    side = config.encoder.patch
    size = np.array([[frames.shape[1], pixels.shape[-2] // side, pixels.shape[-1] // side]], np.int32)
    media = dict(
        slot=running(x['input_ids'] == r.config['video_token_index' if video else 'image_token_index']),
        pixels=frames.transpose(0, 1, 3, 4, 2)[:, None],
        media_size=np.broadcast_to(size, (len(pixels), 1, 3)),
    )
    if asked is not None:
        media['words'] = np.where(x['qformer_attention_mask'] == 1, asked, -1).astype(np.int32)[:, None]
    mask, labels = x['attention_mask'], x.get('labels')
    if config.media_spec().encodes:
        written = languages.shifted(labels, r.config['text_config']['decoder_start_token_id'])
        room = np.full((len(pixels), written.shape[1] + 1), -1, np.int32)
        media['slot'] = np.concatenate([media['slot'], room], axis=1)[:, : mask.sum(axis=1).max() + room.shape[1]]
        batch = languages.joined(x['input_ids'], mask, written, **media)
        outputs, mask = languages.score_joined(model, batch, mask, labels), np.ones_like(written)
    else:
        batch = text_batch(x['input_ids'], mask, **media)
        outputs = score(model, batch, labels)

    def before(model: Any) -> dict[str, Any]:
        features = model.encoder(batch.pixels)[:, 0, 0]
        words = None if asked is None else batch.words[:, 0]
        queries, words = model.connector.read(features, jnp.full(len(features), features.shape[1]), words, 'two-way')
        return dict(vision_last=features, qformer_last=jnp.concatenate([queries, words], axis=1))

    places = masked(r, mask)
    if 'qformer_last' in r.outputs:
        outputs.update(run(before, model))
        if asked is not None:
            queries = np.ones((len(asked), config.connector.queries), bool)
            places['qformer_last'] = np.concatenate([queries, x['qformer_attention_mask'] == 1], axis=1)
    return Result({name: outputs[name] for name in r.outputs}, account, places)


def run_textbind(r: Reference) -> Result:
    """Runs TextBind; its reference holds no config: sizes are those of the tensors, heads those of its neighbours."""
    width, key = r.weights['query_tokens'].shape[2], 'vision_model.encoder.layers.'
    tower = dict(
        image_size=r.inputs['input_images'].shape[-1],
        patch_size=r.weights['vision_model.embeddings.patch_embedding.weight'].shape[-1],
        hidden_size=r.weights[f'{key}0.mlp.fc1.weight'].shape[1],
        intermediate_size=r.weights[f'{key}0.mlp.fc1.weight'].shape[0],
        num_hidden_layers=composed.depth(r, key),
        num_attention_heads=4,
    )
    asking = dict(hidden_size=width, num_hidden_layers=composed.depth(r, 'qformer.encoder.layer.'))
    asking.update(num_attention_heads=4, intermediate_size=2 * width)
    text = {**composed.LLAMA, **composed.body(r, 4, 'language_model.')}
    public = dict(vision_config=tower, qformer_config=asking, text_config={**text, 'model_type': 'llama'})
    config = blip2.config({**public, 'num_query_tokens': r.weights['query_tokens'].shape[1]})
    model, account, _ = load(config.build, textbind.table(config), r)
    ids, index = r.inputs['input_ids'], r.inputs['input_image_index']
    place = np.zeros(ids.shape, bool)
    np.put_along_axis(place, index, True, axis=1)
    batch = text_batch(ids, slot=running(place), **pictures(r.inputs['input_images'], config.encoder.patch))
    outputs = score(model, batch, None)
    media = run(lambda m: m.media(batch), model)
    outputs['image'] = media.reshape(-1, config.connector.queries, media.shape[-1])
    return Result(outputs, account)
