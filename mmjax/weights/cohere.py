# SPDX-License-Identifier: Apache-2.0
"""The layout of CohereForCausalLM, whose block is PaLM's: attention and MLP side by side."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights.parts import activation, attention, linear, norm, rotary, words
from mmjax.weights.table import Table


def config(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a config.json."""
    if public.get('use_qk_norm'):
        raise ValueError('use_qk_norm: norms with a scale for each head are not implemented')
    heads, bias = public.get('num_attention_heads', 64), public.get('attention_bias', False)
    scale = Norm.Config(eps=public.get('layer_norm_eps', 1e-5), bias=False)
    block = Block.Config(
        attn=Attention.Config(
            heads=heads,
            kv_heads=public.get('num_key_value_heads') or heads,
            q_bias=bias,
            k_bias=bias,
            v_bias=bias,
            o_bias=bias,
        ),
        mlp=Mlp.Config(
            width=public.get('intermediate_size', 22528),
            act=activation(public.get('hidden_act', 'silu')),
            gated=True,
            bias=False,
        ),
        norm=scale,
        parallel=True,
    )
    return Decoder.Config(
        vocab=public.get('vocab_size', 256000),
        width=public.get('hidden_size', 8192),
        depth=public.get('num_hidden_layers', 40),
        block=block,
        norm=scale,
        position=rotary(public, interleaved=True),
        tied=public.get('tie_word_embeddings', True),
        logit_scale=public.get('logit_scale', 0.0625),
    )


def table(c: Decoder.Config) -> Table:
    """Returns the names of a checkpoint."""
    layers, key, bias = range(c.depth), 'model.layers.{layer}', c.block.attn.q_bias
    entries = (
        *words('embed/table', 'model.embed_tokens', (c.vocab,)),
        *norm('blocks/attn_norm', f'{key}.input_layernorm', bias=False, layers=layers),
        *attention('blocks/attn', f'{key}.self_attn', bias=bias, out_bias=bias, layers=layers),
        *linear('blocks/mlp/gate', f'{key}.mlp.gate_proj', bias=False, layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.up_proj', bias=False, layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.down_proj', bias=False, layers=layers),
        *norm('norm', 'model.norm', bias=False),
        *([] if c.tied else words('head/kernel', 'lm_head', (c.vocab,), transposed=True)),
    )
    tied = ((r'lm_head\.weight', 'the head is the embedding table'),) if c.tied else ()
    return Table(entries, ((r'.*rotary_emb\.inv_freq', 'computed from the config'), *tied))
