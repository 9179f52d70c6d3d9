# SPDX-License-Identifier: Apache-2.0
"""The layout of the first CLIP checkpoints, which open_clip writes too: fused projections, and no config.json.

`config` reads the sizes off the shapes of the tensors (Radford et al. 2021, github.com/openai/CLIP).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mmjax.models.pair import Pair
from mmjax.models.vision import Vit
from mmjax.weights import clip
from mmjax.weights.parts import fused_attention, linear, norm, words
from mmjax.weights.rules import Patch, Same, Vector
from mmjax.weights.table import Entry, Table

HEAD = 64  # width of a head in every published size
# They are kept beside the weights in some files, as numbers and not as tensors of the model.
_SETTINGS = ((r'input_resolution|context_length|vocab_size', 'a size, not a weight'),)


def config(tensors: Mapping[str, Any], *, head: int = HEAD, text_head: int | None = None) -> Pair.Config:
    """Returns our config of a checkpoint, by the names and shapes of its tensors."""
    vocab, width = tensors['token_embedding.weight'].shape
    public = dict(
        vocab_size=vocab,
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
        vision_config=_vision(tensors, head),
    )
    return clip.clip(public)


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
    return Table(entries, _SETTINGS) + _vit_table(c.vision)


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


def _depth(tensors: Mapping[str, Any], tower: str) -> int:
    pattern = re.compile(re.escape(tower) + r'\.resblocks\.(\d+)\.ln_1\.weight')
    return sum(pattern.fullmatch(name) is not None for name in tensors)
