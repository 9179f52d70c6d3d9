# SPDX-License-Identifier: Apache-2.0
"""The layout of Kosmos2_5ForConditionalGeneration: a Pix2Struct tower, the pool and the text model of KOSMOS-2."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmjax.models.budget import BudgetVit
from mmjax.models.decoder import Decoder
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import kosmos2
from mmjax.weights.parts import activation, attention, linear, norm
from mmjax.weights.rules import Same
from mmjax.weights.table import Entry, Table

TEXT = dict(vocab_size=108_481, embed_dim=1536, layers=24, attention_heads=16, ffn_dim=6144)


def config(public: Mapping[str, Any], *, grid: tuple[int, int] = (128, 128), budget: int | None = None) -> Vlm.Config:
    """Returns our config of a config.json.

    It does not say the most rows and columns of patches, `grid`; `budget`: the most patches, as many as the tower has
    places if None, which is what the published preprocessor cuts.
    """
    text = decoder(public['text_config'])
    return Vlm.Config(
        encoder=vision(public['vision_config'], grid, budget),
        # The published tower's padding was seen in training, and goes on to be.
        connector=kosmos2.pool(text, public.get('latent_query_num', 2048), padding=True),
        decoder=text,
        signs=1,
    )


def decoder(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a text model: KOSMOS-2's without a norm inside of attention, with segments."""
    plain = kosmos2.decoder({**TEXT, **public})
    attn = dataclasses.replace(plain.block.attn, inner_norm=None)
    return dataclasses.replace(plain, block=dataclasses.replace(plain.block, attn=attn), kinds=2)


def vision(public: Mapping[str, Any], grid: tuple[int, int], budget: int | None) -> BudgetVit.Config:
    """Returns our config of a tower."""
    scale = Norm.Config(kind='rms', eps=public.get('layer_norm_eps', 1e-6))
    act, places = activation(public.get('dense_act_fn', 'gelu_new')), public.get('max_num_patches', 4096)
    return BudgetVit.Config(
        width=public.get('hidden_size', 1536),
        depth=public.get('num_hidden_layers', 18),
        block=Block.Config(
            attn=Attention.Config(heads=public.get('num_attention_heads', 24), head_width=public.get('head_dim', 64)),
            mlp=Mlp.Config(width=public.get('intermediate_size', 3968), act=act, gated=True, bias=False),
            norm=scale,
        ),
        patch=math.isqrt(public.get('patch_embed_hidden_size', 768) // 3),
        grid=grid,
        budget=budget or places,
        places=places,
        norm=scale,
    )


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    segments = Entry('kinds', 'model.segment_emb.weight', Same())
    return (
        vision_table(c.encoder).under('encoder/', 'vision_model.')
        + kosmos2.pool_table().under('connector/', 'image_to_text_projection.')
        + (kosmos2.decoder_table(c.decoder) + Table((segments,))).under('decoder/', 'text_model.')
    )


def vision_table(c: BudgetVit.Config) -> Table:
    """Returns the names of a tower."""
    layers, key = range(c.depth), 'encoder.layer.{layer}'
    names = ('query', 'key', 'value', 'output')
    return Table(
        (
            *linear('patch', 'embeddings.patch_projection'),
            Entry('row/table', 'embeddings.row_embedder.weight', Same()),
            Entry('column/table', 'embeddings.column_embedder.weight', Same()),
            *norm('blocks/attn_norm', f'{key}.pre_attention_layer_norm', bias=False, layers=layers),
            *attention('blocks/attn', f'{key}.attention', names=names, layers=layers),
            *norm('blocks/mlp_norm', f'{key}.pre_mlp_layer_norm', bias=False, layers=layers),
            *linear('blocks/mlp/gate', f'{key}.mlp.wi_0', bias=False, layers=layers),
            *linear('blocks/mlp/up', f'{key}.mlp.wi_1', bias=False, layers=layers),
            *linear('blocks/mlp/down', f'{key}.mlp.wo', bias=False, layers=layers),
            *norm('norm', 'layernorm', bias=False),
        )
    )
