# SPDX-License-Identifier: Apache-2.0
"""The layouts of CogVLM (17B) and CogVLM2 (19B): LLaMA with a visual expert in every block, EVA2-CLIP-E before it."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.gated import GatedConnector
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.expert import Expert
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import llama
from mmjax.weights.clip import MEAN, STD
from mmjax.weights.parts import activation, fused, linear, norm, words
from mmjax.weights.rules import Patch, Rows, Same, Vector
from mmjax.weights.table import Entry, Table


def config(public: Mapping[str, Any]) -> Vlm.Config:
    """Returns our config of a config.json; what tells the two versions apart is that the second groups its heads."""
    second = public.get('num_multi_query_heads', public['num_attention_heads']) != public['num_attention_heads']
    text = decoder(public, second=second)
    return Vlm.Config(
        encoder=vision(public['vision_config']),
        connector=GatedConnector.Config(hidden=text.block.mlp.width, merge=2 if second else 1, ends=1),
        decoder=text,
    )


def decoder(public: Mapping[str, Any], *, second: bool) -> Decoder.Config:
    """Returns our config of the language model; `second`: of CogVLM2, whose expert has biases where it looks."""
    theta = 500_000.0 if second else 10_000.0
    kv_heads = public.get('num_multi_query_heads', public['num_attention_heads'])
    plain = llama.config({'rms_norm_eps': 1e-5, 'rope_theta': theta, 'num_key_value_heads': kv_heads, **public})
    attn = dataclasses.replace(plain.block.attn, q_bias=second, k_bias=second, v_bias=second)
    expert = Expert.Config(attn=attn, mlp=dataclasses.replace(plain.block.mlp))
    return dataclasses.replace(plain, block=dataclasses.replace(plain.block, expert=expert))


def vision(public: Mapping[str, Any]) -> Vit.Config:
    """Returns our config of an EVA2-CLIP-E tower: each branch is normed behind itself, and nothing in the end."""
    attn = Attention.Config(heads=public['num_heads'], q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    block = Block.Config(
        attn=attn,
        mlp=Mlp.Config(width=public['intermediate_size'], act=activation(public.get('hidden_act', 'gelu'))),
        norm=None,
        post_norm=Norm.Config(eps=public.get('layer_norm_eps', 1e-6)),
    )
    return Vit.Config(
        size=(public['image_size'],) * 2,
        patch=public['patch_size'],
        width=public['hidden_size'],
        depth=public['num_hidden_layers'],
        block=block,
        cls=True,
        norm=None,
        mean=MEAN,
        std=STD,
    )


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    maps = [
        *linear('linear', 'linear_proj.linear_proj', bias=False),
        *norm('norm', 'linear_proj.norm1'),
        *linear('mlp/gate', 'linear_proj.gate_proj', bias=False),
        *linear('mlp/up', 'linear_proj.dense_h_to_4h', bias=False),
        *linear('mlp/down', 'linear_proj.dense_4h_to_h', bias=False),
        Entry('ends', ('boi', 'eoi'), Rows((1, 1, -1))),
    ]
    if c.connector.merge > 1:
        maps += [Entry('fold/kernel', 'conv.weight', Patch(c.encoder.width)), Entry('fold/bias', 'conv.bias')]
    return (
        vision_table(c.encoder).under('encoder/', 'model.vision.')
        + Table(tuple(maps)).under('connector/', 'model.vision.')
        + decoder_table(c.decoder).under('decoder/', '')
    )


def vision_table(c: Vit.Config) -> Table:
    """Returns the names of the tower."""
    layers, key = range(c.depth), 'transformer.layers.{layer}'
    entries = (
        Entry('cls', 'patch_embedding.cls_embedding', Vector((1, -1))),
        Entry('position/table', 'patch_embedding.position_embedding.weight', Same()),
        Entry('patch/kernel', 'patch_embedding.proj.weight', Patch()),
        Entry('patch/bias', 'patch_embedding.proj.bias'),
        *fused('blocks/attn', f'{key}.attention.query_key_value', bias=True, layers=layers),
        *linear('blocks/attn/o', f'{key}.attention.dense', inputs=2, layers=layers),
        *norm('blocks/attn_post_norm', f'{key}.input_layernorm', layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.fc1', layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.fc2', layers=layers),
        *norm('blocks/mlp_post_norm', f'{key}.post_attention_layernorm', layers=layers),
    )
    return Table(entries)


def decoder_table(c: Decoder.Config) -> Table:
    """Returns the names of the language model and of its expert."""
    layers, key = range(c.depth), 'model.layers.{layer}'
    entries = [
        *words('embed/table', 'model.embed_tokens', (c.vocab,)),
        *norm('blocks/attn_norm', f'{key}.input_layernorm', bias=False, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.post_attention_layernorm', bias=False, layers=layers),
        *norm('norm', 'model.norm', bias=False),
        *words('head/kernel', 'lm_head', (c.vocab,), transposed=True),
    ]
    for ours, public, attn in (('', 'language', c.block.attn), ('expert/', 'vision', c.block.expert.attn)):
        look, mlp = f'{key}.self_attn.{public}_expert', f'{key}.mlp.{public}_mlp'
        entries += [
            *fused(f'blocks/{ours}attn', f'{look}_query_key_value', bias=attn.q_bias, layers=layers),
            *linear(f'blocks/{ours}attn/o', f'{look}_dense', bias=False, inputs=2, layers=layers),
            *linear(f'blocks/{ours}mlp/gate', f'{mlp}.gate_proj', bias=False, layers=layers),
            *linear(f'blocks/{ours}mlp/up', f'{mlp}.up_proj', bias=False, layers=layers),
            *linear(f'blocks/{ours}mlp/down', f'{mlp}.down_proj', bias=False, layers=layers),
        ]
    return Table(tuple(entries), ((r'.*rotary_emb\.inv_freq', 'computed from the config'),))


def from_llama(c: Decoder.Config) -> Table:
    """Returns the names of a LLaMA with which both sets of weights begin; biases of the expert are not among them."""
    plain = llama.table(c)
    both = (entry for entry in plain.entries if re.match(r'blocks/(attn|mlp)/', entry.paths[0]))
    copies = tuple(dataclasses.replace(entry, ours=entry.paths[0].replace('/', '/expert/', 1)) for entry in both)
    return Table(plain.entries + copies, plain.ignored)
