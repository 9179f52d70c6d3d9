# SPDX-License-Identifier: Apache-2.0
"""The layouts of CLIPModel and SiglipModel: a vision tower, a text tower, and what compares them."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.pair import Pair
from mmjax.models.vision import Pool, Vit
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.weights.parts import activation, attention, fused_attention, linear, norm, words
from mmjax.weights.rules import Patch, Same, Vector
from mmjax.weights.table import Entry, Table

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# An openai/* config.json says that eos is 2, which it is not: those towers pool at the largest id instead.
WRONG_EOS = 2


def vision(public: Mapping[str, Any], **ours: Any) -> Vit.Config:
    """Returns our config of a CLIP vision tower; `ours` sets what a config.json does not say."""
    return Vit.Config(
        size=(public.get('image_size', 224),) * 2,
        patch=public.get('patch_size', 32),
        width=_width(public, 768),
        depth=public.get('num_hidden_layers', 12),
        block=_block(public, width=3072, heads=12, act='quick_gelu', eps=1e-5),
        patch_bias=False,
        cls=True,
        pre_norm=_norm(public, 1e-5),
        norm=_norm(public, 1e-5),
        **{'mean': MEAN, 'std': STD, **ours},
    )


def vision_table(c: Vit.Config) -> Table:
    """Returns the names of a CLIP vision tower."""
    entries = [
        Entry('cls', 'embeddings.class_embedding'),
        *_patches(c),
        *norm('pre_norm', 'pre_layrnorm'),
        *blocks('blocks', 'encoder.layers', c.depth),
        *norm('norm', 'post_layernorm'),
    ]
    return Table(tuple(entries), ((r'embeddings\.position_ids', 'counts up from 0'),))


def clip(public: Mapping[str, Any]) -> Pair.Config:
    """Returns our config of a CLIPModel."""
    text = public['text_config']
    return Pair.Config(
        vision=vision(public['vision_config']),
        text=_text(text, vocab=49408, width=512, mlp=2048, heads=8, length=77, act='quick_gelu', eps=1e-5),
        width=public.get('projection_dim', 512),
        project_image=True,
        causal=True,
        pool='largest' if text.get('eos_token_id', 49407) == WRONG_EOS else 'first',
        pool_id=text.get('eos_token_id', 49407),
    )


def clip_table(c: Pair.Config) -> Table:
    """Returns the names of a CLIPModel."""
    entries = (
        *linear('image_projection', 'visual_projection', bias=False),
        *linear('text_projection', 'text_projection', bias=False),
        Entry('scale', 'logit_scale', Vector(())),
    )
    return _text_table(c.text) + vision_table(c.vision).under('vision/', 'vision_model.') + Table(entries)


def siglip_vision(public: Mapping[str, Any], **ours: Any) -> Vit.Config:
    """Returns our config of a SigLIP vision tower, its attention pool included where it has one."""
    # So400m has patches of 14 in pictures of 384 pixels; the last six are never read.
    side, patch = public.get('image_size', 224), public.get('patch_size', 16)
    block = _block(public, width=3072, heads=12, act='gelu_pytorch_tanh', eps=1e-6)
    pool = Pool.Config(attn=block.attn, mlp=block.mlp, norm=block.norm)
    return Vit.Config(
        size=(side - side % patch,) * 2,
        patch=patch,
        width=_width(public, 768),
        depth=public.get('num_hidden_layers', 12),
        block=block,
        norm=_norm(public, 1e-6),
        pool=pool if public.get('vision_use_head', True) else None,
        **ours,
    )


def siglip_vision_table(c: Vit.Config) -> Table:
    """Returns the names of a SigLIP vision tower."""
    entries = [
        *_patches(c),
        *blocks('blocks', 'encoder.layers', c.depth),
        *norm('norm', 'post_layernorm'),
    ]
    if c.pool:
        entries += [
            Entry('pool/probe', 'head.probe', Vector((1, 1, -1))),
            *fused_attention('pool/attn', 'head.attention'),
            *norm('pool/norm', 'head.layernorm'),
            *linear('pool/mlp/up', 'head.mlp.fc1'),
            *linear('pool/mlp/down', 'head.mlp.fc2'),
        ]
    return Table(tuple(entries), ((r'embeddings\.position_ids', 'counts up from 0'),))


def siglip(public: Mapping[str, Any]) -> Pair.Config:
    """Returns our config of a SiglipModel."""
    text = public['text_config']
    return Pair.Config(
        vision=siglip_vision(public['vision_config']),
        text=_text(text, vocab=32000, width=768, mlp=3072, heads=12, length=64, act='gelu_pytorch_tanh', eps=1e-6),
        width=text.get('projection_size') or _width(text, 768),
        text_bias=True,
        pool='last',
        logit_bias=True,
    )


def siglip_table(c: Pair.Config) -> Table:
    """Returns the names of a SiglipModel."""
    entries = (
        *linear('text_projection', 'text_model.head'),
        Entry('scale', 'logit_scale', Vector((1,))),
        Entry('bias', 'logit_bias', Vector((1,))),
    )
    return _text_table(c.text) + siglip_vision_table(c.vision).under('vision/', 'vision_model.') + Table(entries)


def blocks(ours: str, public: str, depth: int) -> list[Entry]:
    """Names the Transformer blocks of these towers."""
    layers, key = range(depth), f'{public}.{{layer}}'
    names = ('q_proj', 'k_proj', 'v_proj', 'out_proj')
    return [
        *norm(f'{ours}/attn_norm', f'{key}.layer_norm1', layers=layers),
        *attention(f'{ours}/attn', f'{key}.self_attn', names=names, bias=True, out_bias=True, layers=layers),
        *norm(f'{ours}/mlp_norm', f'{key}.layer_norm2', layers=layers),
        *linear(f'{ours}/mlp/up', f'{key}.mlp.fc1', layers=layers),
        *linear(f'{ours}/mlp/down', f'{key}.mlp.fc2', layers=layers),
    ]


def _patches(c: Vit.Config) -> list[Entry]:
    bias = [Entry('patch/bias', 'embeddings.patch_embedding.bias')] if c.patch_bias else []
    return [
        Entry('patch/kernel', 'embeddings.patch_embedding.weight', Patch()),
        *bias,
        Entry('position/table', 'embeddings.position_embedding.weight', Same()),
    ]


def _text(public: Mapping[str, Any], *, vocab, width, mlp, heads, length, act, eps) -> Decoder.Config:
    return Decoder.Config(
        vocab=public.get('vocab_size', vocab),
        width=_width(public, width),
        depth=public.get('num_hidden_layers', 12),
        block=_block(public, width=mlp, heads=heads, act=act, eps=eps),
        norm=_norm(public, eps),
        position=Learned.Config(length=public.get('max_position_embeddings', length)),
        tied=True,  # it writes nothing, so it needs no head of its own
    )


def _text_table(c: Decoder.Config) -> Table:
    entries = (
        *words('embed/table', 'embeddings.token_embedding', (c.vocab,)),
        Entry('position/table', 'embeddings.position_embedding.weight', Same()),
        *blocks('blocks', 'encoder.layers', c.depth),
        *norm('norm', 'final_layer_norm'),
    )
    return Table(entries, ((r'embeddings\.position_ids', 'counts up from 0'),)).under('text/', 'text_model.')


def _width(public: Mapping[str, Any], default: int) -> int:
    return public.get('hidden_size') or public.get('embed_dim') or default


def _norm(public: Mapping[str, Any], eps: float) -> Norm.Config:
    return Norm.Config(eps=public.get('layer_norm_eps', eps))


def _block(public: Mapping[str, Any], *, width: int, heads: int, act: str, eps: float) -> Block.Config:
    return Block.Config(
        attn=Attention.Config(
            heads=public.get('num_attention_heads', heads), q_bias=True, k_bias=True, v_bias=True, o_bias=True
        ),
        mlp=Mlp.Config(width=public.get('intermediate_size', width), act=activation(public.get('hidden_act', act))),
        norm=_norm(public, eps),
    )
