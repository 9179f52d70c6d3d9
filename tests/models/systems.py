# SPDX-License-Identifier: Apache-2.0
"""Tiny systems of every shape, and hand-made batches: what the tests of models share.

A document is a string of pieces: a letter is a token of text, `1` to `9` a picture of that seed, `*` a state vector.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.batch import Batch
from mmjax.data import masks
from mmjax.models.connector import AttentionPool, Linear
from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.decoder import Decoder
from mmjax.models.deepstack import DeepStack
from mmjax.models.fusion import CrossAttention, Splice
from mmjax.models.gated import GatedConnector
from mmjax.models.native import NativeVit
from mmjax.models.patches import Patches
from mmjax.models.resampler import Resampler
from mmjax.models.state import StateVector
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch, GatedBlock
from mmjax.nn.expert import Expert
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Rotary
from mmjax.objectives.next_token import next_token
from mmjax.params import Skeleton, flatten

VOCAB, WIDTH, STATE, PLACEHOLDER = 40, 16, 3, 39
BIASED = Attention.Config(heads=2, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
BLOCK = Block.Config(attn=BIASED, mlp=Mlp.Config(width=24))
DECODER = Decoder.Config(
    vocab=VOCAB,
    width=WIDTH,
    depth=3,
    block=Block.Config(attn=Attention.Config(heads=4, kv_heads=2), mlp=Mlp.Config(width=24, gated=True, act='silu')),
)
GATED = GatedBlock.Config(attn=BIASED, mlp=Mlp.Config(width=24), media_norm=Norm.Config())
VIT = Vit.Config(size=(8, 12), patch=4, width=WIDTH, depth=2, block=BLOCK, cls=True, pre_norm=Norm.Config())

ENCODERS = {
    'vit': VIT,
    'vit+cls': dataclasses.replace(VIT, keep_cls=True, layer=-2, features_normed=False),
    'patches': Patches.Config(patch=4, grid=(2, 3)),
}
CONNECTORS = {
    'none': None,
    'linear': Linear.Config(),
    'mlp': MlpConnector.Config(),
    'pool': AttentionPool.Config(attn=BIASED, queries=3, unit=True),
    'resampler': Resampler.Config(attn=Attention.Config(heads=2, head_width=4), queries=2, depth=2),
}
NATIVE = NativeVit.Config(
    patch=2, grid=(4, 8), width=WIDTH, depth=2, block=BLOCK, deep=(0,), window=1, full=(1,), norm=Norm.Config()
)
MAPS = MlpConnector.Config(merge=2)
DEEP = DeepStack.Config(first=MAPS, deep=MAPS, levels=1)
AXES = dataclasses.replace(DECODER, position=Rotary.Config(sections=(1, 1, 0)))
ENDS = GatedConnector.Config(hidden=12, ends=1)
EXPERT = dataclasses.replace(
    DECODER,
    block=dataclasses.replace(
        DECODER.block, expert=Expert.Config(attn=DECODER.block.attn, mlp=Mlp.Config(width=20, gated=True))
    ),
)
WITHIN = CrossBranch.Config(attn=BIASED, norm=None, sum_norm=Norm.Config())
FUSIONS = {
    'splice': Splice.Config(),
    'cross': CrossAttention.Config(block=GATED, every=2),
    'cross within': CrossAttention.Config(block=WITHIN, every=1),
}


def system(encoder: str = 'vit', connector: str = 'mlp', fusion: str = 'splice', **changes) -> Vlm.Config:
    """Returns the config of a tiny system; it reads state vectors too."""
    parts = dict(encoder=ENCODERS[encoder], connector=CONNECTORS[connector], fusion=FUSIONS[fusion])
    return Vlm.Config(**{**parts, 'decoder': DECODER, 'state': StateVector.Config(size=STATE), **changes})


def build(c: Vlm.Config) -> Vlm:
    """Returns the model with random parameters, none of them neutral, so that biases, scales and gates count."""
    return skeleton(c).merge(draw(c))


def skeleton(c: Vlm.Config) -> Skeleton:
    """Returns the model without its arrays."""
    return Skeleton(jax.eval_shape(lambda: c.build(rngs=nnx.Rngs(0))))


def draw(c: Vlm.Config) -> dict[str, jax.Array]:
    """Returns parameters of the model. They come from numpy: compiling jax's initialisers takes seconds."""
    rng, params = np.random.default_rng(0), {}
    for path, like in flatten(jax.eval_shape(lambda: c.build(rngs=nnx.Rngs(0)))).items():
        centre = 1.0 if path.endswith('scale') else 0.5 if path.endswith('_gate') else 0.0
        spread = 1 / np.sqrt(WIDTH) if path.endswith(('kernel', 'table', 'latents', 'time', 'ends')) else 0.1
        params[path] = jnp.asarray(centre + spread * rng.standard_normal(like.shape), jnp.float32)
    return params


def lay(
    c: Vlm.Config, rows: list[list[str]], length: int, *, media: int = 2, states: int = 1, frames: int = 1
) -> Batch:
    """Returns a batch with one list of documents a row, packed; media have `frames` frames of the config's most."""
    spec = c.media_spec()
    tokens, weight, position = (np.zeros((len(rows), length), kind) for kind in (np.int32, np.float32, np.int32))
    span, looks = np.zeros((2, len(rows), length, 2), np.int32)
    slot = np.full((len(rows), length), -1, np.int32)
    pixels = np.zeros((len(rows), media, spec.frames, spec.height, spec.width, 3), np.uint8)
    size = np.zeros((len(rows), media, 3), np.int32)
    expert = np.zeros_like(slot)
    vectors = np.zeros((len(rows), states, STATE), np.float32)
    for b, documents in enumerate(rows):
        place = m = s = 0
        for document in documents:
            start, sees = place, (0, 0)
            for piece in document:
                ids, slots = [ord(piece) - ord('a')], [-1]
                if piece.isdigit():
                    size[b, m] = sizes(c, int(piece), frames)
                    drawn = np.random.default_rng(int(piece)).integers(0, 256, pixels.shape[2:])
                    pixels[b, m, :frames] = drawn[:frames]
                    seen = np.prod(c.token_grid(*size[b, m].tolist()))
                    sees, m = (m * spec.tokens, m * spec.tokens + seen), m + 1
                elif piece == '*':
                    vectors[b, s] = np.random.default_rng(start).standard_normal(STATE)
                    sees, s = (media * spec.tokens + s, media * spec.tokens + s + 1), s + 1
                if piece.isdigit() or piece == '*':
                    slots = list(range(*sees)) if spec.in_sequence else [-1]
                    ids = [PLACEHOLDER] * len(slots)
                here = slice(place, place + len(ids))
                tokens[b, here], slot[b, here], looks[b, here] = ids, slots, sees
                place = here.stop
            own = np.arange(start, place)
            span[b, own], position[b, own] = np.stack([own * 0 + start, own + 1], axis=-1), own - start
            expert[b, own] = masks.experts(slot[b, own])
            weight[b, own[:-1]] = tokens[b, own[1:]] != PLACEHOLDER
    position = np.stack([position] * spec.axes, axis=-1) if spec.axes > 1 else position
    spans = dict(expert=expert) if spec.experts else {}
    spans |= dict(slot=slot) if spec.in_sequence else dict(media_span=looks)
    return Batch(tokens, weight, span, position, pixels=pixels, media_size=size, states=vectors, **spans)


def sizes(c: Vlm.Config, seed: int, frames: int) -> tuple[int, int, int]:
    """Returns the frames, rows and columns of patches of a picture: pictures of varying size take turns."""
    odd, even = ((2, 2), (2, 4)) if c.squares > 1 else ((2, 2), (1, 3))
    return (frames, *(odd if seed % 2 else even)) if c.varying else (frames, *c.encoder.grid)


@jax.jit
def forward(model: Vlm, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the logits and the media tokens."""
    return model.logits(model(batch)), model.media(batch)


@jax.jit
def gradient(model: Vlm, batch: Batch) -> tuple[jax.Array, nnx.State]:
    """Returns the sum of the losses and its gradient."""
    graph, params = nnx.split(model)
    return jax.value_and_grad(lambda p: next_token(nnx.merge(graph, p), batch)[0])(params)
