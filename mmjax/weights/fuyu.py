# SPDX-License-Identifier: Apache-2.0
"""The layout of FuyuForCausalLM: patches of pixels beside the words of a Persimmon decoder."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.patches import Patches
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights.parts import activation, linear, norm, rotary, words
from mmjax.weights.rules import JoinedByHead, Matrix, Vector
from mmjax.weights.table import Entry, Table


def config(public: Mapping[str, Any], grid: tuple[int, int] = (36, 64)) -> Vlm.Config:
    """Returns our config of a config.json; `grid` is the most rows and columns of patches, which it does not say."""
    text = public.get('text_config') or public
    return Vlm.Config(encoder=Patches.Config(patch=public.get('patch_size', 30), grid=grid), decoder=decoder(text))


def decoder(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a Persimmon decoder."""
    scale = Norm.Config(eps=public.get('layer_norm_eps', 1e-5))
    block = Block.Config(
        attn=Attention.Config(
            heads=public.get('num_attention_heads', 64),
            q_bias=True,
            k_bias=True,
            v_bias=True,
            o_bias=True,
            qk_norm=scale if public.get('qk_layernorm', True) else None,
        ),
        mlp=Mlp.Config(width=public.get('intermediate_size', 16384), act=activation(public.get('hidden_act', 'relu2'))),
        norm=scale,
    )
    return Decoder.Config(
        vocab=public.get('vocab_size', 262144),
        width=public.get('hidden_size', 4096),
        depth=public.get('num_hidden_layers', 36),
        block=block,
        norm=scale,
        position=rotary({'rope_theta': 25000.0, 'partial_rotary_factor': 0.5, **public}),
        tied=public.get('tie_word_embeddings', False),
    )


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    # Public patches are (row, column, channel), as ours, so the map is an ordinary Linear.
    patches = Table(tuple(linear('encoder/patch', 'vision_embed_tokens', bias=c.encoder.bias)))
    return patches + decoder_table(c.decoder).under('decoder/', 'language_model.')


def decoder_table(c: Decoder.Config) -> Table:
    """Returns the names of a Persimmon decoder."""
    layers, key, heads = range(c.depth), 'model.layers.{layer}', c.block.attn.heads
    fused, parts = f'{key}.self_attn.query_key_value', ('q', 'k', 'v')
    kernels, biases = (tuple(f'blocks/attn/{p}/{kind}' for p in parts) for kind in ('kernel', 'bias'))
    qk_norm = []
    if c.block.attn.qk_norm:
        qk_norm = [
            *norm('blocks/attn/q_norm', f'{key}.self_attn.q_layernorm', layers=layers),
            *norm('blocks/attn/k_norm', f'{key}.self_attn.k_layernorm', layers=layers),
        ]
    entries = (
        *words('embed/table', 'model.embed_tokens', (c.vocab,)),
        *norm('blocks/attn_norm', f'{key}.input_layernorm', layers=layers),
        Entry(kernels, f'{fused}.weight', JoinedByHead(heads, Matrix()), layers),
        Entry(biases, f'{fused}.bias', JoinedByHead(heads, Vector()), layers),
        *qk_norm,
        *linear('blocks/attn/o', f'{key}.self_attn.dense', inputs=2, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.post_attention_layernorm', layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.dense_h_to_4h', layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.dense_4h_to_h', layers=layers),
        *norm('norm', 'model.final_layernorm'),
        *([] if c.tied else words('head/kernel', 'lm_head', (c.vocab,), transposed=True)),
    )
    return Table(entries, ((r'.*rotary_emb\.inv_freq', 'computed from the config'),))
