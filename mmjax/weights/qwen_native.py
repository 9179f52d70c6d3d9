# SPDX-License-Identifier: Apache-2.0
"""The layouts of Qwen2_5_VL- and Qwen3VLForConditionalGeneration: a tower for pictures of any shape, Qwen2 or Qwen3."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.decoder import Decoder
from mmjax.models.deepstack import DeepStack
from mmjax.models.native import NativeVit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights import llama, qwen
from mmjax.weights.clip import MEAN, STD
from mmjax.weights.parts import activation, fused, linear, norm
from mmjax.weights.rules import Film, Same
from mmjax.weights.table import Entry, Table

GRID = (64, 64)  # rows, columns of patches of the largest picture: a config.json does not say
# Where the parts stand: (tower, decoder's body); a checkpoint of either model may have either.
LAYOUTS = {'flat': ('visual.', 'model.'), 'nested': ('model.visual.', 'model.language_model.')}


def qwen2_5(public: Mapping[str, Any], grid: tuple[int, int] = GRID, frames: int = 1) -> Vlm.Config:
    """Returns our config of a Qwen2.5-VL's config.json; `grid` and `frames` are the most that one medium has."""
    # Old files say of the text what belongs to it beside what belongs to all.
    text, tower = public.get('text_config') or public, public['vision_config']
    scale = Norm.Config(kind='rms', eps=1e-6)
    side = tower.get('spatial_merge_size', 2)
    width = tower.get('hidden_size', 1280)
    mlp = Mlp.Config(
        width=tower.get('intermediate_size', 3420), act=activation(tower.get('hidden_act', 'silu')), gated=True
    )
    encoder = NativeVit.Config(
        **_tower(tower, grid, width, 32, 14),
        block=Block.Config(attn=_biased(tower), mlp=mlp, norm=scale),
        window=tower.get('window_size', 112) // tower.get('patch_size', 14) // side,
        full=tuple(tower.get('fullatt_block_indexes', (7, 15, 23, 31))),
        norm=scale,
    )
    return Vlm.Config(
        encoder=encoder,
        connector=MlpConnector.Config(hidden=side**2 * width, merge=side),
        decoder=_with_axes(qwen.qwen2(_text(public, text)), text, (16, 24, 24), mixed=False),
        frames=frames,
        per_second=float(tower.get('tokens_per_second', 4)),
    )


def qwen3(public: Mapping[str, Any], grid: tuple[int, int] = GRID) -> Vlm.Config:
    """Returns our config of a Qwen3-VL's config.json. Frames of its videos are media of their own."""
    text, tower = public['text_config'], public['vision_config']
    scale = Norm.Config(eps=1e-6)
    side, width = tower.get('spatial_merge_size', 2), tower.get('hidden_size', 1152)
    deep, cells = tuple(tower.get('deepstack_visual_indexes', (8, 16, 24))), tower.get('num_position_embeddings', 2304)
    mlp = Mlp.Config(
        width=tower.get('intermediate_size', 4304), act=activation(tower.get('hidden_act', 'gelu_pytorch_tanh'))
    )
    encoder = NativeVit.Config(
        **_tower(tower, grid, width, 27, 16),
        block=Block.Config(attn=_biased(tower), mlp=mlp, norm=scale),
        table=(round(cells**0.5),) * 2,
        deep=deep,
        patch_bias=True,
        norm=scale,
    )
    maps = MlpConnector.Config(hidden=side**2 * width, merge=side)
    return Vlm.Config(
        encoder=encoder,
        connector=DeepStack.Config(first=maps, deep=dataclasses.replace(maps, norm=scale), levels=len(deep)),
        decoder=_with_axes(qwen.qwen3(_text(public, text)), text, (24, 20, 20), mixed=True),
    )


def _tower(public: Mapping[str, Any], grid: tuple[int, int], width: int, depth: int, patch: int) -> dict[str, Any]:
    return dict(
        width=width,
        depth=public.get('depth', depth),
        patch=public.get('patch_size', patch),
        grid=grid,
        merge=public.get('spatial_merge_size', 2),
        temporal=public.get('temporal_patch_size', 2),
        mean=MEAN if patch == 14 else (0.5,) * 3,
        std=STD if patch == 14 else (0.5,) * 3,
    )


def _biased(public: Mapping[str, Any]) -> Attention.Config:
    return Attention.Config(heads=public.get('num_heads', 16), q_bias=True, k_bias=True, v_bias=True, o_bias=True)


def _text(public: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    rope = {k: v for k, v in (text.get('rope_parameters') or text.get('rope_scaling') or {}).items() if k != 'type'}
    tied = public.get('tie_word_embeddings', False)
    return {**text, 'rope_parameters': {'rope_type': 'default', **rope}, 'tie_word_embeddings': tied}


def _with_axes(c: Decoder.Config, text: Mapping[str, Any], default: tuple[int, ...], *, mixed: bool) -> Decoder.Config:
    rope = text.get('rope_parameters') or text.get('rope_scaling') or {}
    sections = tuple(rope.get('mrope_section', default))
    return dataclasses.replace(c, position=dataclasses.replace(c.position, sections=sections, mixed=mixed))


def table(c: Vlm.Config, layout: str | None = None) -> Table:
    """Returns the names of a checkpoint in one of LAYOUTS; None: the one that its model was published in."""
    deep = isinstance(c.connector, DeepStack.Config)
    tower, body = LAYOUTS[layout or ('nested' if deep else 'flat')]
    maps = _stacked(c) if deep else _maps('connector', ('merger.mlp.0', 'merger.mlp.2'))
    return (
        llama.table(c.decoder, body, 'lm_head').under('decoder/', '')
        + Table(tuple(maps)).under('', tower)
        + vision_table(c.encoder).under('encoder/', tower)
    )


def layout_of(names: Collection[str]) -> str:
    """Returns which of LAYOUTS a checkpoint with these names has."""
    return next((layout for layout, (_, body) in LAYOUTS.items() if f'{body}norm.weight' in names), 'flat')


def vision_table(c: NativeVit.Config) -> Table:
    """Returns the names of the tower; the norm behind it is counted as the merger's in public checkpoints."""
    layers, key, bias = range(c.depth), 'blocks.{layer}', c.block.norm.kind == 'layer'
    mlp = ('gate', 'up', 'down') if c.block.mlp.gated else ('up', 'down')
    names = ('gate_proj', 'up_proj', 'down_proj') if c.block.mlp.gated else ('linear_fc1', 'linear_fc2')
    entries = [
        Entry('patch/kernel', 'patch_embed.proj.weight', Film(c.temporal)),
        *([Entry('patch/bias', 'patch_embed.proj.bias')] if c.patch_bias else []),
        *([Entry('places', 'pos_embed.weight', Same())] if c.table else []),
        *norm('blocks/attn_norm', f'{key}.norm1', bias=bias, layers=layers),
        *fused('blocks/attn', f'{key}.attn.qkv', bias=True, layers=layers),
        *linear('blocks/attn/o', f'{key}.attn.proj', inputs=2, layers=layers),
        *norm('blocks/mlp_norm', f'{key}.norm2', bias=bias, layers=layers),
        *(
            entry
            for ours, public in zip(mlp, names, strict=True)
            for entry in linear(f'blocks/mlp/{ours}', f'{key}.mlp.{public}', layers=layers)
        ),
        *norm('norm', 'merger.norm' if bias else 'merger.ln_q', bias=bias),
    ]
    return Table(tuple(entries))


def _maps(ours: str, names: tuple[str, str], layers: Any = None) -> list[Entry]:
    return [*linear(f'{ours}/up', names[0], layers=layers), *linear(f'{ours}/down', names[1], layers=layers)]


def _stacked(c: Vlm.Config) -> list[Entry]:
    layers, key = range(c.connector.levels), 'deepstack_merger_list.{layer}'
    return [
        *_maps('connector/first', ('merger.linear_fc1', 'merger.linear_fc2')),
        *norm('connector/deep/norm', f'{key}.norm', layers=layers),
        *_maps('connector/deep', (f'{key}.linear_fc1', f'{key}.linear_fc2'), layers),
    ]
