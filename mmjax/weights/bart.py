# SPDX-License-Identifier: Apache-2.0
"""The layout of BART (Lewis et al. 2019): an encoder and a decoder that norm each sum, with learned positions."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.trunk import Trunk
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.weights.parts import activation, attention, linear, norm, words
from mmjax.weights.rules import Same
from mmjax.weights.table import Entry, Table

_NAMES = ('q_proj', 'k_proj', 'v_proj', 'out_proj')
OFFSET = 2  # of positions, as OPT has it


def config(public: Mapping[str, Any]) -> Seq2seq.Config:
    """Returns our config of a config.json; what it leaves out has the public class's default."""
    width, scale = public.get('d_model', 1024), Norm.Config()
    for key in ('normalize_before', 'add_final_layer_norm', 'add_bias_logits'):
        if public.get(key):
            raise ValueError(f'{key}={public[key]!r} is not implemented: this layout norms sums, and nothing else')

    def attn(side: str) -> Attention.Config:
        heads = public.get(f'{side}_attention_heads', 16)
        return Attention.Config(heads=heads, q_bias=True, k_bias=True, v_bias=True, o_bias=True)

    def part(kind: type, side: str, **more: Any) -> Any:
        act = activation(public.get('activation_function', 'gelu'))
        mlp = Mlp.Config(width=public.get(f'{side}_ffn_dim', 4096), act=act)
        return kind(
            depth=public.get(f'{side}_layers', 12),
            block=Block.Config(attn=attn(side), mlp=mlp, norm=None, sum_norm=scale),
            embed_norm=scale,
            norm=None,
            position=Learned.Config(length=public.get('max_position_embeddings', 1024) + OFFSET, offset=OFFSET),
            **more,
        )

    embed_scale = width**0.5 if public.get('scale_embedding') else 1.0
    return Seq2seq.Config(
        encoder=part(Trunk.Config, 'encoder'),
        decoder=part(
            Decoder.Config,
            'decoder',
            vocab=public.get('vocab_size', 50265),
            width=width,
            tied=True,
            embed_scale=embed_scale,
        ),
        cross=CrossBranch.Config(attn=attn('decoder'), norm=None, sum_norm=scale),
    )


def table(c: Seq2seq.Config, body: str = 'model.', head: str = '') -> Table:
    """Returns the names of a BartForConditionalGeneration; `body` begins those of its stacks, `head` of the rest."""
    decoder = 'decoder.layers.{layer}'
    layers = range(c.decoder.depth)
    entries = (
        *words('decoder/embed/table', f'{body}shared', (c.vocab,)),
        *_stack('encoder/', f'{body}encoder', c.encoder),
        *_stack('decoder/', f'{body}decoder', c.decoder),
        *_attention('decoder/xattn/attn', f'{body}{decoder}.encoder_attn', layers),
        *norm('decoder/xattn/sum_norm', f'{body}{decoder}.encoder_attn_layer_norm', layers=layers),
    )
    same = 'the same as shared.weight'
    ignored = ((rf'{body}(encoder|decoder)\.embed_tokens\.weight', same), (rf'{head}lm_head\.weight', same))
    return Table(entries, (*ignored, (rf'{head}final_logits_bias', 'zeros that nothing trains')))


def _stack(ours: str, public: str, c: Trunk.Config) -> list[Entry]:
    layers, key = range(c.depth), f'{public}.layers.{{layer}}'
    return [
        Entry(f'{ours}position/table', f'{public}.embed_positions.weight', Same()),
        *norm(f'{ours}embed_norm', f'{public}.layernorm_embedding'),
        *_attention(f'{ours}blocks/attn', f'{key}.self_attn', layers),
        *norm(f'{ours}blocks/attn_sum_norm', f'{key}.self_attn_layer_norm', layers=layers),
        *linear(f'{ours}blocks/mlp/up', f'{key}.fc1', layers=layers),
        *linear(f'{ours}blocks/mlp/down', f'{key}.fc2', layers=layers),
        *norm(f'{ours}blocks/mlp_sum_norm', f'{key}.final_layer_norm', layers=layers),
    ]


def _attention(ours: str, public: str, layers: range) -> list[Entry]:
    return attention(ours, public, names=_NAMES, bias=True, out_bias=True, layers=layers)
