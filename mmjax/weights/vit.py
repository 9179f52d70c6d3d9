# SPDX-License-Identifier: Apache-2.0
"""The layouts of transformers' plain Vision Transformers: the masked autoencoder ViTMAEForPreTraining."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.mae import Mae
from mmjax.models.vision import Vit
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights.parts import activation, linear, norm
from mmjax.weights.rules import Patch, Vector
from mmjax.weights.table import Entry, Table

# Of ImageNet's pixels in 0..1, by which all of these towers were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def mae(public: Mapping[str, Any]) -> Mae.Config:
    """Returns our config of a ViTMAEForPreTraining."""
    eps = public.get('layer_norm_eps', 1e-12)
    return Mae.Config(
        encoder=tower(public, sincos=True),
        width=public.get('decoder_hidden_size', 512),
        depth=public.get('decoder_num_hidden_layers', 8),
        block=block(
            public,
            heads=public.get('decoder_num_attention_heads', 16),
            mlp=public.get('decoder_intermediate_size', 2048),
            bias=public.get('qkv_bias', True),
        ),
        norm=Norm.Config(eps=eps),
    )


def mae_table(c: Mae.Config) -> Table:
    """Returns the names of a ViTMAEForPreTraining."""
    places = c.encoder.grid[0] * c.encoder.grid[1] + 1
    bias = c.block.attn.k_bias
    entries = (
        *linear('enter', 'decoder.decoder_embed'),
        Entry('mask', 'decoder.mask_token', Vector((1, 1, -1))),
        Entry('position/table', 'decoder.decoder_pos_embed', Vector((1, places, -1))),
        *blocks('blocks', 'decoder.decoder_encoder.layer', c.depth, bias=bias, k_bias=bias),
        *norm('norm', 'decoder.decoder_norm'),
        *linear('paint', 'decoder.decoder_pred'),
    )
    entry, rest = embeddings(c.encoder), blocks('blocks', 'encoder.layer', c.encoder.depth, bias=bias, k_bias=bias)
    table = Table((*entry, *rest, *norm('norm', 'layernorm')))
    return table.under('encoder/', 'vit.') + Table(entries)


def tower(public: Mapping[str, Any], **ours: Any) -> Vit.Config:
    """Returns our config of a tower; `ours` sets what a config.json does not say."""
    bias = public.get('qkv_bias', True)
    size = public.get('image_size', 224)
    return Vit.Config(
        size=(size, size),
        patch=public.get('patch_size', 16),
        width=public.get('hidden_size', 768),
        depth=public.get('num_hidden_layers', 12),
        norm=Norm.Config(eps=public.get('layer_norm_eps', 1e-12)),
        cls=True,
        **{
            'block': block(
                public,
                heads=public.get('num_attention_heads', 12),
                mlp=public.get('intermediate_size', 3072),
                bias=bias,
            ),
            'mean': MEAN,
            'std': STD,
            **ours,
        },
    )


def block(public: Mapping[str, Any], *, heads: int, mlp: int, bias: bool, k_bias: bool = True) -> Block.Config:
    """Returns our config of a block."""
    return Block.Config(
        attn=Attention.Config(heads=heads, q_bias=bias, k_bias=bias and k_bias, v_bias=bias, o_bias=True),
        mlp=Mlp.Config(width=mlp, act=activation(public.get('hidden_act', 'gelu'))),
        norm=Norm.Config(eps=public.get('layer_norm_eps', 1e-12)),
    )


def embeddings(c: Vit.Config) -> list[Entry]:
    """Names what enters the first block."""
    places = c.grid[0] * c.grid[1] + c.cls
    return [
        Entry('cls', 'embeddings.cls_token', Vector((1, 1, -1))),
        Entry('patch/kernel', 'embeddings.patch_embeddings.projection.weight', Patch()),
        Entry('patch/bias', 'embeddings.patch_embeddings.projection.bias'),
        Entry('position/table', 'embeddings.position_embeddings', Vector((1, places, -1))),
    ]


def blocks(ours: str, public: str, depth: int, *, bias: bool = True, k_bias: bool = True) -> list[Entry]:
    """Names the Transformer blocks of these towers."""
    layers, key = range(depth), f'{public}.{{layer}}'
    inner = f'{key}.attention.attention'
    return [
        *norm(f'{ours}/attn_norm', f'{key}.layernorm_before', layers=layers),
        *linear(f'{ours}/attn/q', f'{inner}.query', bias=bias, layers=layers),
        *linear(f'{ours}/attn/k', f'{inner}.key', bias=k_bias, layers=layers),
        *linear(f'{ours}/attn/v', f'{inner}.value', bias=bias, layers=layers),
        *linear(f'{ours}/attn/o', f'{key}.attention.output.dense', inputs=2, layers=layers),
        *norm(f'{ours}/mlp_norm', f'{key}.layernorm_after', layers=layers),
        *linear(f'{ours}/mlp/up', f'{key}.intermediate.dense', layers=layers),
        *linear(f'{ours}/mlp/down', f'{key}.output.dense', layers=layers),
    ]
