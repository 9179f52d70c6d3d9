# SPDX-License-Identifier: Apache-2.0
"""The layout of LlavaForConditionalGeneration: a CLIP tower, two affine maps, LLaMA."""

from collections.abc import Collection, Mapping
from typing import Any

from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.weights import clip, llama
from mmjax.weights.parts import activation, linear
from mmjax.weights.table import Table

# Where the parts stand, by the version that wrote the checkpoint: (decoder's body, head, vision tower, projector).
# Servers read 'hub' (transformers up to 4.51, most public checkpoints) and 'nested' (4.52 on).
LAYOUTS = {
    'hub': ('language_model.model.', 'language_model.lm_head', 'vision_tower.vision_model.', 'multi_modal_projector.'),
    'nested': (
        'model.language_model.',
        'lm_head',
        'model.vision_tower.vision_model.',
        'model.multi_modal_projector.',
    ),
    'flat': ('language_model.model.', 'language_model.lm_head', 'vision_tower.', 'multi_modal_projector.'),
}


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    tower = public['vision_config']
    if tower.get('model_type', 'clip_vision_model') != 'clip_vision_model':
        raise ValueError(f'vision tower of type {tower["model_type"]!r}: only clip_vision_model is implemented here')
    layer, depth = public.get('vision_feature_layer', -2), tower.get('num_hidden_layers', 12)
    if not isinstance(layer, int):
        raise ValueError(f'vision_feature_layer {layer}: features of several layers are not implemented')
    keep_cls = public.get('vision_feature_select_strategy', 'default') == 'full'
    return Vlm.Config(
        # hidden_states[k] is what leaves block k - 1; the norm after the last block is never applied to it.
        encoder=clip.vision(
            tower, layer=layer if layer < 0 else layer - depth - 1, features_normed=False, keep_cls=keep_cls
        ),
        connector=connector.Mlp.Config(
            act=activation(public.get('projector_hidden_act', 'gelu')),
            bias=public.get('multimodal_projector_bias', True),
        ),
        decoder=llama.config(
            {'tie_word_embeddings': public.get('tie_word_embeddings', False), **public['text_config']}
        ),
    )


def table(c: Vlm.Config, layout: str = 'hub') -> Table:
    """Returns the names of a checkpoint in one of LAYOUTS."""
    body, head, tower, projector = LAYOUTS[layout]
    bias = c.connector.bias
    maps = (
        *linear('connector/up', f'{projector}linear_1', bias=bias),
        *linear('connector/down', f'{projector}linear_2', bias=bias),
    )
    return (
        llama.table(c.decoder, body, head).under('decoder/', '')
        + (clip.vision_table if c.encoder.cls else clip.siglip_vision_table)(c.encoder).under('encoder/', tower)
        + Table(maps)
    )


def layout_of(names: Collection[str]) -> str:
    """Returns which of LAYOUTS a checkpoint with these names has, by where its parts stand."""
    begins = lambda prefix: any(name.startswith(prefix) for name in names)
    if begins('model.language_model.'):
        return 'nested'
    if begins('vision_tower.'):
        return 'hub' if begins('vision_tower.vision_model.') else 'flat'
    raise ValueError(f'not a checkpoint of LlavaForConditionalGeneration; its names begin with {sorted(names)[:3]}')
