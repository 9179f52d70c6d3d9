# SPDX-License-Identifier: Apache-2.0
"""The layouts of LlavaNext- and LlavaOnevisionForConditionalGeneration: LLaVA's, and a token that ends rows."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.tiles import Tiles
from mmjax.models import connector
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.weights import clip, llama, llava, qwen
from mmjax.weights.parts import activation
from mmjax.weights.table import Entry, Table

TEXT = {'llama': llama.config, 'qwen2': qwen.qwen2}
MOST = 9  # tiles; pictures of more are shrunk in the published OneVision, which is not implemented


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    text = public['text_config']
    kind = text.get('model_type', 'llama')
    if kind not in TEXT:
        raise ValueError(f'text model of type {kind!r}: {", ".join(TEXT)} are implemented here')
    return Vlm.Config(
        encoder=vision(public),
        connector=connector.Mlp.Config(
            act=activation(public.get('projector_hidden_act', 'gelu')),
            bias=public.get('multimodal_projector_bias', True),
        ),
        decoder=TEXT[kind]({'tie_word_embeddings': public.get('tie_word_embeddings', False), **text}),
        frames=1 + tiles(public).most,
        newline=True,
    )


def tiles(public: Mapping[str, Any]) -> Tiles:
    """Returns the grids of tiles of a config.json, those of more than MOST tiles left out."""
    side, patch = public['vision_config']['image_size'], public['vision_config'].get('patch_size', 1)
    grids = tuple((rows // side, columns // side) for rows, columns in public['image_grid_pinpoints'])
    return Tiles(grids=tuple(grid for grid in grids if grid[0] * grid[1] <= MOST), side=side if side % patch else 0)


def vision(public: Mapping[str, Any]) -> Vit.Config:
    """Returns our config of the tower; the norm after its last block is never applied."""
    tower = public['vision_config']
    siglip = tower.get('model_type', 'clip_vision_model') == 'siglip_vision_model'
    depth, layer = tower.get('num_hidden_layers', 12), public.get('vision_feature_layer', -1 if siglip else -2)
    if not isinstance(layer, int):
        raise ValueError(f'vision_feature_layer {layer}: features of several layers are not implemented')
    if not siglip and public.get('vision_feature_select_strategy', 'default') != 'default':
        raise ValueError('vision_feature_select_strategy: tiles are put together without the cls token only')
    ours = dict(layer=layer if layer < 0 else layer - depth - 1, features_normed=False)
    return clip.siglip_vision({'vision_use_head': False, **tower}, **ours) if siglip else clip.vision(tower, **ours)


def table(c: Vlm.Config, layout: str = 'hub') -> Table:
    """Returns the names of a checkpoint in one of llava.LAYOUTS."""
    newline = 'model.image_newline' if layout == 'nested' else 'image_newline'
    return llava.table(c, layout) + Table((Entry('newline', newline),))
