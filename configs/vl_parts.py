# SPDX-License-Identifier: Apache-2.0
"""More towers and language models by their published names: those of systems whose pictures stand among the words."""

from configs import parts
from mmjax.models.decoder import Decoder
from mmjax.models.vision import Vit
from mmjax.weights import cogvlm


def eva2_clip_e(side: int) -> Vit.Config:
    """All blocks but the last of EVA2-CLIP-E: 4.28 billion parameters."""
    shape = dict(hidden_size=1792, num_hidden_layers=63, num_heads=16, intermediate_size=15_360, patch_size=14)
    return cogvlm.vision({**shape, 'image_size': side})


def with_expert(*, second: bool) -> Decoder.Config:
    """Vicuna-7B with a visual expert of 6.48 billion parameters; `second`: LLaMA-3-8B with one of 6.98."""
    if not second:
        return cogvlm.decoder({**parts.LLAMA['7b'], 'vocab_size': 32_000}, second=False)
    grouped = {**parts.LLAMA['7b'], 'intermediate_size': 14_336, 'num_multi_query_heads': 8, 'vocab_size': 128_256}
    return cogvlm.decoder(grouped, second=True)
