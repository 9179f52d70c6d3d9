# SPDX-License-Identifier: Apache-2.0
"""The layouts of transformers' plain Vision Transformers: ViTMAEForPreTraining and Data2VecVision, a BEiT."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.classifier import Classifier
from mmjax.models.mae import Mae
from mmjax.models.vision import Vit
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights.parts import activation, linear, norm
from mmjax.weights.rules import Patch, Same, Vector
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


def data2vec(public: Mapping[str, Any]) -> Vit.Config:
    """Returns our config of a Data2VecVisionModel; its norm, of the mean, is there only where something is pooled."""
    shared = public.get('use_shared_relative_position_bias', False)
    own = public.get('use_relative_position_bias', False)
    plain = block(
        public,
        heads=public.get('num_attention_heads', 12),
        mlp=public.get('intermediate_size', 3072),
        bias=True,
        k_bias=False,
    )
    plain.layer_scale = public.get('layer_scale_init_value', 0.1) or None
    return tower(
        public,
        block=plain,
        table=public.get('use_absolute_position_embeddings', False),
        relative='shared' if shared else 'own' if own else '',
        mask=public.get('use_mask_token', False),
        pool_mean=public.get('use_mean_pooling', True),
    )


def data2vec_table(c: Vit.Config) -> Table:
    """Returns the names of a Data2VecVisionModel."""
    where, layers = 'relative_position_bias.relative_position_bias_table', range(c.depth)
    entries = [*embeddings(c), *blocks('blocks', 'encoder.layer', c.depth, k_bias=False)]
    if c.relative == 'own':
        entries.append(Entry('relative/table', f'encoder.layer.{{layer}}.attention.attention.{where}', Same(), layers))
    elif c.relative:
        entries.append(Entry('relative/table', f'encoder.{where}', Same()))
    if c.block.layer_scale:
        for ours, public in (('attn_scale', 'lambda_1'), ('mlp_scale', 'lambda_2')):
            entries.append(Entry(f'blocks/{ours}', f'encoder.layer.{{layer}}.{public}', Vector(), layers))
    if c.norm:
        entries += norm('norm', 'pooler.layernorm' if c.pool_mean else 'layernorm')
    return Table(tuple(entries), ((r'.*relative_position_index', 'follows from the grid'),))


def data2vec_classifier(public: Mapping[str, Any]) -> Classifier.Config:
    """Returns our config of a Data2VecVisionForImageClassification."""
    return Classifier.Config(encoder=data2vec(public), classes=len(public['id2label']))


def data2vec_classifier_table(c: Classifier.Config) -> Table:
    """Returns the names of a Data2VecVisionForImageClassification."""
    head = Table(tuple(linear('head', 'classifier')))
    return data2vec_table(c.encoder).under('encoder/', 'data2vec_vision.') + head


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
    table = [Entry('position/table', 'embeddings.position_embeddings', Vector((1, places, -1)))] if c.table else []
    mask = [Entry('mask', 'embeddings.mask_token', Vector((1, 1, -1)))] if c.mask else []
    return [
        Entry('cls', 'embeddings.cls_token', Vector((1, 1, -1))),
        Entry('patch/kernel', 'embeddings.patch_embeddings.projection.weight', Patch()),
        Entry('patch/bias', 'embeddings.patch_embeddings.projection.bias'),
        *table,
        *mask,
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
