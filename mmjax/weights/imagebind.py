# SPDX-License-Identifier: Apache-2.0
"""The layout of ImageBind's towers for pictures and for text (Girdhar et al. 2023); other modalities are not read.

A picture is shown as a film of two equal frames, of which each token sees both. There is no config.json: `config` reads
the sizes off the shapes of the tensors.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.pair import Pair
from mmjax.models.vision import Vit
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.weights.clip import MEAN, STD
from mmjax.weights.openai_clip import blocks
from mmjax.weights.parts import linear, norm, words
from mmjax.weights.rules import Film, Vector
from mmjax.weights.table import Entry, Table

NORM = Norm.Config(eps=1e-6)
_VISION, _TEXT = 'modality_preprocessors.vision', 'modality_preprocessors.text'
_OTHERS = (
    (r'modality_preprocessors\.text\.mask', 'a token sees those before it'),
    (r'modality_\w+\.(audio|depth|thermal|imu)\..*', 'of another modality'),
    (r'modality_postprocessors\.(audio|depth|thermal|imu)\..*', 'of another modality'),
)


def config(tensors: Mapping[str, Any], *, heads: int = 16, text_heads: int = 16) -> Pair.Config:
    """Returns our config of a checkpoint, by the names and shapes of its tensors."""
    width, _, frames, patch, _ = tensors[f'{_VISION}.rgbt_stem.proj.1.weight'].shape
    places = tensors[f'{_VISION}.pos_embedding_helper.pos_embed'].shape[1] - 1
    vocab, text_width = tensors[f'{_TEXT}.token_embedding.weight'].shape
    return pair(
        vision=(width, _depth(tensors, 'vision'), heads),
        text=(text_width, _depth(tensors, 'text'), text_heads),
        vocab=vocab,
        places=tensors[f'{_TEXT}.pos_embed'].shape[1],
        space=tensors['modality_heads.vision.2.weight'].shape[0],
        frames=frames,
        patch=patch,
        side=patch * math.isqrt(places),
    )


def pair(
    *,
    vision: tuple[int, int, int] = (1280, 32, 16),
    text: tuple[int, int, int] = (1024, 24, 16),
    vocab: int = 49_408,
    places: int = 77,
    space: int = 1024,
    frames: int = 2,
    patch: int = 14,
    side: int = 224,
) -> Pair.Config:
    """Returns our config of sizes, ImageBind-Huge's where none are given; towers are (width, depth, heads)."""
    tower = Vit.Config(
        size=(side, side),
        patch=patch,
        film=frames,
        width=vision[0],
        depth=vision[1],
        block=_block(vision[0], vision[2]),
        patch_bias=False,
        cls=True,
        pre_norm=NORM,
        norm=NORM,
        mean=MEAN,
        std=STD,
    )
    reader = Decoder.Config(
        vocab=vocab,
        width=text[0],
        depth=text[1],
        block=_block(text[0], text[2]),
        norm=NORM,
        position=Learned.Config(length=places),
        tied=True,  # it writes nothing, so it needs no head of its own
    )
    return Pair.Config(
        vision=tower, text=reader, width=space, project_image=True, causal=True, pool='largest', max_scale=100.0
    )


def table(c: Pair.Config) -> Table:
    """Returns the names of a checkpoint."""
    layers = lambda tower, depth: blocks(
        f'{tower}/blocks', f'modality_trunks.{tower}.blocks', depth, norms='norm', mlp=('fc1', 'fc2')
    )
    entries = (
        Entry('vision/patch/kernel', f'{_VISION}.rgbt_stem.proj.1.weight', Film(c.vision.film)),
        Entry('vision/cls', f'{_VISION}.cls_token', Vector((1, 1, -1))),
        _places('vision/position/table', f'{_VISION}.pos_embedding_helper.pos_embed', c.vision.width),
        *norm('vision/pre_norm', 'modality_trunks.vision.pre_transformer_layer.0'),
        *layers('vision', c.vision.depth),
        *norm('vision/norm', 'modality_heads.vision.0'),
        *linear('image_projection', 'modality_heads.vision.2', bias=False),
        *words('text/embed/table', f'{_TEXT}.token_embedding', (c.text.vocab,)),
        _places('text/position/table', f'{_TEXT}.pos_embed', c.text.width),
        *layers('text', c.text.depth),
        *norm('text/norm', 'modality_heads.text.proj.0'),
        *linear('text_projection', 'modality_heads.text.proj.1', bias=False),
        Entry('scale', 'modality_postprocessors.text.1.log_logit_scale', Vector(())),
    )
    return Table(entries, _OTHERS)


def _places(ours: str, public: str, width: int) -> Entry:
    return Entry(ours, public, Vector((1, -1, width)))


def _depth(tensors: Mapping[str, Any], tower: str) -> int:
    pattern = re.compile(rf'modality_trunks\.{tower}\.blocks\.\d+\.norm_1\.weight')
    return sum(pattern.fullmatch(name) is not None for name in tensors)


def _block(width: int, heads: int) -> Block.Config:
    attn = Attention.Config(heads=heads, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    return Block.Config(attn=attn, mlp=Mlp.Config(width=4 * width), norm=NORM)
