# SPDX-License-Identifier: Apache-2.0
"""Models of the config files are those that the public config.json of the same size gives."""

import pathlib

import pytest

from configs import args
from mmjax.config import load_config
from mmjax.weights import cogvlm, internvl, paligemma, qwen_vl, smolvlm

FOLDER = pathlib.Path(args.__file__).parent
EVA = dict(hidden_size=1792, num_hidden_layers=63, num_heads=16, intermediate_size=15360, patch_size=14)
SO400M = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304, patch_size=14)
BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, patch_size=16)
LLAMA = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
PUBLIC = {
    'cogvlm.py:17b': (
        cogvlm,
        dict(**LLAMA, intermediate_size=11008, vocab_size=32000, vision_config={**EVA, 'image_size': 490}),
    ),
    'cogvlm.py:19b': (
        cogvlm,
        dict(
            **LLAMA,
            intermediate_size=14336,
            vocab_size=128256,
            num_multi_query_heads=8,
            vision_config={**EVA, 'image_size': 1344},
        ),
    ),
    'qwen_vl.py': (
        qwen_vl,
        dict(
            **LLAMA,
            intermediate_size=22016,
            vocab_size=151936,
            kv_channels=128,
            visual=dict(
                heads=16, width=1664, layers=48, mlp_ratio=4.9231, patch_size=14, image_size=448, output_dim=4096
            ),
        ),
    ),
    'paligemma.py:448': (
        paligemma,
        dict(
            text_config=dict(
                hidden_size=2048,
                num_hidden_layers=18,
                num_attention_heads=8,
                num_key_value_heads=1,
                intermediate_size=16384,
                vocab_size=257216,
            ),
            vision_config={**SO400M, 'image_size': 448},
        ),
    ),
    'smolvlm.py:256m': (
        smolvlm,
        dict(
            text_config=dict(
                hidden_size=576,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                intermediate_size=1536,
                rope_theta=100000.0,
                vocab_size=49280,
            ),
            vision_config={**BASE, 'image_size': 512},
            scale_factor=4,
        ),
    ),
    'internvl.py': (
        internvl,
        dict(
            text_config=dict(
                hidden_size=3584,
                num_hidden_layers=28,
                num_attention_heads=28,
                num_key_value_heads=4,
                intermediate_size=18944,
                vocab_size=152064,
                rope_theta=1e6,
            ),
            vision_config=dict(attention_bias=True),
            tie_word_embeddings=False,
        ),
    ),
}


def same_head_width(c):
    """A head width that follows from the width is not told apart from one that is written out."""
    c.decoder.block.attn.head_width = c.decoder.block.attn.width_of_head(c.decoder.width)
    return c


@pytest.mark.parametrize('spec', PUBLIC)
def test_models_are_those_of_public_configs(spec):
    layout, public = PUBLIC[spec]
    assert same_head_width(load_config(f'{FOLDER}/{spec}').model) == same_head_width(layout.config(public))
