# SPDX-License-Identifier: Apache-2.0
"""The layouts of BLIP: a captioner, a pair of towers with a verdict on pictures and texts, a reader of questions.

Their vision tower is also that of BLIP-2 and InstructBLIP.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.models.fusion import CrossAttention
from mmjax.models.pair import Pair
from mmjax.models.reader import Reader
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import bert
from mmjax.weights.clip import MEAN, STD
from mmjax.weights.parts import activation, linear, norm
from mmjax.weights.rules import Joined, Matrix, Patch, Vector
from mmjax.weights.table import Entry, Table

# What the public class takes where a config.json of the text model says nothing; the checkpoints themselves say 12.
_HEADS, _VOCAB = 8, 30524


def vision(public: Mapping[str, Any], *, eps: float = 1e-5, **ours: Any) -> Vit.Config:
    """Returns our config of the vision tower; `eps` and `ours` set what a config.json leaves out or does not say."""
    scale, heads = Norm.Config(eps=public.get('layer_norm_eps', eps)), public.get('num_attention_heads', 12)
    qkv = public.get('qkv_bias', True)
    return Vit.Config(
        size=(public.get('image_size', 384),) * 2,
        patch=public.get('patch_size', 16),
        width=public.get('hidden_size', 768),
        depth=public.get('num_hidden_layers', 12),
        block=Block.Config(
            attn=Attention.Config(heads=heads, q_bias=qkv, k_bias=qkv, v_bias=qkv, o_bias=True),
            mlp=Mlp.Config(
                width=public.get('intermediate_size', 3072), act=activation(public.get('hidden_act', 'gelu'))
            ),
            norm=scale,
        ),
        norm=scale,
        cls=True,
        keep_cls=True,
        **{'mean': MEAN, 'std': STD, **ours},
    )


def vision_table(c: Vit.Config) -> Table:
    """Returns the names of the vision tower."""
    layers, key, parts = range(c.depth), 'encoder.layers.{layer}', ('q', 'k', 'v')
    bias = [Entry(tuple(f'blocks/attn/{p}/bias' for p in parts), f'{key}.self_attn.qkv.bias', Joined(Vector()), layers)]
    kernels = tuple(f'blocks/attn/{p}/kernel' for p in parts)
    entries = (
        Entry('cls', 'embeddings.class_embedding', Vector((1, 1, -1))),
        Entry('patch/kernel', 'embeddings.patch_embedding.weight', Patch()),
        Entry('patch/bias', 'embeddings.patch_embedding.bias'),
        Entry('position/table', 'embeddings.position_embedding', Vector((1, -1, c.width))),
        *norm('blocks/attn_norm', f'{key}.layer_norm1', layers=layers),
        Entry(kernels, f'{key}.self_attn.qkv.weight', Joined(Matrix()), layers),
        *(bias if c.block.attn.q_bias else []),
        *linear('blocks/attn/o', f'{key}.self_attn.projection', inputs=2, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.layer_norm2', layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.fc1', layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.fc2', layers=layers),
        *norm('norm', 'post_layernorm'),
    )
    return Table(entries)


def _text(public: Mapping[str, Any], head: bool) -> Any:
    return bert.config(public, head=head, heads=_HEADS, vocab=_VOCAB)


def captioner(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a BlipForConditionalGeneration."""
    text = public['text_config']
    return Vlm.Config(
        encoder=vision(public['vision_config']),
        fusion=CrossAttention.Config(block=bert.cross(text, _HEADS), every=1),
        decoder=_text(text, head=True),
    )


def captioner_table(c: Vlm.Config) -> Table:
    """Returns the names of a BlipForConditionalGeneration."""
    return vision_table(c.encoder).under('encoder/', 'vision_model.') + bert.table(
        c.decoder, crossed=True, body='bert.'
    ).under('decoder/', 'text_decoder.')


def retriever(public: Mapping[str, Any]) -> Pair.Config:
    """Returns our config of a BlipForImageTextRetrieval."""
    text = public['text_config']
    return Pair.Config(
        vision=vision(public['vision_config']),
        text=_text(text, head=False),
        cross=bert.cross(text, _HEADS),
        width=public.get('image_text_hidden_size', 256),
        project_image=True,
        image_bias=True,
        text_bias=True,
        pool='start',
        init_scale=None,
    )


def retriever_table(c: Pair.Config) -> Table:
    """Returns the names of a BlipForImageTextRetrieval."""
    heads = (
        *linear('image_projection', 'vision_proj'),
        *linear('text_projection', 'text_proj'),
        *linear('verdict', 'itm_head'),
    )
    return (
        vision_table(c.vision).under('vision/', 'vision_model.')
        + bert.table(c.text, crossed=True).under('text/', 'text_encoder.')
        + Table(heads)
    )


def answerer(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a BlipForQuestionAnswering: answers look at a question that has looked at the picture."""
    text = public['text_config']
    c = captioner(public)
    c.connector = Reader.Config(text=_text(text, head=False), cross=bert.cross(text, _HEADS))
    return c


def answerer_table(c: Vlm.Config) -> Table:
    """Returns the names of a BlipForQuestionAnswering."""
    reader = bert.table(c.connector.text, crossed=True).under('connector/text/', 'text_encoder.')
    return captioner_table(c) + reader
