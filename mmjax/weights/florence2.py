# SPDX-License-Identifier: Apache-2.0
"""The layouts of Florence-2: that of transformers (florence-community/*) and the first one (microsoft/Florence-2-*)."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from mmjax.models.davit import Davit
from mmjax.models.overview import Overview
from mmjax.models.vlm import Vlm
from mmjax.weights import bart
from mmjax.weights.parts import fused, linear, norm
from mmjax.weights.rules import Kernel, Matrix, Same, Transposed
from mmjax.weights.table import Entry, Table


@dataclasses.dataclass(frozen=True)
class Names:
    """What tells the layouts apart."""

    tower: str = 'model.vision_tower.'
    shrink: str = 'conv'
    near: str = ''  # behind the names of convolutions that keep the size
    inner: str = ''  # behind those of attention, where its norm stands beside it
    mlp: str = 'ffn'
    norms: tuple[str, str] = ('norm1', 'norm2')  # of attention and MLP; `{attn}` is the name of the former
    projector: str = 'model.multi_modal_projector.'
    place: str = 'image_position_embed'
    linear: str = 'image_projection.weight'
    transposed: bool = False  # the projection is [in, out]
    body: str = 'model.language_model.'
    head: str = ''


HUB = Names()
FIRST = Names(
    tower='vision_tower.',
    shrink='proj',
    near='.fn.dw',
    inner='.fn',
    mlp='ffn.fn.net',
    norms=('{attn}.norm', 'ffn.norm'),
    projector='',
    place='image_pos_embed',
    linear='image_projection',
    transposed=True,
    body='language_model.model.',
    head='language_model.',
)
TIME = r'visual_temporal_embed\.pos_idx_to_embed'


def layout_of(names: Collection[str]) -> Names:
    """Returns the layout of a checkpoint with these names."""
    return HUB if any(key.startswith(HUB.tower) for key in names) else FIRST


def config(public: Mapping[str, Any], *, side: int = 768) -> Vlm.Config:
    """Returns our config of a config.json of either layout; pictures, of which it says nothing, have `side` pixels."""
    tower = public.get('vision_config', {})
    get = lambda name, default, old='': tower.get(name, tower.get(old, default))
    strides = tuple(get('patch_stride', (4, 2, 2, 2)))
    sides, paddings = get('patch_size', (7, 3, 3, 3)), get('patch_padding', (3, 1, 1, 1))
    if [*sides] != [2 * s - 1 for s in strides] or [*paddings] != [s - 1 for s in strides]:
        raise ValueError(
            f'patch_size {sides} and patch_padding {paddings} for patch_stride {strides}: implemented are sides of '
            '2 * stride - 1 with stride - 1 zeros around'
        )
    if [*get('patch_prenorm', (False, True, True, True))] != [number > 0 for number in range(len(strides))]:
        raise ValueError(f'patch_prenorm {tower["patch_prenorm"]}: implemented is a norm behind the first stage only')
    encoder = Davit.Config(
        size=(side, side),
        widths=tuple(get('embed_dim', (128, 256, 512, 1024), 'dim_embed')),
        depths=tuple(get('depths', (1, 1, 9, 1))),
        heads=tuple(get('num_heads', (4, 8, 16, 32))),
        groups=tuple(get('num_groups', (4, 8, 16, 32))),
        strides=strides,
        window=get('window_size', 12),
        ratio=int(get('mlp_ratio', 4)),
    )
    places = tower.get('image_pos_embed', {}).get('max_pos_embeddings', get('max_position_embeddings', 50))
    return Vlm.Config(
        encoder=encoder,
        connector=Overview.Config(places=places),
        decoder=bart.config(public.get('text_config', {})),
    )


def table(c: Vlm.Config, names: Names = HUB) -> Table:
    """Returns the names of a checkpoint."""
    entries = (
        Entry('connector/row', f'{names.projector}{names.place}.row_embeddings.weight', Same()),
        Entry('connector/column', f'{names.projector}{names.place}.column_embeddings.weight', Same()),
        Entry(
            'connector/linear/kernel',
            f'{names.projector}{names.linear}',
            Transposed(Matrix()) if names.transposed else Matrix(),
        ),
        *norm('connector/norm', f'{names.projector}image_proj_norm'),
    )
    time = (names.projector.replace('.', r'\.') + TIME, 'sines and cosines, of which only the first row is read')
    words = bart.table(c.decoder, names.body, names.head).under('decoder/', '')
    return tower_table(c.encoder, names).under('encoder/', '') + Table(entries, (time,)) + words


def tower_table(c: Davit.Config, names: Names = HUB) -> Table:
    """Returns the names of the tower."""
    entries = []
    for stage, depth in enumerate(c.depths):
        shrink, blocks = f'stages/{stage}/shrink', f'{names.tower}blocks.{stage}.{{layer}}'
        entries += [
            *_convolution(shrink, f'{names.tower}convs.{stage}.{names.shrink}', None),
            *norm(f'{shrink}/norm', f'{names.tower}convs.{stage}.norm'),
            *_half(f'stages/{stage}/blocks/places', f'{blocks}.spatial_block', 'window_attn', '/attn', names, depth),
            *_half(f'stages/{stage}/blocks/channels', f'{blocks}.channel_block', 'channel_attn', '', names, depth),
        ]
    return Table(tuple(entries))


def _half(ours: str, public: str, attn: str, inner: str, names: Names, depth: int) -> list[Entry]:
    layers, mixer = range(depth), f'{ours}/mixer{inner}'
    before, behind = (f'{public}.{name.replace("{attn}", attn)}' for name in names.norms)
    return [
        *_convolution(f'{ours}/near', f'{public}.conv1{names.near}', layers),
        *norm(f'{ours}/mixer_norm', before, layers=layers),
        *fused(mixer, f'{public}.{attn}{names.inner}.qkv', bias=True, layers=layers),
        *linear(f'{mixer}/o', f'{public}.{attn}{names.inner}.proj', inputs=2, layers=layers),
        *_convolution(f'{ours}/mlp_near', f'{public}.conv2{names.near}', layers),
        *norm(f'{ours}/mlp_norm', behind, layers=layers),
        *linear(f'{ours}/mlp/up', f'{public}.{names.mlp}.fc1', layers=layers),
        *linear(f'{ours}/mlp/down', f'{public}.{names.mlp}.fc2', layers=layers),
    ]


def _convolution(ours: str, public: str, layers: range | None) -> list[Entry]:
    return [
        Entry(f'{ours}/kernel', f'{public}.weight', Kernel(), layers),
        Entry(f'{ours}/bias', f'{public}.bias', layers=layers),
    ]
