# SPDX-License-Identifier: Apache-2.0
"""Public layouts: every table names every parameter of its config once, and writing undoes reading."""

import dataclasses

import numpy as np
import pytest

from mmjax.models.inspector import Inspector, PromptLearner
from mmjax.models.regions import Regions
from mmjax.models.resnet import ResNet
from mmjax.models.topdown import TopDown
from mmjax.models.vlm import Vlm
from mmjax.nn.gated_layer import Layer
from mmjax.weights import (
    anomalygpt,
    bart,
    bert,
    blip,
    blip2,
    butd,
    clip,
    cohere,
    florence2,
    fuyu,
    gemma,
    gpt2,
    idefics,
    imagebind,
    kosmos2,
    kosmos25,
    llama,
    llava,
    openai_clip,
    opt,
    qwen,
    shapes,
    t5,
    textbind,
    to_ours,
    to_public,
    vit,
)

TEXT = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, vocab_size=50)
GROUPED = {**TEXT, 'num_key_value_heads': 2}
STACKS = {f'{side}_{name}': 2 for side in ('encoder', 'decoder') for name in ('layers', 'attention_heads')}
BART = dict(d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=50, max_position_embeddings=9, **STACKS)
TOWER = dict(embed_dim=(4, 8, 8, 8), num_heads=(2,) * 4, num_groups=(2,) * 4, depths=(1, 1, 2, 1))
FLORENCE = dict(text_config=BART, vision_config=TOWER)
T5 = dict(d_model=16, d_kv=3, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=4, vocab_size=50)
VISION = dict(
    hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
)
PAIR = dict(text_config=TEXT, vision_config=VISION, projection_dim=6)
MAE_DECODER = dict(
    decoder_hidden_size=8, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=16
)
LLAVA = dict(text_config=GROUPED, vision_config=VISION)
LLAMA = {**GROUPED, 'model_type': 'llama'}
BLIP2 = dict(
    text_config=dict(hidden_size=16, ffn_dim=24, num_hidden_layers=3, num_attention_heads=4, vocab_size=50),
    vision_config=VISION,
    qformer_config=dict(
        hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, vocab_size=50
    ),
    num_query_tokens=3,
)
KOSMOS2 = dict(
    text_config=dict(embed_dim=16, ffn_dim=24, layers=2, attention_heads=4, vocab_size=50),
    vision_config=VISION,
    latent_query_num=3,
)
KOSMOS25 = {
    **KOSMOS2,
    'vision_config': dict(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=4,
        intermediate_size=20,
        max_num_patches=130,
    ),
}
IDEFICS = dict(
    **TEXT,
    additional_vocab_size=2,
    cross_layer_interval=2,
    vision_config={**VISION, 'embed_dim': 12},
    use_resampler=True,
    qk_layer_norms=True,
    perceiver_config=dict(
        resampler_n_latents=3,
        resampler_depth=2,
        resampler_n_heads=2,
        resampler_head_dim=4,
        qk_layer_norms_perceiver=True,
    ),
)


def of(module, public, *args):
    config = module.config(public)
    return config, module.table(config, *args)


def pair(config, table, public):
    c = config(public)
    return c, table(c)


OWN = dict(use_relative_position_bias=True, use_absolute_position_embeddings=True)


def convolutional(public):
    tower = ResNet.Config(size=(32, 32), stem=4, depths=(1, 1, 1, 2), heads=2, out=6, mean=clip.MEAN, std=clip.STD)
    return dataclasses.replace(clip.clip(public), vision=tower, project_image=False)


def on_film(public):
    c = clip.clip(public)
    return dataclasses.replace(c, vision=dataclasses.replace(c.vision, film=2))


def chosen():
    c = TopDown.Config(encoder=Regions.Config(width=5, most=3), vocab=50, answers=4, width=6, hidden=7, joint='product',
                       layer=Layer.Config(normed=True), pad=49)  # fmt: skip
    return c, butd.table(c)


LAYOUTS = {
    'llama': lambda: of(llama, GROUPED),
    'llama, tied': lambda: of(llama, {**GROUPED, 'tie_word_embeddings': True, 'attention_bias': True}),
    'qwen2': lambda: pair(qwen.qwen2, qwen.table, GROUPED),
    'qwen3': lambda: pair(qwen.qwen3, qwen.table, GROUPED),
    'opt': lambda: of(opt, {**TEXT, 'ffn_dim': 24, 'max_position_embeddings': 9}),
    'gpt2': lambda: of(gpt2, dict(n_embd=16, n_layer=3, n_head=4, n_positions=9, vocab_size=50)),
    'gemma': lambda: pair(gemma.gemma, gemma.table, GROUPED),
    'gemma2': lambda: pair(gemma.gemma2, gemma.table, GROUPED),
    'gemma3': lambda: pair(gemma.gemma3, gemma.table, GROUPED),
    't5': lambda: of(t5, T5),
    't5, untied': lambda: of(t5, {**T5, 'tie_word_embeddings': False, 'feed_forward_proj': 'gated-gelu'}),
    'bert': lambda: pair(bert.masked, bert.masked_table, TEXT),
    'bart': lambda: of(bart, BART),
    'cohere': lambda: of(cohere, GROUPED),
    'clip': lambda: pair(clip.clip, clip.clip_table, PAIR),
    'openai_clip': lambda: pair(clip.clip, openai_clip.table, PAIR),
    'siglip': lambda: pair(clip.siglip, clip.siglip_table, {**PAIR, 'text_config': {**TEXT, 'projection_size': 12}}),
    **{f'llava, {name}': lambda name=name: of(llava, LLAVA, name) for name in llava.LAYOUTS},
    'openai_clip, convolutions': lambda: pair(convolutional, openai_clip.table, PAIR),
    'imagebind': lambda: pair(on_film, imagebind.table, PAIR),
    'data2vec, shared': lambda: pair(
        vit.data2vec, vit.data2vec_table, {**VISION, 'use_shared_relative_position_bias': True, 'use_mask_token': True}
    ),
    'data2vec, own': lambda: pair(
        vit.data2vec_classifier, vit.data2vec_classifier_table, {**VISION, **OWN, 'id2label': dict.fromkeys('01234')}
    ),
    'vit_mae': lambda: pair(vit.mae, vit.mae_table, {**VISION, **MAE_DECODER}),
    'blip, captions': lambda: pair(blip.captioner, blip.captioner_table, PAIR),
    'blip, retrieval': lambda: pair(blip.retriever, blip.retriever_table, {**PAIR, 'image_text_hidden_size': 6}),
    'blip, answers': lambda: pair(blip.answerer, blip.answerer_table, PAIR),
    'blip2': lambda: of(blip2, BLIP2, 'opt'),
    'instructblip': lambda: of(blip2, {**BLIP2, 'model_type': 'instructblip', 'text_config': LLAMA}, 'llama'),
    'instructblip, t5': lambda: of(
        blip2, {**BLIP2, 'model_type': 'instructblip', 'text_config': {**T5, 'model_type': 't5'}}, 't5'
    ),
    'textbind': lambda: pair(blip2.config, textbind.table, {**BLIP2, 'text_config': LLAMA}),
    'kosmos2': lambda: of(kosmos2, KOSMOS2),
    'florence2': lambda: of(florence2, FLORENCE),
    'florence2, first': lambda: of(florence2, FLORENCE, florence2.FIRST),
    'kosmos25': lambda: of(kosmos25, KOSMOS25),
    'fuyu': lambda: of(fuyu, dict(text_config=TEXT, patch_size=4)),
    'butd': chosen,
    'idefics': lambda: of(idefics, IDEFICS, 2),
    'idefics, bare': lambda: of(idefics, {**IDEFICS, 'use_resampler': False, 'alpha_type': 'vector'}, 2),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_writing_and_reading_undo_each_other(layout):
    config, table = LAYOUTS[layout]()
    wanted, rng = shapes(config.build), np.random.default_rng(0)
    params = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in wanted.items()}
    for path in params:  # the padding of a vocabulary is not written
        tables = path.endswith(('embed/table', 'words/table'))
        if tables or path == 'decoder/bias' or (layout, path) == ('bert', 'bias'):
            params[path][50:] = 0
        elif path.endswith('head/kernel'):
            params[path][:, 50:] = 0
        if layout.startswith('idefics') and path.endswith('embed/table'):
            params[path][50:52] = 1
    public = dict(to_public(table, params))
    again, account = to_ours(table, public, wanted)
    assert not account.ignored and len(account.used) == len(public)
    for path, array in params.items():
        np.testing.assert_array_equal(again[path], array, err_msg=path)


@pytest.mark.parametrize(
    'layout, names',
    [
        ('llama', {'model.layers.2.self_attn.k_proj.weight': (8, 16), 'lm_head.weight': (50, 16)}),
        (
            'qwen2',
            {
                'model.layers.1.self_attn.k_proj.bias': (8,),
                'model.layers.1.self_attn.o_proj.bias': None,
                'model.layers.1.self_attn.q_norm.weight': None,
            },
        ),
        ('qwen3', {'model.layers.1.self_attn.q_norm.weight': (128,), 'model.layers.1.self_attn.k_proj.bias': None}),
        ('gemma', {'model.layers.0.post_attention_layernorm.weight': (16,), 'lm_head.weight': None}),
        (
            'gemma3',
            {
                'model.layers.1.self_attn.q_norm.weight': (256,),
                'model.layers.1.pre_feedforward_layernorm.weight': (16,),
                'model.layers.1.post_feedforward_layernorm.weight': (16,),
            },
        ),
        (
            't5',
            {
                'decoder.block.1.layer.1.EncDecAttention.q.weight': (12, 16),
                'decoder.block.1.layer.2.DenseReluDense.wi.weight': (24, 16),
                'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': (32, 4),
                'lm_head.weight': None,
            },
        ),
        ('t5, untied', {'encoder.block.2.layer.1.DenseReluDense.wi_1.weight': (24, 16), 'lm_head.weight': (50, 16)}),
        ('opt', {'model.decoder.embed_positions.weight': (11, 16), 'model.decoder.layers.0.fc1.bias': (24,)}),
        ('bert', {'bert.embeddings.token_type_embeddings.weight': (2, 16), 'cls.predictions.bias': (50,)}),
        ('gpt2', {'transformer.h.0.attn.c_attn.weight': (16, 48), 'transformer.h.2.mlp.c_fc.weight': (16, 64)}),
        ('clip', {'vision_model.pre_layrnorm.weight': (12,), 'logit_scale': (), 'text_projection.weight': (6, 16)}),
        ('openai_clip', {'visual.transformer.resblocks.1.attn.in_proj_weight': (36, 12), 'text_projection': (16, 6)}),
        ('siglip', {'vision_model.head.attention.in_proj_weight': (36, 12), 'logit_bias': (1,)}),
        ('llava, hub', {'language_model.model.norm.weight': (16,), 'multi_modal_projector.linear_1.weight': (16, 12)}),
        ('llava, nested', {'model.language_model.norm.weight': (16,), 'lm_head.weight': (50, 16)}),
        (
            'openai_clip, convolutions',
            {'visual.layer4.1.conv2.weight': (32, 32, 3, 3), 'visual.layer2.0.downsample.1.running_var': (32,)},
        ),
        ('imagebind', {'modality_preprocessors.vision.rgbt_stem.proj.1.weight': (12, 3, 2, 4, 4)}),
        (
            'data2vec, shared',
            {'encoder.relative_position_bias.relative_position_bias_table': (12, 2), 'encoder.layer.1.lambda_2': (12,)},
        ),
        ('data2vec, own', {'data2vec_vision.pooler.layernorm.weight': (12,), 'classifier.weight': (5, 12)}),
        ('vit_mae', {'decoder.mask_token': (1, 1, 8), 'vit.encoder.layer.1.attention.attention.key.bias': (12,)}),
        (
            'blip, captions',
            {'text_decoder.cls.predictions.bias': (50,), 'vision_model.embeddings.class_embedding': (1, 1, 12)},
        ),
        (
            'blip, retrieval',
            {'text_encoder.encoder.layer.2.crossattention.self.key.weight': (16, 12), 'itm_head.bias': (2,)},
        ),
        ('blip, answers', {'text_decoder.bert.encoder.layer.0.crossattention.self.key.weight': (16, 16)}),
        (
            'blip2',
            {'query_tokens': (1, 3, 12), 'qformer.encoder.layer.2.crossattention.attention.key.weight': (12, 12)},
        ),
        ('instructblip', {'qformer.embeddings.layernorm.weight': (12,), 'language_projection.weight': (16, 12)}),
        ('instructblip, t5', {'language_model.decoder.block.1.layer.1.EncDecAttention.q.weight': (12, 16)}),
        (
            'textbind',
            {
                'query_tokens': (1, 3, 12),
                'qformer_projection.weight': (16, 12),
                'language_model.lm_head.weight': (50, 16),
            },
        ),
        ('kosmos2', {'text_model.model.layers.1.ffn.ffn_layernorm.weight': (24,)}),
        ('bart', {'model.encoder.embed_positions.weight': (11, 16), 'model.shared.weight': (50, 16)}),
        (
            'florence2',
            {
                'model.vision_tower.blocks.2.1.spatial_block.window_attn.qkv.weight': (24, 8),
                'model.vision_tower.blocks.0.0.channel_block.conv1.weight': (4, 1, 3, 3),
                'model.language_model.decoder.layers.1.encoder_attn.k_proj.bias': (16,),
                'model.multi_modal_projector.image_projection.weight': (16, 8),
            },
        ),
        (
            'florence2, first',
            {
                'vision_tower.blocks.2.1.spatial_block.window_attn.fn.qkv.weight': (24, 8),
                'vision_tower.blocks.0.0.channel_block.channel_attn.norm.bias': (4,),
                'vision_tower.convs.1.proj.weight': (8, 4, 3, 3),
                'language_model.model.shared.weight': (50, 16),
                'image_projection': (8, 16),
            },
        ),
        ('fuyu', {'language_model.model.layers.0.self_attn.query_key_value.weight': (48, 16)}),
        ('idefics', {'lm_head.additional_fc.weight': (2, 16), 'model.gated_cross_attn_layers.1.alpha_dense': (1,)}),
        ('butd', {'classifier.main.3.weight_v': (4, 7), 'v_att.linear.weight_g': (), 'w_emb.emb.weight': (50, 300)}),
        ('idefics, bare', {'model.gated_cross_attn_layers.0.alpha_dense': (1, 1, 16)}),
    ],
)
def test_public_names_and_shapes(layout, names):
    config, table = LAYOUTS[layout]()
    params = {path: np.zeros(shape, np.float32) for path, shape in shapes(config.build).items()}
    found = {key: tensor.shape for key, tensor in to_public(table, params)}
    assert {key: found.get(key) for key in names} == names


def test_the_towers_of_anomalygpt_are_imagebinds():
    pair, theirs = LAYOUTS['imagebind']()
    tower = dataclasses.replace(pair.vision, keep_cls=True, deep=(0, 1))
    learner = PromptLearner.Config(channels=(2,), last=3)
    asking = Inspector.Config(text=pair.text, depths=2, space=pair.width, size=(8, 8), prompts=learner)
    model = Vlm.Config(encoder=tower, connector=asking, decoder=of(llama, GROUPED)[0])
    own = anomalygpt.table(learner, 2).under('connector/', '')
    wanted = {path: shape for path, shape in shapes(model.build).items() if not path.startswith('decoder/')}
    params = {path: np.random.default_rng(0).random(shape) for path, shape in wanted.items()}
    ours = anomalygpt.towers_table(model)
    named = {path for entry in (*ours.entries, *own.entries) for path in entry.paths}
    assert named | {'connector/out/kernel', 'connector/out/bias'} == wanted.keys()
    written = dict(to_public(ours, {path: params[path] for entry in ours.entries for path in entry.paths}))
    names = {key for key, _ in to_public(theirs, {p: np.zeros(s) for p, s in shapes(pair.build).items()})}
    assert names - written.keys() == {'modality_postprocessors.text.1.log_logit_scale'} and written.keys() < names


def test_queries_are_read_out_of_a_whole_blip2():
    config, table = LAYOUTS['blip2']()
    tensors = dict(to_public(table, {p: np.zeros(s, np.float32) for p, s in shapes(config.build).items()}))
    wanted = {path: shape for path, shape in shapes(config.build).items() if path.startswith('connector/')}
    alone = {path.removeprefix('connector/'): shape for path, shape in wanted.items() if '/out/' not in path}
    params, account = to_ours(textbind.asking_table(config.connector), tensors, alone)
    assert params.keys() == alone.keys() and set(account.ignored.values()) == {'of another part'}


def test_a_layout_of_llava_is_recognised():
    for name in llava.LAYOUTS:
        config, table = LAYOUTS[f'llava, {name}']()
        params = {path: np.zeros(shape, np.float32) for path, shape in shapes(config.build).items()}
        assert llava.layout_of(dict(to_public(table, params))) == name
    with pytest.raises(ValueError, match='not a checkpoint'):
        llava.layout_of({'model.norm.weight': 0})


def test_sizes_of_top_down_attention_are_read_off_its_tensors():
    config, table = chosen()
    tensors = dict(to_public(table, {p: np.zeros(s) for p, s in shapes(config.build).items()}))
    assert butd.config(tensors, most=3) == config


def test_sizes_are_read_off_the_first_clips_tensors():
    heads = dict(text_config={**TEXT, 'num_attention_heads': 2}, vision_config={**VISION, 'num_attention_heads': 2})
    public = {**PAIR, **{key: {**PAIR[key], **heads[key]} for key in heads}}
    public['text_config'] |= dict(intermediate_size=64, eos_token_id=2)
    public['vision_config'] |= dict(intermediate_size=48)
    config = clip.clip(public)
    tensors = dict(to_public(openai_clip.table(config), {p: np.zeros(s) for p, s in shapes(config.build).items()}))
    assert openai_clip.config(tensors, head=6, text_head=8) == config


@pytest.mark.parametrize(
    'config, public, message',
    [
        (opt.config, dict(do_layer_norm_before=False), 'do_layer_norm_before=False'),
        (opt.config, dict(word_embed_proj_dim=512), 'word_embed_proj_dim=512 for a width of 768'),
        (gpt2.config, dict(scale_attn_by_inverse_layer_idx=True), 'scale_attn_by_inverse_layer_idx=True'),
        (gemma.gemma2, dict(num_hidden_layers=2, layer_types=['full_attention', 'sliding_attention']), 'layer_types'),
        (qwen.qwen2, dict(use_sliding_window=True), 'use_sliding_window'),
        (cohere.config, dict(use_qk_norm=True), 'use_qk_norm'),
    ],
)
def test_what_is_not_implemented_is_refused(config, public, message):
    with pytest.raises(ValueError, match=message):
        config(public)


@pytest.mark.parametrize(
    'spelling',
    [
        dict(
            rope_theta=3e5,
            rope_scaling=dict(type='linear', factor=8),
            rope_local_base_freq=7.0,
            sliding_window_pattern=3,
        ),
        dict(
            rope_parameters=dict(
                full_attention=dict(rope_type='linear', rope_theta=3e5, factor=8),
                sliding_attention=dict(rope_theta=7.0),
            ),
            layer_types=['sliding_attention', 'sliding_attention', 'full_attention', 'sliding_attention'],
        ),
    ],
    ids=['old', 'new'],
)
def test_both_spellings_of_gemma3s_layers(spelling):
    c = gemma.gemma3(dict(num_hidden_layers=4, **spelling))
    assert (c.position.theta, c.position.factor) == (3e5, 8)
    assert (c.local.position.theta, c.local.position.factor, c.local.every, c.local.window) == (7.0, 1.0, 3, 4096)
