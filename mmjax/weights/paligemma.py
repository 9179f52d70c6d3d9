# SPDX-License-Identifier: Apache-2.0
"""The layout of PaliGemmaForConditionalGeneration: a SigLIP tower, one affine map, Gemma."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmjax.models import connector
from mmjax.models.decoder import Decoder
from mmjax.models.vlm import Vlm
from mmjax.nn.layers import Norm
from mmjax.weights import clip, llama
from mmjax.weights.llava import LAYOUTS
from mmjax.weights.parts import activation, linear
from mmjax.weights.table import Table


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    return Vlm.Config(
        encoder=clip.siglip_vision({'vision_use_head': False, **public['vision_config']}),
        connector=connector.Linear.Config(),
        decoder=gemma(public['text_config']),
    )


def gemma(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a Gemma of the first generation: LLaMA with scaled words and scales stored as x - 1."""
    plain = llama.config({'tie_word_embeddings': True, 'head_dim': 256, **public})
    scale = Norm.Config(kind='rms', eps=public.get('rms_norm_eps', 1e-6), offset=1.0)
    act = activation(public.get('hidden_activation') or public.get('hidden_act') or 'gelu_tanh')
    mlp = dataclasses.replace(plain.block.mlp, act=act)
    block = dataclasses.replace(plain.block, mlp=mlp, norm=scale)
    return dataclasses.replace(plain, block=block, norm=scale, embed_scale=math.sqrt(plain.width))


def table(c: Vlm.Config, layout: str = 'hub') -> Table:
    """Returns the names of a checkpoint in one of llava.LAYOUTS."""
    body, head, tower, projector = LAYOUTS[layout]
    return (
        llama.table(c.decoder, body, head).under('decoder/', '')
        + clip.siglip_vision_table(c.encoder).under('encoder/', tower)
        + Table(tuple(linear('connector/linear', f'{projector}linear')))
    )
