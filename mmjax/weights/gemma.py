# SPDX-License-Identifier: Apache-2.0
"""The layouts of GemmaForCausalLM, Gemma2ForCausalLM and Gemma3ForCausalLM."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.trunk import Local
from mmjax.nn.layers import Norm
from mmjax.nn.positions import Rotary
from mmjax.weights import llama
from mmjax.weights.parts import norm, rotary
from mmjax.weights.table import Table

# What the public classes take where a config.json says nothing.
GEMMA = dict(
    vocab_size=256_000,
    hidden_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    intermediate_size=24576,
    head_dim=256,
    tie_word_embeddings=True,
)
GEMMA2 = {
    **GEMMA,
    'hidden_size': 2304,
    'num_hidden_layers': 26,
    'num_attention_heads': 8,
    'num_key_value_heads': 4,
    'intermediate_size': 9216,
    'sliding_window': 4096,
    'query_pre_attn_scalar': 256,
}
CAPS = dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)


def gemma(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of the first Gemma's config.json."""
    public = {**GEMMA, **public}
    # Old files name another activation, which was never used.
    act = public.get('hidden_activation') or 'gelu_pytorch_tanh'
    c = llama.config({**public, 'hidden_act': act})
    scale = dataclasses.replace(c.norm, offset=1.0)
    block = dataclasses.replace(c.block, norm=scale)
    return dataclasses.replace(c, block=block, norm=scale, embed_scale=math.sqrt(c.width))


def gemma2(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of Gemma 2's config.json: norms on both sides of branches, windows, caps."""
    public = {**GEMMA2, **CAPS, **public}
    return _later(public, gemma(public), local=_local(public, every=2), qk_norm=None)


def gemma3(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of Gemma 3's config.json: like Gemma 2's, with norms of queries and keys instead of caps.

    Layers with a window turn by rotary positions of their own.
    """
    public = {**GEMMA2, 'vocab_size': 262_208, **public}
    far, near = _rotaries(public)
    c = gemma({key: value for key, value in public.items() if not key.startswith('rope_')})
    local = _local(public, every=public.get('sliding_window_pattern', 6), position=near)
    return dataclasses.replace(_later(public, c, local=local, qk_norm=c.norm), position=far)


def table(c: Decoder.Config, body: str = 'model.', head: str = 'lm_head') -> Table:
    """Returns the names of a decoder; `body` and `head` begin the public ones."""
    names, layers, key = llama.table(c, body, head), range(c.depth), f'{body}layers.{{layer}}'
    if not c.block.post_norm:
        return names
    # What LLaMA calls the norm after attention, which is the MLP's, here is one.
    norms = {
        'mlp_norm': 'pre_feedforward_layernorm',
        'attn_post_norm': 'post_attention_layernorm',
        'mlp_post_norm': 'post_feedforward_layernorm',
    }
    kept = tuple(entry for entry in names.entries if entry.ours != 'blocks/mlp_norm/scale')
    own = (norm(f'blocks/{ours}', f'{key}.{public}', bias=False, layers=layers) for ours, public in norms.items())
    return Table((*kept, *(entry for entries in own for entry in entries)), names.ignored)


def _later(
    public: Mapping[str, Any], c: Decoder.Config, *, local: Local.Config | None, qk_norm: Norm.Config | None
) -> Decoder.Config:
    """Returns the first Gemma's config with what both later ones changed."""
    attn = dataclasses.replace(
        c.block.attn,
        scale=public['query_pre_attn_scalar'] ** -0.5,
        soft_cap=public.get('attn_logit_softcapping'),
        qk_norm=qk_norm,
    )
    block = dataclasses.replace(c.block, attn=attn, post_norm=c.norm)
    return dataclasses.replace(c, block=block, local=local, logit_cap=public.get('final_logit_softcapping'))


def _local(public: Mapping[str, Any], *, every: int, position: Rotary.Config | None = None) -> Local.Config | None:
    """Returns which layers have a window: those that `layer_types` names, or all but each `every`-th."""
    depth = public['num_hidden_layers']
    kind = lambda i, every: 'sliding_attention' if (i + 1) % every else 'full_attention'
    kinds = public.get('layer_types') or [kind(i, every) for i in range(depth)]
    every = kinds.index('full_attention') + 1 if 'full_attention' in kinds else depth + 1
    if kinds != [kind(i, every) for i in range(depth)]:
        raise ValueError(f'layer_types: only windows in all layers but each n-th are implemented, not {kinds}')
    return Local.Config(window=public['sliding_window'], every=every, position=position) if every > 1 else None


def _rotaries(public: Mapping[str, Any]) -> tuple[Rotary.Config, Rotary.Config]:
    """Returns the positions of layers without and with a window, in the old spelling or in the new one."""
    if rope := public.get('rope_parameters'):
        far, near = (rotary({'rope_parameters': rope[kind]}) for kind in ('full_attention', 'sliding_attention'))
        return far, near
    far = rotary({'rope_theta': 1e6, **public})
    return far, Rotary.Config(theta=public.get('rope_local_base_freq', 10_000.0))
