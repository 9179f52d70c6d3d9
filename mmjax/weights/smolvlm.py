# SPDX-License-Identifier: Apache-2.0
"""The layout of SmolVLMForConditionalGeneration: a SigLIP tower, squares of its features mapped once, LLaMA."""

from collections.abc import Mapping
from typing import Any

from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.weights import clip, llama
from mmjax.weights.parts import linear
from mmjax.weights.table import Table


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    tower = {'hidden_size': 1152, 'num_attention_heads': 16, 'patch_size': 32, **public['vision_config']}
    return Vlm.Config(
        encoder=clip.siglip_vision({**tower, 'vision_use_head': False}),
        connector=connector.Linear.Config(bias=False, merge=public.get('scale_factor', 2)),
        decoder=llama.config(
            {
                'rms_norm_eps': 1e-5,
                **public['text_config'],
                'tie_word_embeddings': public.get('tie_word_embeddings', False),
            }
        ),
    )


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    return (
        llama.table(c.decoder, 'model.text_model.').under('decoder/', '')
        + clip.siglip_vision_table(c.encoder).under('encoder/', 'model.vision_model.')
        + Table(tuple(linear('connector/linear', 'model.connector.modality_projection.proj', bias=False)))
    )
