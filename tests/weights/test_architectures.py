# SPDX-License-Identifier: Apache-2.0
"""Every public class that is known: a tiny folder of it is imported by its config.json alone, number by number."""

import json
import pathlib
import re

import numpy as np
import pytest
import tokenizers

from mmjax.data.layout import Layout
from mmjax.public import Request, import_checkpoint
from mmjax.weights import fields, gemma3, internvl, llava_next, paligemma, qwen_native, save, shapes, to_public
from mmjax.weights.architectures import ARCHITECTURES
from mmjax.weights.table import public_shapes
from mmjax.workdir import read_run

WORDS = 1500  # room for 1,024 places
TEXT = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=WORDS,
    max_position_embeddings=4096,
)  # fmt: skip
GROUPED = {**TEXT, 'num_key_value_heads': 2, 'head_dim': 4}
OPT = dict(hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=WORDS)
T5 = dict(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=4, vocab_size=WORDS)
VISION = dict(
    hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
)
# The last pixels of its pictures are never read, as in So400m's patches of 14 in 384 pixels.
SIGLIP = {**VISION, 'model_type': 'siglip_vision_model', 'image_size': 10}
PAIR = dict(text_config=TEXT, vision_config=VISION)
SPLICED = dict(text_config=GROUPED, vision_config=VISION)
QUERIES = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, vocab_size=WORDS)
ASKING = dict(vision_config=VISION, qformer_config=QUERIES, num_query_tokens=3)
TILES = dict(image_grid_pinpoints=[[8, 16], [16, 8]])
NATIVE = dict(depth=2, hidden_size=16, intermediate_size=20, num_heads=2, patch_size=4, window_size=16)
ROPE = {**GROUPED, 'head_dim': 8, 'rope_scaling': dict(type='mrope', mrope_section=[1, 1, 2])}
MAE = dict(
    decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16
)
CROSSED = dict(cross_layer_interval=1, use_resampler=False, additional_vocab_size=2)
GRID = dict(heads=2, width=12, layers=2, mlp_ratio=2.0, patch_size=4, image_size=8, output_dim=256, n_queries=4)
EVA = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_heads=2, image_size=8, patch_size=2)
BART = dict(
    d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
    decoder_attention_heads=2, vocab_size=WORDS, max_position_embeddings=1024,
)  # fmt: skip
DAVIT = dict(embed_dim=[4, 8, 8, 8], num_heads=[2] * 4, num_groups=[2] * 4, depths=[1] * 4)
# Class -> its config.json; where one class has several faces, the name goes on behind a space.
PUBLIC = {
    'LlavaForConditionalGeneration': dict(text_config={**GROUPED, 'model_type': 'llama'}, vision_config=VISION),
    'LlavaNextForConditionalGeneration': {**SPLICED, **TILES},
    'LlavaOnevisionForConditionalGeneration': dict(
        text_config={**GROUPED, 'model_type': 'qwen2'}, vision_config=SIGLIP, image_grid_pinpoints=[[10, 20]]
    ),
    'PaliGemmaForConditionalGeneration': SPLICED,
    'InternVLForConditionalGeneration': SPLICED,
    'Gemma3ForConditionalGeneration': {**SPLICED, 'mm_tokens_per_image': 1},
    'SmolVLMForConditionalGeneration': SPLICED,
    'QWenLMHeadModel': {**TEXT, 'visual': GRID},
    'Qwen2_5_VLForConditionalGeneration': dict(
        **ROPE, vision_config={**NATIVE, 'out_hidden_size': 16, 'fullatt_block_indexes': [1]}
    ),
    'Qwen3VLForConditionalGeneration': dict(
        text_config=ROPE, vision_config={**NATIVE, 'num_position_embeddings': 16, 'deepstack_visual_indexes': [0]}
    ),
    'BlipForConditionalGeneration': PAIR,
    'BlipForImageTextRetrieval': PAIR,
    'BlipForQuestionAnswering': PAIR,
    'Blip2ForConditionalGeneration': dict(text_config=OPT, **ASKING),
    'Blip2ForConditionalGeneration t5': dict(text_config={**T5, 'model_type': 't5'}, **ASKING),
    'InstructBlipForConditionalGeneration': dict(text_config={**GROUPED, 'model_type': 'llama'}, **ASKING),
    'InstructBlipVideoForConditionalGeneration': dict(text_config={**GROUPED, 'model_type': 'llama'}, **ASKING),
    'CogVLMForCausalLM': {**TEXT, 'vision_config': EVA},
    'CogVLMForCausalLM second': {**TEXT, 'num_multi_query_heads': 2, 'vision_config': EVA},
    'Florence2ForConditionalGeneration': dict(text_config=BART, vision_config=DAVIT),
    'FuyuForCausalLM': dict(text_config=TEXT, patch_size=4, max_position_embeddings=4096),
    'IdeficsForVisionText2Text': {**TEXT, **CROSSED, 'vision_config': {**VISION, 'embed_dim': 12}},
    'Kosmos2ForConditionalGeneration': dict(
        text_config=dict(embed_dim=16, ffn_dim=24, layers=2, attention_heads=4, vocab_size=WORDS),
        vision_config=VISION,
        latent_query_num=3,
    ),
    'Kosmos2_5ForConditionalGeneration': dict(  # it writes 8,192 places as words
        text_config=dict(embed_dim=16, ffn_dim=24, layers=2, attention_heads=4, vocab_size=8500),
        vision_config={**VISION, 'head_dim': 6, 'patch_embed_hidden_size': 48, 'max_num_patches': 256},
        latent_query_num=3,
    ),
    'CLIPModel': {**PAIR, 'projection_dim': 6},
    'SiglipModel': dict(text_config={**TEXT, 'projection_size': 12}, vision_config=VISION),
    'ViTMAEForPreTraining': {**VISION, **MAE},
    'CohereForCausalLM': GROUPED,
    'GPT2LMHeadModel': dict(n_embd=16, n_layer=2, n_head=4, n_positions=9, vocab_size=WORDS),
    'GemmaForCausalLM': GROUPED,
    'Gemma2ForCausalLM': GROUPED,
    'Gemma3ForCausalLM': GROUPED,
    'LlamaForCausalLM': GROUPED,
    'OPTForCausalLM': OPT,
    'PersimmonForCausalLM': TEXT,
    'Qwen2ForCausalLM': GROUPED,
    'Qwen3ForCausalLM': GROUPED,
    'BartForConditionalGeneration': BART,
    'BertForMaskedLM': TEXT,
    'T5ForConditionalGeneration': T5,
}


def words(folder, special):
    """Writes a tokenizer of bytes with special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    found = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_special_tokens([*special])
    found.save(str(folder / 'tokenizer.json'))


def publish(folder, name, **changes):
    """Writes a folder as it would be published, and returns (config.json, its tensors, our table of them)."""
    kind = ARCHITECTURES[name.split()[0]]
    public = dict(architectures=[name.split()[0]], model_type=kind.model_type, torch_dtype='float32')
    public |= PUBLIC[name] | changes
    config, rng = kind.config(public), np.random.default_rng(0)
    wanted = shapes(config.build)
    table = kind.table(config, public, None)
    found = public_shapes(table, wanted)
    also = {key.format(layer=i) for e in table.entries for key in e.also for i in e.layers or [0]}
    tensors = {key: rng.standard_normal(shape, np.float32) for key, shape in found.items() if key not in also}
    save(folder, tensors.items())
    (folder / 'config.json').write_text(json.dumps(public))
    special = (*Layout.Config(**kind.layout(public)).special_tokens(), '[CLS]', '[SEP]')
    words(folder, special)
    if kind.beside not in (None, '.'):
        words(folder / kind.beside, special)
    return config, tensors, table, wanted


@pytest.mark.parametrize('name', PUBLIC)
def test_its_config_alone_is_enough(name, tmp_path, monkeypatch):
    config, tensors, table, wanted = publish(tmp_path / 'in', name)
    monkeypatch.setattr('mmjax.public.shapes', lambda build: wanted)  # which take most of the time
    account = import_checkpoint(Request(folder=tmp_path / 'in', out=tmp_path / 'out'))
    assert set(account.used) == set(tensors) and not account.ignored
    assert read_run(tmp_path / 'out').model == config
    params = {path: stored(tmp_path / 'out' / 'checkpoints' / '0' / 'params' / path) for path in wanted}
    assert {path: array.shape for path, array in params.items()} == wanted
    for key, tensor in to_public(table, params):
        if key in tensors:
            np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


def stored(folder):
    """Returns a parameter that is small, so that a chunk is a whole one or a member of a stacked one."""
    meta = json.loads((folder / 'zarr.json').read_text())
    chunks = sorted(
        (p for p in (folder / 'c').rglob('*') if p.is_file()), key=lambda p: [*map(int, p.parts[-len(meta['shape']) :])]
    ) or [folder / 'c']
    return np.concatenate([np.fromfile(p, meta['data_type']) for p in chunks]).reshape(meta['shape'])


@pytest.mark.parametrize(
    'name, module, spelling',
    [
        ('PaliGemma', paligemma, 'nested'),
        ('PaliGemma', paligemma, 'flat'),
        ('Gemma3', gemma3, 'nested'),
        ('LlavaNext', llava_next, 'flat'),
        ('InternVL', internvl, 'nested'),
        ('Qwen2_5_VL', qwen_native, 'nested'),
        ('Qwen3VL', qwen_native, 'flat'),
    ],
)
def test_other_spellings_of_the_names_are_seen(name, module, spelling):
    kind = ARCHITECTURES[f'{name}ForConditionalGeneration']
    public = PUBLIC[f'{name}ForConditionalGeneration']
    config = kind.config(public)
    wanted = shapes(config.build)
    names = public_shapes(module.table(config, spelling), wanted)
    assert public_shapes(kind.table(config, public, set(names)), wanted) == names
    assert public_shapes(kind.table(config, public, None), wanted) != names


def test_every_class_is_tried():
    assert {name.split()[0] for name in PUBLIC} == set(ARCHITECTURES)


def test_fields_that_are_read_are_known():
    """What a module of a layout looks up in a config.json."""
    look = re.compile(r"(?:public|text|tower|visual|vision|asking)(?:\.get\(|\[)'([a-z_0-9]+)'")
    found = {
        name for path in pathlib.Path(fields.__file__).parent.glob('*.py') for name in look.findall(path.read_text())
    }
    assert len(found) > 60 and found <= fields.READ, found - fields.READ


@pytest.mark.parametrize(
    'public, said',
    [
        (dict(hidden_size=4, use_cache=True, attention_dropout=0.1, bos_token_id=1, _name_or_path='x'), []),
        (dict(num_experts=8, use_moe=False), ['num_experts = 8']),
        (dict(vision_config=dict(num_channels=4)), ['vision_config.num_channels = 4 (only 3)']),
        (dict(quantization_config=dict(bits=4)), ["quantization_config = {'bits': 4}"]),
        (dict(text_config=dict(perceiver_config=dict(twist=1.5))), ['text_config.perceiver_config.twist = 1.5']),
    ],
)
def test_unknown_fields_are_named(public, said):
    assert fields.unknown(public) == said


def test_what_configs_carry_from_training_and_generating_is_known():
    """As in public files of CLIP, SmolVLM, Qwen2.5-VL, GPT-2 and Idefics."""
    carried = (
        'attention_dropout bos_token_id boi_token_index cache_implementation chunk_size_feed_forward '
        'diversity_penalty do_sample early_stopping embd_pdrop encoder_no_repeat_ngram_size freeze_text_layers '
        'forced_bos_token_id image_seq_length initializer_factor is_llama_config label2id length_penalty max_length '
        'max_image_size n_ctx num_beams num_return_sequences output_attentions pixel_shuffle_factor pretraining_tp '
        'repetition_penalty return_dict spatial_patch_size summary_type task_specific_params temperature top_k '
        'tokenizer_class transformers_version typical_p use_cache _name_or_path'
    )
    assert fields.unknown(dict.fromkeys(carried.split(), 1)) == []
