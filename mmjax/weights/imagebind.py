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
    side = patch * math.isqrt(places)
    vision = Vit.Config(
        size=(side, side),
        patch=patch,
        film=frames,
        width=width,
        depth=_depth(tensors, 'vision'),
        block=_block(width, heads),
        patch_bias=False,
        cls=True,
        pre_norm=NORM,
        norm=NORM,
        mean=MEAN,
        std=STD,
    )
    text = Decoder.Config(
        vocab=vocab,
        width=text_width,
        depth=_depth(tensors, 'text'),
        block=_block(text_width, text_heads),
        norm=NORM,
        position=Learned.Config(length=tensors[f'{_TEXT}.pos_embed'].shape[1]),
        tied=True,  # it writes nothing, so it needs no head of its own
    )
    common = tensors['modality_heads.vision.2.weight'].shape[0]
    return Pair.Config(
        vision=vision, text=text, width=common, project_image=True, causal=True, pool='largest', max_scale=100.0
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
