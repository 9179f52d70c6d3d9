# SPDX-License-Identifier: Apache-2.0
"""Layouts of systems whose pictures stand among the words: tables name every parameter once, writing undoes reading."""

import numpy as np
import pytest

from mmjax.weights import (
    cogvlm,
    gemma3,
    internvl,
    llama,
    llava_next,
    paligemma,
    qwen_vl,
    shapes,
    smolvlm,
    to_ours,
    to_public,
)

TEXT = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, vocab_size=128)
GROUPED = {**TEXT, 'num_key_value_heads': 2}
COGVLM = dict(
    **TEXT,
    vision_config=dict(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_heads=2, image_size=8, patch_size=2
    ),
)
VISION = dict(
    hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
)
SPLICED = dict(text_config={**GROUPED, 'head_dim': 4}, vision_config=VISION)
QWEN_VL = {
    **TEXT,
    'visual': dict(heads=2, width=12, layers=2, mlp_ratio=2.0, patch_size=4, image_size=8, output_dim=256, n_queries=4),
}
# Layout: its module, a config.json, some public names with their shapes.
LAYOUTS = {
    'cogvlm': (
        cogvlm,
        COGVLM,
        {'model.vision.boi': (1, 1, 16), 'model.layers.2.mlp.vision_mlp.up_proj.weight': (24, 16)},
    ),
    'cogvlm2': (
        cogvlm,
        {**COGVLM, 'num_multi_query_heads': 2},
        {'model.vision.conv.weight': (12, 12, 2, 2), 'model.vision.linear_proj.linear_proj.weight': (16, 12)},
    ),
    'qwen_vl': (
        qwen_vl,
        QWEN_VL,
        {'transformer.visual.positional_embedding': (256, 12), 'transformer.h.1.mlp.w2.weight': (12, 16)},
    ),
    'paligemma': (paligemma, SPLICED, {'language_model.model.layers.2.mlp.up_proj.weight': (24, 16)}),
    'gemma3': (
        gemma3,
        {**SPLICED, 'mm_tokens_per_image': 1},
        {
            'multi_modal_projector.mm_input_projection_weight': (12, 16),
            'language_model.model.layers.2.pre_feedforward_layernorm.weight': (16,),
        },
    ),
    'llava_next': (
        llava_next,
        {**SPLICED, 'image_grid_pinpoints': [[8, 16], [80, 80]]},
        {'image_newline': (16,), 'language_model.lm_head.weight': (128, 16)},
    ),
    'smolvlm': (smolvlm, SPLICED, {'model.connector.modality_projection.proj.weight': (16, 48)}),
    'internvl': (
        internvl,
        SPLICED,
        {'vision_tower.encoder.layer.1.lambda_2': (12,), 'multi_modal_projector.layer_norm.bias': (48,)},
    ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_writing_and_reading_undo_each_other(layout):
    module, public, names = LAYOUTS[layout]
    config = module.config(public)
    table, wanted, rng = module.table(config), shapes(config.build), np.random.default_rng(0)
    params = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in wanted.items()}
    public = dict(to_public(table, params))
    assert {key: public[key].shape for key in names} == names
    again, account = to_ours(table, public, wanted)
    assert not account.ignored and len(account.used) == len(public)
    for path, array in params.items():
        np.testing.assert_array_equal(again[path], array, err_msg=path)


def test_an_expert_begins_as_a_copy_of_the_language_model():
    c = cogvlm.config({**COGVLM, 'num_multi_query_heads': 2}).decoder
    plain = llama.config(dict(GROUPED, rms_norm_eps=1e-5))
    rng = np.random.default_rng(0)
    params = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes(plain.build).items()}
    public = dict(to_public(llama.table(plain), params))
    wanted = {path: shape for path, shape in shapes(c.build).items() if '/bias' not in path}
    found, _ = to_ours(cogvlm.from_llama(c), public, wanted)
    assert found.keys() == wanted.keys()
    for path in ('attn/q/kernel', 'attn/o/kernel', 'mlp/down/kernel'):
        np.testing.assert_array_equal(found[f'blocks/expert/{path}'], found[f'blocks/{path}'])
