# SPDX-License-Identifier: Apache-2.0
"""The layout of Qwen-VL: a ViT-bigG tower, a grid resampler, and Qwen-7B under the names of its first release."""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.grid_resampler import GridResampler
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import qwen
from mmjax.weights.clip import MEAN, STD
from mmjax.weights.parts import fused, fused_attention, linear, norm, words
from mmjax.weights.rules import JoinedByHead, Matrix, Patch, Same, Vector
from mmjax.weights.table import Entry, Table

NORM = Norm.Config(eps=1e-6)
TABLE = (16, 16)  # rows and columns of the tower's positions, whatever the picture's size


def config(public: Mapping[str, Any], *, pool_heads: int | None = None) -> Vlm.Config:
    """Returns our config of a config.json; `pool_heads`: of the resampler, whose heads are 128 wide if None."""
    visual = public['visual']
    heads, side = pool_heads or visual['output_dim'] // 128, math.isqrt(visual.get('n_queries', 256))
    return Vlm.Config(
        encoder=vision(visual),
        connector=GridResampler.Config(
            attn=Attention.Config(heads=heads, q_bias=True, k_bias=True, v_bias=True, o_bias=True),
            queries=(side, side),
            norm=NORM,
        ),
        decoder=decoder(public),
    )


def decoder(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of the language model: Qwen2's, whose MLP is half as wide as config.json says."""
    return qwen.qwen2(
        {
            **public,
            'intermediate_size': public['intermediate_size'] // 2,
            'head_dim': public.get('kv_channels'),
            'rms_norm_eps': public.get('layer_norm_epsilon', 1e-6),
            'rope_theta': public.get('rotary_emb_base', 10_000.0),
            'num_key_value_heads': public['num_attention_heads'],
        }
    )


def vision(public: Mapping[str, Any]) -> Vit.Config:
    """Returns our config of the tower."""
    attn = Attention.Config(heads=public['heads'], q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    mlp = Mlp.Config(width=int(public['width'] * public['mlp_ratio']))
    return Vit.Config(
        size=(public['image_size'],) * 2,
        patch=public['patch_size'],
        width=public['width'],
        depth=public['layers'],
        block=Block.Config(attn=attn, mlp=mlp, norm=NORM),
        patch_bias=False,
        position_grid=TABLE,
        pre_norm=NORM,
        norm=None,
        mean=MEAN,
        std=STD,
    )


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    maps = (
        Entry('position', 'attn_pool.pos_embed', Same()),
        Entry('query', 'attn_pool.query', Same()),
        *linear('linear', 'attn_pool.kv_proj', bias=False),
        *norm('query_norm', 'attn_pool.ln_q'),
        *norm('norm', 'attn_pool.ln_kv'),
        *fused_attention('attn', 'attn_pool.attn'),
        *norm('out_norm', 'ln_post'),
        Entry('out/kernel', 'proj', Same()),
    )
    return (
        vision_table(c.encoder).under('encoder/', 'transformer.visual.')
        + Table(maps).under('connector/', 'transformer.visual.')
        + decoder_table(c.decoder).under('decoder/', '')
    )


def vision_table(c: Vit.Config) -> Table:
    """Returns the names of the tower."""
    layers, key, parts = range(c.depth), 'transformer.resblocks.{layer}', ('q', 'k', 'v')
    split = lambda rule: JoinedByHead(c.block.attn.heads, rule)
    named = lambda kind: tuple(f'blocks/attn/{part}/{kind}' for part in parts)
    entries = (
        Entry('patch/kernel', 'conv1.weight', Patch()),
        Entry('position/table', 'positional_embedding', Same()),
        *norm('pre_norm', 'ln_pre'),
        *norm('blocks/attn_norm', f'{key}.ln_1', layers=layers),
        Entry(named('kernel'), f'{key}.attn.in_proj.weight', split(Matrix()), layers),
        Entry(named('bias'), f'{key}.attn.in_proj.bias', split(Vector()), layers),
        *linear('blocks/attn/o', f'{key}.attn.out_proj', inputs=2, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.ln_2', layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.c_fc', layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.c_proj', layers=layers),
    )
    return Table(entries)


def decoder_table(c: Decoder.Config) -> Table:
    """Returns the names of the language model."""
    layers, key = range(c.depth), 'transformer.h.{layer}'
    entries = (
        *words('embed/table', 'transformer.wte', (c.vocab,)),
        *norm('blocks/attn_norm', f'{key}.ln_1', bias=False, layers=layers),
        *fused('blocks/attn', f'{key}.attn.c_attn', bias=True, layers=layers),
        *linear('blocks/attn/o', f'{key}.attn.c_proj', bias=False, inputs=2, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.ln_2', bias=False, layers=layers),
        # The activation is that of w2.
        *linear('blocks/mlp/gate', f'{key}.mlp.w2', bias=False, layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.w1', bias=False, layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.c_proj', bias=False, layers=layers),
        *norm('norm', 'transformer.ln_f', bias=False),
        *words('head/kernel', 'lm_head', (c.vocab,), transposed=True),
    )
    return Table(entries, ((r'transformer\.rotary_emb\.inv_freq', 'computed from the config'),))
