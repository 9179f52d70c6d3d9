# SPDX-License-Identifier: Apache-2.0
"""The layout of OPTForCausalLM."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.weights.parts import activation, attention, linear, norm, words
from mmjax.weights.rules import Same
from mmjax.weights.table import Entry, Table

OFFSET = 2  # the first rows of the position table, which no token reads


def config(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a config.json."""
    width, bias = public.get('hidden_size', 768), public.get('enable_bias', True)
    if not public.get('do_layer_norm_before', True) or public.get('word_embed_proj_dim', width) != width:
        raise ValueError(
            f'do_layer_norm_before={public.get("do_layer_norm_before", True)} and word_embed_proj_dim='
            f'{public.get("word_embed_proj_dim", width)} for a width of {width} (OPT-350M) are not implemented'
        )
    scale = Norm.Config(eps=1e-5)
    block = Block.Config(
        attn=Attention.Config(
            heads=public.get('num_attention_heads', 12), q_bias=bias, k_bias=bias, v_bias=bias, o_bias=bias
        ),
        mlp=Mlp.Config(
            width=public.get('ffn_dim', 3072), act=activation(public.get('activation_function', 'relu')), bias=bias
        ),
        norm=scale,
    )
    return Decoder.Config(
        vocab=public.get('vocab_size', 50272),
        width=width,
        depth=public.get('num_hidden_layers', 12),
        block=block,
        norm=None if public.get('_remove_final_layer_norm') else scale,
        position=Learned.Config(length=public.get('max_position_embeddings', 2048) + OFFSET, offset=OFFSET),
        tied=public.get('tie_word_embeddings', True),
    )


def table(c: Decoder.Config, body: str = 'model.decoder.', head: str = 'lm_head') -> Table:
    """Returns the names of a decoder; `body` and `head` begin the public ones."""
    layers, key, bias = range(c.depth), f'{body}layers.{{layer}}', c.block.mlp.bias
    names = ('q_proj', 'k_proj', 'v_proj', 'out_proj')
    entries = (
        *words('embed/table', f'{body}embed_tokens', (c.vocab,)),
        Entry('position/table', f'{body}embed_positions.weight', Same()),
        *norm('blocks/attn_norm', f'{key}.self_attn_layer_norm', layers=layers),
        *attention('blocks/attn', f'{key}.self_attn', names=names, bias=bias, out_bias=bias, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.final_layer_norm', layers=layers),
        *linear('blocks/mlp/up', f'{key}.fc1', bias=bias, layers=layers),
        *linear('blocks/mlp/down', f'{key}.fc2', bias=bias, layers=layers),
        *(norm('norm', f'{body}final_layer_norm') if c.norm else []),
        *([] if c.tied else words('head/kernel', head, (c.vocab,), transposed=True)),
    )
    return Table(entries, ((rf'{head}\.weight', 'the head is the embedding table'),) if c.tied else ())
