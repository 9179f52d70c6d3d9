# SPDX-License-Identifier: Apache-2.0
"""The layout of InternVLForConditionalGeneration: InternViT, squares of its features through an MLP, Qwen2."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.models import connector
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import llama, qwen
from mmjax.weights.llava import LAYOUTS
from mmjax.weights.parts import activation, attention, linear, norm
from mmjax.weights.rules import Patch, Vector
from mmjax.weights.table import Entry, Table

# That of ImageNet.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAMES = ('q_proj', 'k_proj', 'v_proj', 'projection_layer')


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    text, layer = public['text_config'], public.get('vision_feature_layer', -1)
    models = {'llama': llama.config, 'qwen2': qwen.qwen2, 'qwen3': qwen.qwen3}
    if text.get('model_type', 'qwen2') not in models:
        raise ValueError(f'text model of type {text["model_type"]!r}: {", ".join(models)} are implemented here')
    if public.get('vision_feature_select_strategy', 'default') != 'default':
        raise ValueError('vision_feature_select_strategy: squares of features are whole without the cls token only')
    tied = public.get('tie_word_embeddings', True)
    return Vlm.Config(
        encoder=dataclasses.replace(vision(public['vision_config']), layer=layer),
        connector=connector.Mlp.Config(
            act=activation(public.get('projector_hidden_act', 'gelu')),
            merge=round(1 / public.get('downsample_ratio', 0.5)),
            norm=Norm.Config(),
        ),
        decoder=models[text.get('model_type', 'qwen2')]({**text, 'tie_word_embeddings': tied}),
    )


def vision(public: Mapping[str, Any]) -> Vit.Config:
    """Returns our config of an InternViT."""
    bias, kind = public.get('attention_bias', False), public.get('norm_type', 'layer_norm')
    scale = Norm.Config(kind={'layer_norm': 'layer', 'rms_norm': 'rms'}[kind], eps=public.get('layer_norm_eps', 1e-6))
    if public.get('use_qk_norm') or not public.get('use_absolute_position_embeddings', True):
        raise ValueError('use_qk_norm, and towers without position embeddings, are not implemented here')
    side = lambda value: (value, value) if isinstance(value, int) else tuple(value)
    size, patch = side(public.get('image_size', 448)), side(public.get('patch_size', 14))
    block = Block.Config(
        attn=Attention.Config(
            heads=public.get('num_attention_heads', 16), q_bias=bias, k_bias=bias, v_bias=bias, o_bias=True
        ),
        mlp=Mlp.Config(width=public.get('intermediate_size', 4096), act=activation(public.get('hidden_act', 'gelu'))),
        norm=scale,
        layer_scale=public.get('layer_scale_init_value', 0.1),
    )
    return Vit.Config(
        size=size,
        patch=patch[0],
        width=public.get('hidden_size', 1024),
        depth=public.get('num_hidden_layers', 24),
        block=block,
        cls=True,
        norm=None if public.get('use_mean_pooling', True) else scale,
        mean=MEAN,
        std=STD,
    )


def table(c: Vlm.Config, layout: str = 'flat') -> Table:
    """Returns the names of a checkpoint in one of llava.LAYOUTS ('hub' is that of no InternVL)."""
    body, head, tower, projector = LAYOUTS[layout]
    maps = (
        *norm('norm', 'layer_norm'),
        *linear('up', 'linear_1'),
        *linear('down', 'linear_2'),
    )
    return (
        llama.table(c.decoder, body, head).under('decoder/', '')
        + vision_table(c.encoder).under('encoder/', tower.replace('vision_model.', ''))
        + Table(maps).under('connector/', projector)
    )


def vision_table(c: Vit.Config) -> Table:
    """Returns the names of the tower."""
    layers, key, bias = range(c.depth), 'encoder.layer.{layer}', c.block.norm.kind == 'layer'
    attn = c.block.attn
    entries = [
        Entry('cls', 'embeddings.cls_token', Vector((1, 1, -1))),
        Entry('position/table', 'embeddings.position_embeddings', Vector((1, -1, c.width))),
        Entry('patch/kernel', 'embeddings.patch_embeddings.projection.weight', Patch()),
        Entry('patch/bias', 'embeddings.patch_embeddings.projection.bias'),
        *norm('blocks/attn_norm', f'{key}.layernorm_before', bias=bias, layers=layers),
        *attention('blocks/attn', f'{key}.attention', names=_NAMES, bias=attn.q_bias, out_bias=True, layers=layers),
        Entry('blocks/attn_scale', f'{key}.lambda_1', Vector(), layers),
        *norm('blocks/mlp_norm', f'{key}.layernorm_after', bias=bias, layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.fc1', layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.fc2', layers=layers),
        Entry('blocks/mlp_scale', f'{key}.lambda_2', Vector(), layers),
        *([] if c.norm is None else norm('norm', 'layernorm', bias=bias)),
    ]
    return Table(tuple(entries))
