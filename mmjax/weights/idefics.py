# SPDX-License-Identifier: Apache-2.0
"""The layout of IdeficsForVisionText2Text, an open Flamingo: cross-attention before layers 0, k, 2k ..."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.fusion import CrossAttention
from mmjax.models.resampler import Resampler
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import GatedBlock
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import clip, llama
from mmjax.weights.parts import activation, attention, linear, norm, words
from mmjax.weights.rules import Same, Vector
from mmjax.weights.table import Entry, Table


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    extra = public.get('additional_vocab_size', 0)
    decoder = llama.config({**public, 'vocab_size': public.get('vocab_size', 32000) + extra, 'attention_bias': False})
    scale = decoder.norm
    block = GatedBlock.Config(
        attn=Attention.Config(heads=decoder.block.attn.heads, qk_norm=scale if public.get('qk_layer_norms') else None),
        mlp=Mlp.Config(
            width=decoder.block.mlp.width, act=activation(public.get('hidden_act', 'silu')), gated=True, bias=False
        ),
        norm=scale,
        vector_gates=public.get('alpha_type', 'float') == 'vector',
    )
    return Vlm.Config(
        # The tower's last norm serves only its pooled vector, which nobody reads.
        encoder=clip.vision({'hidden_act': 'gelu', **public['vision_config']}, features_normed=False, keep_cls=True),
        connector=_resampler(public.get('perceiver_config', {})) if public.get('use_resampler') else None,
        fusion=CrossAttention.Config(block=block, every=public.get('cross_layer_interval', 1), first=0),
        decoder=decoder,
    )


def _resampler(public: Mapping[str, Any]) -> Resampler.Config:
    return Resampler.Config(
        attn=Attention.Config(
            heads=public.get('resampler_n_heads', 16),
            head_width=public.get('resampler_head_dim', 96),
            qk_norm=Norm.Config() if public.get('qk_layer_norms_perceiver') else None,
        ),
        queries=public.get('resampler_n_latents', 64),
        depth=public.get('resampler_depth', 6),
        act='relu',
        time=False,
    )


def table(c: Vlm.Config, extra: int) -> Table:
    """Returns the names of a checkpoint whose last `extra` words stand in tables of their own."""
    counts = (c.decoder.vocab - extra, extra) if extra else (c.decoder.vocab,)
    embed = ('model.embed_tokens', 'model.embed_tokens.additional_embedding')[: len(counts)]
    head = ('lm_head', 'lm_head.additional_fc')[: len(counts)]
    decoder = (
        *words('embed/table', embed, counts),
        *llama.blocks(c.decoder, 'model.layers.{layer}'),
        *gated_blocks(c),
        *norm('norm', 'model.norm', bias=False),
        *([] if c.decoder.tied else words('head/kernel', head, counts, transposed=True)),
    )
    frequencies = (r'.*rotary_emb\.inv_freq', 'computed from the config')
    resampler = Table(resampler_entries(c.connector) if c.connector else ())
    return (
        clip.vision_table(c.encoder).under('encoder/', 'model.vision_model.')
        + resampler.under('connector/', 'model.perceiver_resampler.')
        + Table(decoder, (frequencies,)).under('decoder/', '')
    )


def gated_blocks(c: Vlm.Config) -> list[Entry]:
    """Names the gated cross-attention blocks."""
    block = c.fusion.block
    layers, key = range(len(range(0, c.decoder.depth, c.fusion.every))), 'model.gated_cross_attn_layers.{layer}'
    gate = Vector((1, 1, -1)) if block.vector_gates else Vector((1,))
    qk_norm = []
    if block.attn.qk_norm:
        qk_norm = [
            *norm('xattn/attn/q_norm', f'{key}.cross_attn.q_layer_norm', bias=False, layers=layers),
            *norm('xattn/attn/k_norm', f'{key}.cross_attn.k_layer_norm', bias=False, layers=layers),
        ]
    return [
        *norm('xattn/attn_norm', f'{key}.input_layernorm', bias=False, layers=layers),
        *attention('xattn/attn', f'{key}.cross_attn', layers=layers),
        *qk_norm,
        Entry('xattn/attn_gate', f'{key}.alpha_cross_attn', gate, layers),
        *norm('xattn/mlp_norm', f'{key}.post_attention_layernorm', bias=False, layers=layers),
        *linear('xattn/mlp/gate', f'{key}.mlp.gate_proj', bias=False, layers=layers),
        *linear('xattn/mlp/up', f'{key}.mlp.up_proj', bias=False, layers=layers),
        *linear('xattn/mlp/down', f'{key}.mlp.down_proj', bias=False, layers=layers),
        Entry('xattn/mlp_gate', f'{key}.alpha_dense', gate, layers),
    ]


def resampler_entries(c: Resampler.Config) -> tuple[Entry, ...]:
    """Names the Perceiver Resampler."""
    layers, key = range(c.depth), 'blocks.{layer}'
    qk_norm = []
    if c.attn.qk_norm:
        qk_norm = [
            *norm('blocks/attn/q_norm', f'{key}.0.q_layer_norm', layers=layers),
            *norm('blocks/attn/k_norm', f'{key}.0.k_layer_norm', layers=layers),
        ]
    names = ('q_proj', 'k_proj', 'v_proj', 'output_proj')
    return (
        Entry('latents', 'latents', Same()),
        *norm('blocks/media_norm', f'{key}.0.context_layer_norm', layers=layers),
        *norm('blocks/latent_norm', f'{key}.0.latents_layer_norm', layers=layers),
        *attention('blocks/attn', f'{key}.0', names=names, layers=layers),
        *qk_norm,
        *norm('blocks/mlp_norm', f'{key}.1.ln', layers=layers),
        *linear('blocks/mlp/up', f'{key}.1.fc', bias=False, layers=layers),
        *linear('blocks/mlp/down', f'{key}.1.c_proj', bias=False, layers=layers),
        *norm('norm', 'layer_norm'),
    )
