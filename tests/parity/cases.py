# SPDX-License-Identifier: Apache-2.0
"""One function for each public class: it builds our model of a reference's config, runs it, and names the outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import harness
import jax.numpy as jnp
import numpy as np
from harness import Result, by_row, load, pictures, running, score, text_batch
from references import Reference

from mmjax.models.connector import unit
from mmjax.models.decoder import Decoder
from mmjax.models.vlm import Vlm
from mmjax.objectives.contrastive import sigmoid_pairs, softmax_pairs
from mmjax.weights import Table, clip, fuyu, kosmos2, llava, openai_clip
from pallas_kernels.span_attention import span_attention


def language_model(
    config_of: Callable[[dict[str, Any]], Decoder.Config],
    table: Callable[[Decoder.Config], Table],
    *,
    skips: bool = False,
) -> Callable[[Reference], Result]:
    """Returns the case of a plain language model, by its layout's two functions in mmjax.weights.

    skips: its positions count text alone, so that padding on the left shifts nothing.
    """

    def run(r: Reference) -> Result:
        decoder = config_of(r.config)
        config = Vlm.Config(decoder=decoder)
        model, account, params = load(config.build, table(decoder).under('decoder/', ''), r)
        mask = r.inputs.get('attention_mask')
        batch = text_batch(r.inputs['input_ids'], mask)
        if skips:
            batch = batch._replace(position=jnp.asarray((mask.cumsum(axis=1) * mask - 1).clip(0), jnp.int32))
        outputs = score(model, batch, r.inputs.get('labels'))
        for name in (name for name in r.outputs if name.startswith('hidden_')):
            outputs[name] = hidden(decoder, params, batch, int(name.removeprefix('hidden_')))
        return Result(outputs, account, masked(r, mask))

    return run


def hidden(c: Decoder.Config, params: dict[str, Any], batch: Any, layer: int) -> Any:
    """Returns what leaves block `layer` (0: what enters the first one); the last one's is normed."""
    if layer == c.depth:
        return harness.run(lambda m: m(batch), harness.merge(Vlm.Config(decoder=c).build, params))
    kept = {path: a for path, a in params.items() if not path.startswith('decoder/norm/')}
    kept = {path: a[: max(layer, 1)] if '/blocks/' in path else a for path, a in kept.items()}
    part = harness.merge(Vlm.Config(decoder=dataclasses.replace(c, depth=max(layer, 1), norm=None)).build, kept)
    enter = lambda m: m.decoder.enter(m.decoder.embed_tokens(batch.tokens), batch.position)
    return harness.run(lambda m: m(batch) if layer else enter(m), part)


def masked(r: Reference, mask: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns the places compared: those of text, in every output that has one entry a token."""
    if mask is None:
        return {}
    return {name: mask == 1 for name, out in r.outputs.items() if out.shape[:2] == mask.shape}


def run_clip(r: Reference) -> Result:
    """Runs CLIPModel."""
    config = clip.clip(r.config)
    model, account, _ = load(config.build, clip.clip_table(config), r)
    tokens, mask = jnp.asarray(r.inputs['input_ids'], jnp.int32), r.inputs.get('attention_mask')
    length = None if mask is None else jnp.asarray(mask.sum(axis=1), jnp.int32)
    pixels = jnp.asarray(r.inputs['pixel_values'].transpose(0, 2, 3, 1))
    outputs = harness.run(
        lambda model: {
            **compared(model, pixels, tokens, length, softmax_pairs),
            'text_last': model.read(tokens, length),
            'vision_last': model.vision.encode(model.vision.enter(pixels), model.vision.depth),
        },
        model,
    )
    places = {} if mask is None else {'text_last': mask == 1}
    return Result({name: outputs[name] for name in r.outputs if name in outputs}, account, places)


def run_siglip(r: Reference) -> Result:
    """Runs SiglipModel, whose text tower reads its padding too."""
    config = clip.siglip(r.config)
    model, account, _ = load(config.build, clip.siglip_table(config), r)
    pixels = jnp.asarray(r.inputs['pixel_values'].transpose(0, 2, 3, 1))
    tokens = jnp.asarray(r.inputs['input_ids'], jnp.int32)
    outputs = harness.run(
        lambda model: {
            **compared(model, pixels, tokens, None, sigmoid_pairs),
            'vision_last': model.vision.norm(model.vision.encode(model.vision.enter(pixels), model.vision.depth)),
        },
        model,
    )
    return Result({name: outputs[name] for name in r.outputs if name in outputs}, account)


def run_openai_clip(r: Reference) -> Result:
    """Runs the first CLIP code; some heads of its tiny towers are narrower than published ones."""
    head = 32 if 'visual.conv3.weight' in r.weights else openai_clip.HEAD
    config = openai_clip.config(r.weights, head=head, text_head=8)
    model, account, _ = load(config.build, openai_clip.table(config), r)
    pixels = jnp.asarray(r.inputs['image'].transpose(0, 2, 3, 1))
    tokens = jnp.asarray(r.inputs['text'], jnp.int32)

    def outputs(model: Any) -> dict[str, Any]:
        images, texts = model.images(pixels), model.texts(tokens)
        similarity = model.similarity(images, texts)
        return dict(
            image_features=images, text_features=texts, logits_per_image=similarity, logits_per_text=similarity.T
        )

    found = harness.run(outputs, model)
    return Result({name: found[name] for name in r.outputs}, account)


def compared(model: Any, pixels: Any, tokens: Any, length: Any, loss: Callable) -> dict[str, Any]:
    """Returns the outputs of a pair of towers."""
    images, texts = model.images(pixels), model.texts(tokens, length)
    similarity = model.similarity(images, texts)
    return {
        'vision_pooled': images,
        'image_embeds': unit(images),
        'text_embeds': unit(texts),
        'logits_per_image': similarity,
        'logits_per_text': similarity.T,
        'loss': loss(similarity),
    }


def run_llava(r: Reference) -> Result:
    """Runs LlavaForConditionalGeneration, in whichever of its layouts."""
    config = llava.config(r.config)
    model, account, _ = load(config.build, llava.table(config, llava.layout_of(r.weights)), r)
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    place = ids == r.config.get('image_token_index', r.config.get('image_token_id'))
    pixels, there = by_row(r.inputs['pixel_values'], place.sum(axis=1) // config.media_spec().tokens)
    media = pictures(pixels, config.encoder.patch)
    media['media_size'] = media['media_size'] * there[..., None]
    batch = text_batch(ids, mask, slot=running(place), **media)
    outputs = score(model, batch, r.inputs.get('labels'))
    tokens = np.asarray(harness.run(lambda m: m.media(batch), model)).reshape(*there.shape, -1, config.decoder.width)
    outputs['image_hidden_states'] = tokens[there].reshape(-1, config.decoder.width)
    return Result(outputs, account, masked(r, mask))


def run_kosmos2(r: Reference) -> Result:
    """Runs Kosmos2ForConditionalGeneration."""
    config = kosmos2.config(r.config)
    model, account, _ = load(config.build, kosmos2.table(config), r)
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    real = ids != r.config['text_config'].get('pad_token_id', 1)
    batch = text_batch(
        ids,
        mask,
        position=(real.cumsum(axis=1) * real - 1).astype(np.int32),
        slot=running(r.inputs['image_embeds_position_mask']),
        **pictures(r.inputs['pixel_values'][:, None], config.encoder.patch),
    )
    outputs = score(model, batch, r.inputs.get('labels'))
    more = harness.run(lambda m: {'image_embeds': m.media(batch), 'projection_attn': pool_weights(m, batch)}, model)
    return Result({**outputs, **more}, account, masked(r, mask))


def pool_weights(model: Vlm, batch: Any) -> Any:
    """Returns the attention weights [B, N, Q, S] of the connector, keys as (media, latents)."""
    features = model.encoder(batch.pixels, batch.media_size)[:, 0, 0]
    count = jnp.full(features.shape[0], features.shape[1])
    pool = model.connector
    queries, source, span = pool.asked(features, count)
    keys, eye = pool.attn.keys_values(source).k, jnp.eye(source.shape[1])
    # Values that name their own place turn what is collected into the weights.
    values = jnp.broadcast_to(eye[None, :, None], (*keys.shape[:3], eye.shape[0]))
    weights = span_attention(pool.attn.q(queries), keys, values, span, scale=pool.attn.scale).transpose(0, 2, 1, 3)
    return jnp.roll(weights, -queries.shape[1], axis=-1)


def run_fuyu(r: Reference) -> Result:
    """Runs FuyuForCausalLM; its patches come cut, and are put together again."""
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    place = ids == r.config['image_token_id']
    patch, patches = r.config['patch_size'], r.inputs['pixel_values']
    columns = run_length(place[0])
    size = (patches.shape[1] // columns, columns) if patches.shape[1] % columns == 0 else (1, patches.shape[1])
    # The grid is one larger than the picture, so that some of it stays unused.
    config = fuyu.config(r.config, grid=(size[0] + 1, size[1] + 1))
    model, account, _ = load(config.build, fuyu.table(config), r)
    pixels = np.zeros((len(ids), 1, 1, *config.encoder.size, 3), np.float32)
    cut = patches.reshape(len(ids), *size, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    pixels[:, 0, 0, : size[0] * patch, : size[1] * patch] = cut.reshape(len(ids), size[0] * patch, size[1] * patch, 3)
    media_size = np.broadcast_to(np.array([1, *size], np.int32), (len(ids), 1, 3))
    batch = text_batch(ids, mask, slot=running(place), pixels=pixels, media_size=media_size)
    return Result(score(model, batch, r.inputs.get('labels')), account, masked(r, mask))


def run_length(mask: np.ndarray) -> int:
    """Returns the length of the first run of true places: a row of patches."""
    rest = mask[mask.argmax() :]
    return len(rest) if rest.all() else int(rest.argmin())
