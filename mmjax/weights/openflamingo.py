# SPDX-License-Identifier: Apache-2.0
"""The layout of OpenFlamingo: its Perceiver Resampler, its gated blocks, and LLaMA wrapped with them.

Cross-attention stands before layers k - 1, 2k - 1, ...; the released files hold only what was trained.
"""

from mmjax.models.fusion import CrossAttention
from mmjax.models.resampler import Resampler
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import GatedBlock
from mmjax.nn.mlp import Mlp
from mmjax.nn.stack import crossings
from mmjax.weights import llama
from mmjax.weights.parts import linear, norm
from mmjax.weights.rules import Joined, Matrix, Same, Vector
from mmjax.weights.table import Entry, Layers, Table


def gated_block(width: int, heads: int = 8, head_width: int = 64) -> GatedBlock.Config:
    """Returns the config of a gated block beside a decoder of the given width."""
    return GatedBlock.Config(
        attn=Attention.Config(heads=heads, head_width=head_width),
        mlp=Mlp.Config(width=4 * width, act='gelu', bias=False),
    )


def fusion(width: int, every: int) -> CrossAttention.Config:
    """Returns the fusion of a model with a gated block before the last of each `every` layers."""
    return CrossAttention.Config(block=gated_block(width), every=every)


def resampler_table(c: Resampler.Config, frames: int = 1) -> Table:
    """Returns the names of a PerceiverResampler for media of so many frames."""
    layers, key = range(c.depth), 'layers.{layer}'
    entries = (
        Entry('latents', 'latents', Same()),
        *([Entry('time', 'frame_embs', Same())] if c.time and frames > 1 else []),
        *([Entry('order', 'media_time_embs', Vector((c.order, 1, -1)))] if c.order else []),
        *norm('blocks/media_norm', f'{key}.0.norm_media', layers=layers),
        *norm('blocks/latent_norm', f'{key}.0.norm_latents', layers=layers),
        *_attention('blocks/attn', f'{key}.0', layers),
        *norm('blocks/mlp_norm', f'{key}.1.0', layers=layers),
        *linear('blocks/mlp/up', f'{key}.1.1', bias=False, layers=layers),
        *linear('blocks/mlp/down', f'{key}.1.3', bias=False, layers=layers),
        *norm('norm', 'norm'),
    )
    return Table(entries)


def gated_entries(ours: str, public: str, layers: Layers = None) -> list[Entry]:
    """Names GatedCrossAttentionBlocks."""
    return [
        *norm(f'{ours}attn_norm', f'{public}attn.norm', layers=layers),
        *_attention(f'{ours}attn', f'{public}attn', layers),
        Entry(f'{ours}attn_gate', f'{public}attn_gate', Vector((1,)), layers),
        *norm(f'{ours}mlp_norm', f'{public}ff.0', layers=layers),
        *linear(f'{ours}mlp/up', f'{public}ff.1', bias=False, layers=layers),
        *linear(f'{ours}mlp/down', f'{public}ff.3', bias=False, layers=layers),
        Entry(f'{ours}mlp_gate', f'{public}ff_gate', Vector((1,)), layers),
    ]


def decoder_table(c: Vlm.Config) -> Table:
    """Returns the names of the wrapped language model, which holds each layer under two of them."""
    old, new = 'old_decoder_blocks.{layer}', 'model.layers.{layer}.decoder_layer'
    own = [_also(entry, old, new) for entry in llama.blocks(c.decoder, old)]
    inserted = crossings(c.decoder.depth, c.fusion.every, c.fusion.start)
    old, new = 'gated_cross_attn_layers.{layer}.', 'model.layers.{layer}.gated_cross_attn_layer.'
    gated = [_also(entry, old, new) for entry in gated_entries('xattn/', old, inserted)]
    rest = llama.table(c.decoder)
    outside = tuple(entry for entry in rest.entries if entry.layers is None)
    return Table((*outside, *own, *gated), rest.ignored)


def _also(entry: Entry, old: str, new: str) -> Entry:
    return Entry(entry.ours, entry.public, entry.rule, entry.layers, tuple(key.replace(old, new) for key in entry.keys))


def _attention(ours: str, public: str, layers: Layers) -> list[Entry]:
    return [
        *linear(f'{ours}/q', f'{public}.to_q', bias=False, layers=layers),
        Entry((f'{ours}/k/kernel', f'{ours}/v/kernel'), f'{public}.to_kv.weight', Joined(Matrix()), layers),
        *linear(f'{ours}/o', f'{public}.to_out', bias=False, inputs=2, layers=layers),
    ]
