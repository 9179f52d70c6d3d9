# SPDX-License-Identifier: Apache-2.0
"""The layout of the first CLIP checkpoints, which open_clip writes too: fused projections, and no config.json.

`config` reads the sizes off the shapes of the tensors (Radford et al. 2021, github.com/openai/CLIP).
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from mmjax.models.pair import Pair
from mmjax.models.resnet import ResNet
from mmjax.models.vision import Vit
from mmjax.weights import clip
from mmjax.weights.parts import fused_attention, linear, norm, words
from mmjax.weights.rules import Kernel, Patch, Same, Vector
from mmjax.weights.table import Entry, Table

HEAD = 64  # width of a head in every published size
# They are kept beside the weights in some files, as numbers and not as tensors of the model.
_SETTINGS = ((r'input_resolution|context_length|vocab_size', 'a size, not a weight'),)


def config(tensors: Mapping[str, Any], *, head: int = HEAD, text_head: int | None = None) -> Pair.Config:
    """Returns our config of a checkpoint, by the names and shapes of its tensors."""
    vocab, width = tensors['token_embedding.weight'].shape
    public = dict(
        projection_dim=tensors['text_projection'].shape[1],
        text_config=dict(
            vocab_size=vocab,
            hidden_size=width,
            num_attention_heads=width // (text_head or head),
            intermediate_size=4 * width,
            num_hidden_layers=_depth(tensors, 'transformer'),
            max_position_embeddings=tensors['positional_embedding'].shape[0],
            eos_token_id=clip.WRONG_EOS,  # the place of a text is that of its largest id
        ),
        vision_config={} if _convolves(tensors) else _vision(tensors, head),
    )
    c = clip.clip(public)
    return dataclasses.replace(c, vision=_resnet(tensors, head), project_image=False) if _convolves(tensors) else c


def table(c: Pair.Config) -> Table:
    """Returns the names of a checkpoint."""
    entries = (
        *words('text/embed/table', 'token_embedding', (c.text.vocab,)),
        Entry('text/position/table', 'positional_embedding', Same()),
        *blocks('text/blocks', 'transformer.resblocks', c.text.depth),
        *norm('text/norm', 'ln_final'),
        Entry('text_projection/kernel', 'text_projection', Same()),
        Entry('scale', 'logit_scale', Vector(())),
    )
    vision = _resnet_table if isinstance(c.vision, ResNet.Config) else _vit_table
    return Table(entries, _SETTINGS) + vision(c.vision)


def blocks(
    ours: str, public: str, depth: int, *, norms: str = 'ln', mlp: tuple[str, str] = ('c_fc', 'c_proj')
) -> list[Entry]:
    """Names Transformer blocks whose attention is torch's own class."""
    layers, key = range(depth), f'{public}.{{layer}}'
    return [
        *norm(f'{ours}/attn_norm', f'{key}.{norms}_1', layers=layers),
        *fused_attention(f'{ours}/attn', f'{key}.attn', layers=layers),
        *norm(f'{ours}/mlp_norm', f'{key}.{norms}_2', layers=layers),
        *linear(f'{ours}/mlp/up', f'{key}.mlp.{mlp[0]}', layers=layers),
        *linear(f'{ours}/mlp/down', f'{key}.mlp.{mlp[1]}', layers=layers),
    ]


def _vision(tensors: Mapping[str, Any], head: int) -> dict[str, Any]:
    width, _, _, patch = tensors['visual.conv1.weight'].shape
    places = tensors['visual.positional_embedding'].shape[0] - 1
    return dict(
        image_size=patch * math.isqrt(places),
        patch_size=patch,
        hidden_size=width,
        num_attention_heads=width // head,
        intermediate_size=4 * width,
        num_hidden_layers=_depth(tensors, 'visual.transformer'),
    )


def _vit_table(c: Vit.Config) -> Table:
    entries = (
        Entry('cls', 'class_embedding'),
        Entry('patch/kernel', 'conv1.weight', Patch()),
        Entry('position/table', 'positional_embedding', Same()),
        *norm('pre_norm', 'ln_pre'),
        *blocks('blocks', 'transformer.resblocks', c.depth),
        *norm('norm', 'ln_post'),
    )
    return Table(entries).under('vision/', 'visual.') + Table(
        (Entry('image_projection/kernel', 'visual.proj', Same()),)
    )


def _convolves(tensors: Mapping[str, Any]) -> bool:
    return 'visual.conv3.weight' in tensors


def _resnet(tensors: Mapping[str, Any], head: int) -> ResNet.Config:
    stem = tensors['visual.conv3.weight'].shape[0]
    side = 32 * math.isqrt(tensors['visual.attnpool.positional_embedding'].shape[0] - 1)
    blocks = [re.fullmatch(r'visual\.layer(\d)\.(\d+)\.conv1\.weight', name) for name in tensors]
    return ResNet.Config(
        size=(side, side),
        stem=stem,
        depths=tuple(sum(b is not None and b[1] == str(stage) for b in blocks) for stage in range(1, 5)),
        heads=32 * stem // head,
        out=tensors['visual.attnpool.c_proj.weight'].shape[0],
        mean=clip.MEAN,
        std=clip.STD,
    )


def _resnet_table(c: ResNet.Config) -> Table:
    entries = [entry for i in range(3) for entry in _convolution(f'stem/{i}', f'conv{i + 1}', f'bn{i + 1}')]
    for stage, depth in enumerate(c.depths):
        for number in range(depth):
            ours, public = f'stages/{stage}/{number}', f'layer{stage + 1}.{number}'
            for i, name in enumerate(('narrow', 'middle', 'wide'), start=1):
                entries += _convolution(f'{ours}/{name}', f'{public}.conv{i}', f'{public}.bn{i}')
            if not number:
                entries += _convolution(f'{ours}/skip', f'{public}.downsample.0', f'{public}.downsample.1')
    entries.append(Entry('pool/position', 'attnpool.positional_embedding', Same()))
    for name in ('q', 'k', 'v'):
        entries += linear(f'pool/{name}', f'attnpool.{name}_proj')
    entries += linear('pool/o', 'attnpool.c_proj', inputs=2)
    counts = (r'.*\.num_batches_tracked', 'counts steps of a training that is over')
    return Table(tuple(entries), (counts,)).under('vision/', 'visual.')


def _convolution(ours: str, kernel: str, norm: str) -> list[Entry]:
    numbers = dict(scale='weight', bias='bias', mean='running_mean', var='running_var')
    return [
        Entry(f'{ours}/kernel', f'{kernel}.weight', Kernel()),
        *(Entry(f'{ours}/{name}', f'{norm}.{public}') for name, public in numbers.items()),
    ]


def _depth(tensors: Mapping[str, Any], tower: str) -> int:
    pattern = re.compile(re.escape(tower) + r'\.resblocks\.(\d+)\.ln_1\.weight')
    return sum(pattern.fullmatch(name) is not None for name in tensors)
