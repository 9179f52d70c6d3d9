# SPDX-License-Identifier: Apache-2.0
"""The layout of Gemma3ForConditionalGeneration: a SigLIP tower, means of squares of its features, Gemma 3."""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.nn.layers import Norm
from mmjax.weights import clip, gemma
from mmjax.weights.llava import LAYOUTS
from mmjax.weights.parts import norm
from mmjax.weights.rules import Same
from mmjax.weights.table import Entry, Table


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    vision = clip.siglip_vision({'vision_use_head': False, **public['vision_config']})
    side, tokens = vision.grid[0], math.isqrt(public.get('mm_tokens_per_image', 256))
    if side % tokens:
        raise ValueError(f'{side} x {side} patches have no {tokens} x {tokens} squares: mm_tokens_per_image must fit')
    return Vlm.Config(
        encoder=vision,
        connector=connector.Linear.Config(
            bias=False, merge=side // tokens, mean=True, norm=Norm.Config(kind='rms', eps=vision.norm.eps, offset=1.0)
        ),
        decoder=gemma.gemma3(public['text_config']),
    )


def table(c: Vlm.Config, layout: str = 'hub') -> Table:
    """Returns the names of a checkpoint in one of llava.LAYOUTS."""
    body, head, tower, projector = LAYOUTS[layout]
    maps = (
        *norm('connector/norm', f'{projector}mm_soft_emb_norm', bias=False),
        # Stored [in, out], unlike the matrices of Linears.
        Entry('connector/linear/kernel', f'{projector}mm_input_projection_weight', Same()),
    )
    return (
        gemma.table(c.decoder, body, head).under('decoder/', '')
        + clip.siglip_vision_table(c.encoder).under('encoder/', tower)
        + Table(maps)
    )
