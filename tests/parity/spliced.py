# SPDX-License-Identifier: Apache-2.0
"""The cases of systems whose pictures stand among the words, beyond those that only LLaVA's parts are needed for."""

import math
from typing import Any

import harness
import jax.numpy as jnp
import numpy as np
from cases import masked
from harness import Result, by_row, causal, load, pictures, running, score, text_batch
from references import Reference

from mmjax.data import masks
from mmjax.models.vlm import Vlm
from mmjax.weights import cogvlm, ferret, gemma3, internvl, kosmos25, llava, llava_next, paligemma, qwen_vl, smolvlm


def run_cogvlm(r: Reference) -> Result:
    """Runs CogVLMForCausalLM of either version."""
    config = cogvlm.config(r.config)
    model, account, _ = load(config.build, cogvlm.table(config), r)
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    slot = running(r.inputs['token_type_ids'])
    position = np.stack([positions(row, config) for row in slot])
    batch = text_batch(
        ids,
        mask,
        slot=slot,
        position=position,
        expert=np.stack([masks.experts(row) for row in slot]),
        **pictures(r.inputs['images'][:, None], config.encoder.patch),
    )
    outputs = score(model, batch, r.inputs['labels'])
    outputs |= {'vision': harness.run(lambda m: m.media(batch), model), 'position_ids': position}
    return Result(outputs, account, masked(r, mask))


def positions(slot: np.ndarray, config: Vlm.Config) -> np.ndarray:
    """Returns the positions of a row with one picture, whose tokens but for those at its ends share one."""
    return masks.positions(len(slot), whole(slot), config.media_spec().ends, shared=True)


def whole(slot: np.ndarray) -> Any:
    """Returns the places [1, 2] of the one picture of a row."""
    there = np.flatnonzero(slot >= 0)
    return np.array([[there[0], there[-1] + 1]])


def run_qwen_vl(r: Reference) -> Result:
    """Runs QWenLMHeadModel; its pictures take all places between two signs."""
    # Heads of the reference's resampler are narrower than those that its code assumes.
    config = qwen_vl.config(r.config, pool_heads=4)
    model, account, _ = load(config.build, qwen_vl.table(config), r)
    ids, start = r.inputs['input_ids'], r.config['visual']['image_start_id']
    inside = (ids == start).cumsum(axis=1) - (ids == start) > (ids == start + 1).cumsum(axis=1)
    media = pictures(r.inputs['pixel_values'][:, None], config.encoder.patch)
    batch = text_batch(ids, r.inputs['attention_mask'], slot=running(inside), **media)
    outputs = score(model, batch, None)
    return Result({**outputs, 'image_features': harness.run(lambda m: m.media(batch), model)}, account)


def run_paligemma(r: Reference) -> Result:
    """Runs PaliGemmaForConditionalGeneration with each of the masks that its reference was run with."""
    config = paligemma.config(r.config)
    model, account, _ = load(config.build, paligemma.table(config, llava.layout_of(r.weights)), r)
    ids, mask, kinds = r.inputs['input_ids'], r.inputs['attention_mask'], r.inputs['token_type_ids']
    media = pictures(r.inputs['pixel_values'][:, None], config.encoder.patch)
    batch = text_batch(ids, mask, slot=running(ids == r.config['image_token_index']), **media)
    span = causal(mask)
    outputs = {}
    for name, prefix in (('train', (kinds == 0) & (mask == 1)), ('prompt', mask == 1)):
        end = np.where(prefix, ids.shape[1] - prefix[:, ::-1].argmax(axis=1, keepdims=True), 0)
        seen = np.stack([span[..., 0], np.maximum(span[..., 1], end)], axis=-1).astype(np.int32)
        found = score(model, batch._replace(span=seen), r.inputs['labels'] if name == 'train' else None)
        outputs |= {f'logits_{name}': found.pop('logits'), **found}
    outputs['logits_no_token_types'] = score(model, batch, None)['logits']
    outputs['image_hidden_states'] = harness.run(lambda m: m.media(batch), model)
    return Result(outputs, account, masked(r, mask))


def run_gemma3(r: Reference) -> Result:
    """Runs Gemma3ForConditionalGeneration, whose pictures see themselves both ways."""
    config = gemma3.config(r.config)
    model, account, _ = load(config.build, gemma3.table(config, llava.layout_of(r.weights)), r)
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    slot = running(ids == r.config['image_token_index'])
    span = np.stack([masks.two_way(row, whole(at)) for row, at in zip(causal(mask), slot, strict=True)])
    media = pictures(r.inputs['pixel_values'][:, None], config.encoder.patch)
    batch = text_batch(ids, mask, slot=slot, span=span, **media)
    outputs = score(model, batch, r.inputs.get('labels'))
    outputs['image_hidden_states'] = harness.run(lambda m: m.media(batch), model)
    return Result(outputs, account, masked(r, mask))


def run_kosmos25(r: Reference) -> Result:
    """Runs Kosmos2_5ForConditionalGeneration; its patches come cut, and are put together again."""
    flat = r.inputs['flattened_patches']
    places = flat[..., :2].astype(int)
    rows, columns = places[0].max(axis=0)
    # The grid is larger than the picture, so that some of it stays unused.
    config = kosmos25.config(r.config, grid=(int(rows) + 1, int(columns) + 2), budget=flat.shape[1])
    # The reference's signs of pictures count as words.
    config.signs = 0
    model, account, _ = load(config.build, kosmos25.table(config), r)
    patch, pixels = config.encoder.patch, np.zeros((len(flat), 1, 1, *config.encoder.size, 3), np.float32)
    for row, cut, (y, x) in (
        (b, *rest) for b in range(len(flat)) for rest in zip(flat[b, :, 2:], places[b], strict=True)
    ):
        if y:
            there = np.s_[(y - 1) * patch : y * patch, (x - 1) * patch : x * patch]
            pixels[row, 0, 0][there] = cut.reshape(patch, patch, 3)
    size = np.broadcast_to(np.array([1, rows, columns], np.int32), (len(flat), 1, 3))
    ids, mask = r.inputs['input_ids'], r.inputs['attention_mask']
    slot = running(r.inputs['image_embeds_position_mask'] == 1)
    batch = text_batch(ids, mask, slot=slot, pixels=pixels, media_size=size)
    outputs = score(model, batch, r.inputs.get('labels'))
    outputs['image_embeds'] = harness.run(lambda m: m.media(batch), model)
    return Result(outputs, account, masked(r, mask))


def run_region_sampler(r: Reference) -> Result:
    """Runs Ferret's GeoRegionSampler on regions of as many pixels as it takes points."""
    config, masks_ = ferret.sampler(r.config), r.inputs['masks']
    build = lambda rngs: config.build(r.config['input_dim'], r.config['output_dim'], rngs=rngs)
    model, account, _ = load(build, ferret.sampler_table(config), r)
    points = jnp.asarray(np.stack([np.argwhere(mask) / mask.shape for mask in masks_]), jnp.float32)
    features = jnp.asarray(np.repeat(r.inputs['feature_map'], len(masks_), axis=0))
    side = math.isqrt(features.shape[1])
    return Result({'region': harness.run(lambda m: m(features, (side, side), points), model)}, account)


def run_placed(layout: Any, *, names: str) -> Any:
    """Returns the case of a system with one picture of one tile at its placeholders; `layout` is its module."""

    def run(r: Reference) -> Result:
        config = layout.config(r.config)
        model, account, _ = load(config.build, layout.table(config), r)
        ids, mask, pixels = r.inputs['input_ids'], r.inputs['attention_mask'], r.inputs['pixel_values']
        place = ids == r.config[names]
        pixels, there = by_row(pixels.reshape(-1, *pixels.shape[-3:]), place.sum(axis=1) // config.media_spec().tokens)
        media = pictures(pixels, config.encoder.patch)
        media['media_size'] = media['media_size'] * there[..., None]
        batch = text_batch(ids, mask, slot=running(place), **media)
        return Result(score(model, batch, r.inputs.get('labels')), account, masked(r, mask))

    return run


def run_llava_next(r: Reference) -> Result:
    """Runs LlavaNext- and LlavaOnevisionForConditionalGeneration; the tiles come cut, which is which we say."""
    config, tiles = llava_next.config(r.config), llava_next.tiles(r.config)
    model, account, _ = load(config.build, llava_next.table(config, llava.layout_of(r.weights)), r)
    ids, mask, pixels = r.inputs['input_ids'], r.inputs['attention_mask'], r.inputs['pixel_values']
    place, slot = ids == r.config['image_token_index'], np.full(ids.shape, -1, np.int32)
    spec = config.media_spec()
    for row, (height, width) in enumerate(r.inputs['image_sizes'].tolist()):
        features = config.encoder.grid[0]
        slot[row, place[row]] = tiles.slots((width, height), spec.width, features, spec.tokens - 1)
    frames = pixels.transpose(0, 1, 3, 4, 2)[:, None]
    size = np.broadcast_to(np.array([frames.shape[2], *config.encoder.grid], np.int32), (len(ids), 1, 3))
    batch = text_batch(ids, mask, slot=slot, pixels=frames, media_size=size)
    outputs = score(model, batch, r.inputs.get('labels'))
    if 'image_hidden_states' in r.outputs:
        media = np.asarray(harness.run(lambda m: m.media(batch), model))
        outputs['image_hidden_states'] = media[0, slot[0][slot[0] >= 0]]
    return Result(outputs, account, masked(r, mask))


run_smolvlm = run_placed(smolvlm, names='image_token_id')
run_internvl = run_placed(internvl, names='image_token_id')
