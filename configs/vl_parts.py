# SPDX-License-Identifier: Apache-2.0
"""More towers and language models by their published names: those of systems whose pictures stand among the words."""

import dataclasses
from typing import Any

from configs import parts
from mmjax.config import Load
from mmjax.models.decoder import Decoder
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.weights import Table, clip, cogvlm, internvl, llama, paligemma, qwen, qwen_native, qwen_vl
from mmjax.weights import florence2 as florence_layout

SIGLIP_B = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, patch_size=16)
SIGLIP_SO = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304, patch_size=14)
SIGLIP_SO_26 = {**SIGLIP_SO, 'num_hidden_layers': 26}  # without the last block, as OneVision has it
# SmolLM2, its vocabulary grown for pictures.
SMOLLM2 = {
    '135m': dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                 intermediate_size=1536, rope_theta=100_000.0),
    '1.7b': dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, intermediate_size=8192,
                 rope_theta=130_000.0),
}  # fmt: skip
# Florence-2: its tower; of its BART the width, layers of either stack, heads and MLPs; its words: BART's 50,265, 1,000
# places, 24 signs, the picture's, and as many as make a multiple of 64.
DAVIT = {
    'base': {},
    'large': dict(embed_dim=(256, 512, 1024, 2048), num_heads=(8, 16, 32, 64), num_groups=(8, 16, 32, 64)),
}
BART = {'base': (768, 6, 12, 3072), 'large': (1024, 12, 16, 4096)}
FLORENCE_WORDS = 51_328


def florence2(size: str) -> Vlm.Config:
    """Florence-2: 231.4 or 776.5 million parameters, of which its tower has 90.4 or 360.6."""
    width, layers, heads, mlp = BART[size]
    stack = dict(layers=layers, attention_heads=heads, ffn_dim=mlp)
    both = {f'{side}_{name}': number for side in ('encoder', 'decoder') for name, number in stack.items()}
    text = dict(d_model=width, vocab_size=FLORENCE_WORDS, **both)
    return florence_layout.config(dict(vision_config=DAVIT[size], text_config=text))


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


def siglip(size: dict[str, int], side: int, **ours: Any) -> Vit.Config:
    """SigLIP's ViT-B/16 or So400m/14 without its pooling head: 86 or 412 million parameters."""
    return clip.siglip_vision({**size, 'image_size': side, 'vision_use_head': False}, **ours)


def bigg(side: int) -> Vit.Config:
    """OpenCLIP's ViT-bigG/14 without its class token and last norm: 1.84 billion parameters."""
    shape = dict(width=1664, layers=48, heads=16, mlp_ratio=4.9231, patch_size=14)
    return qwen_vl.vision({**shape, 'image_size': side})


def qwen1() -> Decoder.Config:
    """Qwen-7B, 7.72 billion parameters: Qwen2's shape with as many key heads as heads."""
    shape = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=22_016)
    return qwen_vl.decoder({**shape, 'vocab_size': 151_936})


def gemma_2b(vocab: int) -> Decoder.Config:
    """Gemma-2B, 2.51 billion parameters with its own vocabulary of 256,000."""
    shape = dict(hidden_size=2048, num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1)
    return paligemma.gemma({**shape, 'intermediate_size': 16_384, 'head_dim': 256, 'vocab_size': vocab})


def onevision_weights() -> list[Load]:
    """The weights of Qwen/Qwen2-7B-Instruct, and of google/siglip-so400m-patch14-384 cut to 26 blocks."""
    return [
        Load('weights/siglip-so400m-26', ('encoder/.*',), clip.siglip_vision_table, 'encoder', 'vision_model.'),
        Load('weights/qwen2-7b', ('decoder/.*',), qwen.table, 'decoder'),
    ]


def gemma_2b_table(c: Decoder.Config) -> Table:
    """The names of a Gemma-2B, whose words are the model's first ones."""
    return llama.table(dataclasses.replace(c, vocab=256_000))


def internvit_300m() -> Vit.Config:
    """InternViT-300M for tiles of 448 x 448 pixels: 304 million parameters."""
    return internvl.vision(dict(attention_bias=True))


def qwen2_5_vl(size: str, frames: int = 1) -> Vlm.Config:
    """Qwen2.5-VL: 8.29 or 3.75 billion parameters, of which the tower has 0.63."""
    small = dict(hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2)
    texts = {
        '7b': {**parts.QWEN2_7B, 'vocab_size': 152_064},
        '3b': {**small, 'intermediate_size': 11_008, 'vocab_size': 151_936},
    }
    text = {**texts[size], 'rope_theta': 1e6}
    return qwen_native.qwen2_5(
        dict(text_config=text, vision_config={}, tie_word_embeddings=size == '3b'), frames=frames
    )


def qwen3_vl(size: str) -> Vlm.Config:
    """Qwen3-VL: 8.77 or 4.44 billion parameters."""
    small = dict(hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8)
    texts = {'8b': parts.QWEN3_8B, '4b': {**small, 'intermediate_size': 9_728}}
    towers = {
        '8b': {},
        '4b': dict(hidden_size=1024, depth=24, intermediate_size=4_096, deepstack_visual_indexes=(5, 11, 17)),
    }
    text = {**texts[size], 'vocab_size': 151_936, 'rope_theta': 5e6}
    return qwen_native.qwen3(dict(text_config=text, vision_config=towers[size], tie_word_embeddings=size == '4b'))
