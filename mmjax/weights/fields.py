# SPDX-License-Identifier: Apache-2.0
"""What stands in a config.json: fields that are read here, fields that change no number, and all others.

A field of another kind may well change what the model computes, so it is refused by name: a class that is the one we
know but for a switch of its own would else be read wrongly.
"""

import re
from collections.abc import Mapping
from typing import Any

# Read by one of the modules beside this one.
_READ = """
    _remove_final_layer_norm activation_function add_bias_logits add_final_layer_norm additional_vocab_size
    alpha_type architectures attention_bias attention_heads attn_logit_softcapping cross_attention_freq
    cross_attention_frequency cross_layer_interval d_ff d_kv d_model decoder_attention_heads decoder_ffn_dim
    decoder_hidden_size decoder_intermediate_size decoder_layers decoder_num_attention_heads
    decoder_num_hidden_layers deepstack_visual_indexes dense_act_fn depth depths dim_embed do_layer_norm_before
    downsample_ratio dtype embed_dim enable_bias encoder_attention_heads encoder_ffn_dim encoder_layers
    eos_token_id feed_forward_proj ffn_dim final_logit_softcapping fullatt_block_indexes head_dim heads
    hidden_act hidden_activation hidden_size id2label image_grid_pinpoints image_pos_embed image_size
    image_text_hidden_size image_token_id image_token_index intermediate_size kv_channels latent_query_num
    layer_norm_eps layer_norm_epsilon layer_scale_init_value layer_types layers logit_scale max_num_patches
    max_position_embeddings mlp_bias mlp_ratio mm_tokens_per_image model_type multimodal_projector_bias n_embd
    n_head n_inner n_layer n_positions n_queries norm_type normalize_before num_attention_heads
    num_decoder_layers num_groups num_heads num_hidden_layers num_init_point num_key_value_heads num_layers
    num_multi_query_heads num_neighbor num_position_embeddings num_query_tokens num_sub_point output_dim
    pad_token_id partial_rotary_factor patch_embed_hidden_size patch_padding patch_prenorm patch_size
    patch_stride perceiver_config pooler_mode projection_dim projection_size projector_hidden_act qformer_config
    qk_layer_norms qk_layer_norms_perceiver qk_layernorm qkv_bias query_pre_attn_scalar
    relative_attention_max_distance relative_attention_num_buckets resampler_depth resampler_head_dim
    resampler_n_heads resampler_n_latents rms_norm_eps rope_local_base_freq rope_parameters rope_scaling
    rope_theta rotary_emb_base scale_decoder_outputs scale_embedding scale_factor sliding_window
    sliding_window_pattern spatial_merge_size temporal_patch_size text_config tie_word_embeddings
    tokens_per_second torch_dtype type_vocab_size use_absolute_position_embeddings use_mask_token
    use_mean_pooling use_qformer_text_input use_qk_norm use_relative_position_bias use_resampler
    use_shared_relative_position_bias use_sliding_window vision_config vision_feature_layer
    vision_feature_select_strategy vision_use_head visual vocab_size width window_size word_embed_proj_dim
"""
READ = frozenset(_READ.split())
# Of training, of generating, of files, of classes: nothing that a forward pass computes. Places of signs among the
# words are read off the tokenizer.
WITHOUT_EFFECT = re.compile(
    r'.*drop.*|.*_token_ids?|.*_token_index|init.*|output_.*|summary_.*|forced_.*|.*_version'
    r'|_.*|auto_map|(tokenizer|processor)_class|tokenizer_type|(text|vision|qformer)_config_dict'
    r'|use_cache.*|use_flash_attn|use_return_dict|use_bfloat16|return_dict.*|torchscript|gradient_checkpointing'
    r'|(bf|fp)(16|32)|onnx_safe|softmax_in_fp32|tf_legacy_loss|pretraining_tp|chunk_size_feed_forward|problem_type'
    r'|task_specific_params|finetuning_task|label2id|num_labels|ignore_index|prefix|max_length|min_length|do_sample'
    r'|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature|top_[kp]|typical_p|.*_penalty'
    r'|.*no_repeat_ngram_size|num_return_sequences|n_ctx|seq_length|num_positions|image_seq_length|num_image_tokens'
    r'|is_encoder_decoder|is_decoder|is_composition|is_gated_act|encoder_hidden_size|out_hidden_size'
    r'|use_decoder_only_language_model|max_window_layers|logit_scale_init_value|mask_ratio|norm_pix_loss'
    r'|use_dynamic_ntk|use_logn_attn|use_bidirectional_attention|vision_aspect_ratio|cross_attention_hidden_size'
    r'|image_start_id|is_llama_config|pixel_shuffle_factor|max_image_size|size|transformers\.js_config|freeze_.*'
    r'|cross_layer_activation_function|alphas?_init.*|label_smoothing|model_max_length|max_sequence_length'
    r'|max_temporal_embeddings|visual_temporal_embedding|enable_checkpoint|spatial_patch_size|predict_special_tokens|model_parallel|cache_implementation'
)
# Read by nobody, since there is but one value of it here.
SETTLED = {
    'num_channels': 3, 'in_channels': 3, 'in_chans': 3, 'rotary_pct': 1.0, 'scale_attn_weights': True, 'no_bias': True,
    'layer_norm_elementwise_affine': True, 'position_embedding_type': 'absolute', 'use_image_newline_parameter': True,
    'conv_at_attn': True, 'conv_at_ffn': True, 'image_feature_source': ['spatial_avg_pool', 'temporal_avg_pool'],
}  # fmt: skip


def unknown(public: Mapping[str, Any], where: str = '') -> list[str]:
    """Returns 'field = value' of what may change a model and is not implemented; what is off or empty changes none."""
    found = []
    for name, value in public.items():
        if isinstance(value, Mapping) and (name == 'visual' or (name.endswith('_config') and name in READ)):
            found += unknown(value, f'{where}{name}.')
        elif name in SETTLED:
            found += [f'{where}{name} = {value!r} (only {SETTLED[name]!r})'] if value != SETTLED[name] else []
        elif name not in READ and value not in (None, False, '', [], {}) and not WITHOUT_EFFECT.fullmatch(name):
            found.append(f'{where}{name} = {value!r}')
    return found
