# SPDX-License-Identifier: Apache-2.0
"""The layout of Kosmos2ForConditionalGeneration."""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.models.connector import AttentionPool
from mmjax.models.decoder import Decoder
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Sinusoidal
from mmjax.weights import clip
from mmjax.weights.parts import activation, attention, linear, norm, words
from mmjax.weights.rules import Same
from mmjax.weights.table import Entry, Table

_OUT = ('q_proj', 'k_proj', 'v_proj', 'out_proj')


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json."""
    text = decoder(public['text_config'])
    return Vlm.Config(
        encoder=clip.vision(public['vision_config'], keep_cls=True),
        connector=pool(text, public.get('latent_query_num', 64)),
        decoder=text,
    )


def pool(text: Decoder.Config, queries: int, **ours: Any) -> AttentionPool.Config:
    """Returns our config of the connector before a text model, which has as many heads."""
    attn = Attention.Config(heads=text.block.attn.heads, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    return AttentionPool.Config(attn=attn, queries=queries, unit=True, **ours)


def decoder(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a text model."""
    width = public.get('embed_dim', 2048)
    scale = Norm.Config(eps=public.get('layer_norm_eps', 1e-5))
    block = Block.Config(
        attn=Attention.Config(
            heads=public.get('attention_heads', 32),
            q_bias=True,
            k_bias=True,
            v_bias=True,
            o_bias=True,
            inner_norm=scale,
        ),
        mlp=Mlp.Config(
            width=public.get('ffn_dim', 8192),
            act=activation(public.get('activation_function', 'gelu')),
            inner_norm=scale,
        ),
        norm=scale,
    )
    return Decoder.Config(
        vocab=public.get('vocab_size', 65037),
        width=width,
        depth=public.get('layers', 24),
        block=block,
        norm=scale,
        # Positions count up from the padding's id + 1.
        position=Sinusoidal.Config(offset=public.get('pad_token_id', 1) + 1),
        tied=True,
        # The media that stand among the words are scaled with them.
        input_scale=math.sqrt(width) if public.get('scale_embedding', True) else 1.0,
    )


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    return (
        clip.vision_table(c.encoder).under('encoder/', 'vision_model.model.')
        + pool_table().under('connector/', 'image_to_text_projection.')
        + decoder_table(c.decoder).under('decoder/', 'text_model.')
    )


def pool_table() -> Table:
    """Returns the names of the connector."""
    return Table(
        (
            *linear('dense', 'dense'),
            Entry('latents', 'latent_query', Same()),
            *attention('attn', 'x_attn', names=_OUT, bias=True, out_bias=True),
        )
    )


def decoder_table(c: Decoder.Config) -> Table:
    """Returns the names of a text model."""
    layers, key = range(c.depth), 'model.layers.{layer}'
    inner = norm('blocks/attn/inner_norm', f'{key}.self_attn.inner_attn_ln', layers=layers)
    entries = (
        *words('embed/table', 'model.embed_tokens', (c.vocab,)),
        *norm('blocks/attn_norm', f'{key}.self_attn_layer_norm', layers=layers),
        *attention('blocks/attn', f'{key}.self_attn', names=_OUT, bias=True, out_bias=True, layers=layers),
        *(inner if c.block.attn.inner_norm else ()),
        *norm('blocks/mlp_norm', f'{key}.final_layer_norm', layers=layers),
        *linear('blocks/mlp/up', f'{key}.ffn.fc1', layers=layers),
        *norm('blocks/mlp/inner_norm', f'{key}.ffn.ffn_layernorm', layers=layers),
        *linear('blocks/mlp/down', f'{key}.ffn.fc2', layers=layers),
        *norm('norm', 'model.layer_norm'),
    )
    ignored = (
        (r'lm_head\.weight', 'the head is the embedding table'),
        (r'model\.embed_positions\.weights', 'computed from the config'),
    )
    return Table(entries, ignored)
