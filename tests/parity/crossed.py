# SPDX-License-Identifier: Apache-2.0
"""The cases of the Flamingo line: text looks at media through gated cross-attention."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import masked
from harness import Result, load, merge, pictures, run, score, text_batch
from references import Reference

from mmjax.models.patches import Patches
from mmjax.models.resampler import Resampler
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.weights import Table, idefics, llama, openflamingo
from mmjax.weights.rules import Patch, Vector
from mmjax.weights.table import Entry


def run_idefics(r: Reference) -> Result:
    """Runs IdeficsForVisionText2Text, with or without its resampler."""
    config = idefics.config(r.config)
    model, account, _ = load(config.build, idefics.table(config, r.config.get('additional_vocab_size', 0)), r)
    mask = r.inputs['attention_mask']
    batch = text_batch(
        r.inputs['input_ids'],
        mask,
        media_span=intervals(r.inputs['image_attention_mask'], config.media_spec().tokens),
        **pictures(r.inputs['pixel_values'], config.encoder.patch),
    )
    outputs = score(model, batch, r.inputs.get('labels'))
    if 'image_hidden_states' in r.outputs:
        media = np.asarray(run(lambda m: m.media(batch), model))
        outputs['image_hidden_states'] = media.reshape(*r.inputs['pixel_values'].shape[:2], -1, media.shape[-1])
    return Result(outputs, account, masked(r, mask))


def intervals(mask: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the spans over media tokens of a mask [B, L, M] over media."""
    some, first = mask.any(axis=-1), mask.argmax(axis=-1)
    end = mask.shape[-1] - mask[..., ::-1].argmax(axis=-1)
    if (np.where(some, end - first, 0) != mask.sum(axis=-1)).any():
        raise ValueError('a token sees media that do not follow one another: spans are intervals')
    return (np.stack([first, end], axis=-1) * tokens * some[..., None]).astype(np.int32)


def so_far(locations: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the spans of text that sees the last medium at or before it."""
    count = locations.cumsum(axis=1)
    span = np.stack([count - 1, count], axis=-1) * tokens
    return np.where(count[..., None] > 0, span, 0).astype(np.int32)


def run_resampler(r: Reference) -> Result:
    """Runs OpenFlamingo's PerceiverResampler."""
    c, x = r.config, r.inputs['x']
    b, media, frames, n, width = x.shape
    config = Resampler.Config(
        attn=Attention.Config(heads=c.get('heads', 8), head_width=c.get('dim_head', 64)),
        queries=r.weights['latents'].shape[0],
        depth=len({key.split('.')[1] for key in r.weights if key.startswith('layers.')}),
        mlp_ratio=r.weights['layers.0.1.1.weight'].shape[0] // width,
        time=bool(c.get('max_num_frames')),
        order=c.get('max_num_media') or 0,
    )
    most = c.get('max_num_frames') or frames
    build = lambda rngs: config.build(width, frames=most, rngs=rngs)
    model, account, _ = load(build, openflamingo.resampler_table(config, most), r)
    padded = np.zeros((b * media, most, n, width), np.float32)
    padded[:, :frames] = x.reshape(b * media, frames, n, width)
    order = jnp.tile(jnp.arange(media), b)
    features, count = jnp.asarray(padded.reshape(b * media, most * n, width)), jnp.full(b * media, frames * n)
    latents = run(lambda m: m(features, count, order), model)
    return Result({'latents': latents.reshape(b, media, *latents.shape[1:])}, account)


def run_gated_block(r: Reference) -> Result:
    """Runs OpenFlamingo's GatedCrossAttentionBlock by its three masks."""
    c, x = r.config, jnp.asarray(r.inputs['x'])
    config = openflamingo.gated_block(c['dim'], c.get('heads', 8), c.get('dim_head', 64))
    config.mlp.width = r.weights['ff.1.weight'].shape[0]
    build = lambda rngs: config.build(c['dim'], c['dim_visual'], rngs=rngs)
    model, account, params = load(build, Table(tuple(openflamingo.gated_entries('', ''))), r)
    media, locations = r.inputs['media'], r.inputs['media_locations']
    b, m, tokens, width = media.shape
    flat = jnp.asarray(media.reshape(b, m * tokens, width))
    look = lambda block, span: run(lambda m: m(x, m.keys_values(flat), jnp.asarray(span, jnp.int32)), block)
    count = locations.cumsum(axis=1)
    before = np.stack([0 * count, np.minimum(count, m) * tokens], axis=-1)
    # Upstream, text all of whose media are masked sees them all alike, which is what scores of zero give: text before
    # any medium where all previous ones are seen, and text after more placeholders than there are media.
    blind = merge(build, {**params, 'attn/q/kernel': np.zeros_like(params['attn/q/kernel'])})
    alike = look(blind, np.broadcast_to([0, m * tokens], before.shape))
    last = np.broadcast_to(locations.sum(axis=1)[:, None], count.shape)
    cached = np.where(last[..., None] > 0, np.stack([last - 1, last], axis=-1) * tokens, 0)
    outputs = {
        'immediate': jnp.where((count > m)[..., None], alike, look(model, so_far(locations, tokens))),
        'all_previous': jnp.where((count > 0)[..., None], look(model, before), alike),
        'cached': look(model, cached),
    }
    return Result({name: outputs[name] for name in r.outputs if name in outputs}, account)


def run_openflamingo(r: Reference) -> Result:
    """Runs OpenFlamingo's wrapper round LLaMA; the reference's vision encoder is a bare convolution."""
    config = openflamingo_config(r)
    vision = (Entry('encoder/patch/kernel', 'vision_encoder.proj.weight', Patch()),)
    bias = (Entry('encoder/patch/bias', 'vision_encoder.proj.bias', Vector()),)
    table = (
        Table(vision + bias)
        + openflamingo.resampler_table(config.connector).under('connector/', 'perceiver.')
        + openflamingo.decoder_table(config).under('decoder/', 'lang_encoder.')
    )
    model, account, _ = load(config.build, table, r)
    ids, mask, pixels = r.inputs['lang_x'], r.inputs['attention_mask'], r.inputs['vision_x']
    batch = text_batch(ids, mask, media_span=so_far(ids == r.config['media_token_id'], config.media_spec().tokens))
    frames = pictures(pixels[:, :, 0], config.encoder.patch)
    batch = batch._replace(**jax.tree.map(jnp.asarray, frames))
    return Result(score(model, batch, r.inputs.get('labels')), account, masked(r, mask))


def openflamingo_config(r: Reference) -> Vlm.Config:
    """Returns our config; what upstream leaves to its defaults is read off the tensors."""
    weights, decoder = r.weights, llama.config(r.config['lang'])
    every, width = r.config['cross_attn_every_n_layers'], r.config['vis_dim']
    patch = weights['vision_encoder.proj.weight'].shape[-1]
    inner = weights['perceiver.layers.0.0.to_q.weight'].shape[0]
    fusion = openflamingo.fusion(decoder.width, every)
    gated = weights[f'lang_encoder.gated_cross_attn_layers.{every - 1}.attn.to_q.weight'].shape[0]
    head = fusion.block.attn.head_width
    fusion.block.attn.heads = gated // head
    return Vlm.Config(
        encoder=Patches.Config(
            patch=patch,
            grid=tuple(side // patch for side in r.inputs['vision_x'].shape[-2:]),
            varying=False,
            width=width,
        ),
        connector=Resampler.Config(
            attn=Attention.Config(heads=inner // head, head_width=head),
            queries=weights['perceiver.latents'].shape[0],
            depth=len({key.split('.')[2] for key in weights if key.startswith('perceiver.layers.')}),
        ),
        fusion=fusion,
        decoder=decoder,
    )
