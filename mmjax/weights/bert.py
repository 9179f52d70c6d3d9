# SPDX-License-Identifier: Apache-2.0
"""BERT in the layouts that hold one: its blocks, which norm each sum, branches that look at pictures, and its head."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp, Transform
from mmjax.nn.positions import Learned
from mmjax.weights.parts import activation, attention, linear, norm, words
from mmjax.weights.rules import Same, Vocabulary
from mmjax.weights.table import Entry, Layers, Table

POSITION_IDS = (r'(.*\.)?position_ids', 'counts up from 0')
TIED = (
    r'cls\.predictions\.decoder\.(weight|bias)',
    'the head is the embedding table, its bias is cls.predictions.bias',
)

JUDGE = (r'(bert\.pooler|cls\.seq_relationship)\..*', 'says whether two sentences follow one another')


def block(public: Mapping[str, Any], heads: int = 12) -> Block.Config:
    """Returns our config of a block; `heads` where a config.json leaves them out."""
    return Block.Config(
        attn=_attention(public, heads),
        mlp=Mlp.Config(width=public.get('intermediate_size', 3072), act=activation(public.get('hidden_act', 'gelu'))),
        norm=None,
        sum_norm=Norm.Config(eps=public.get('layer_norm_eps', 1e-12)),
    )


def cross(public: Mapping[str, Any], heads: int = 12) -> CrossBranch.Config:
    """Returns our config of the branch that looks at pictures."""
    scale = Norm.Config(eps=public.get('layer_norm_eps', 1e-12))
    return CrossBranch.Config(attn=_attention(public, heads), norm=None, sum_norm=scale)


def _attention(public: Mapping[str, Any], heads: int) -> Attention.Config:
    heads = public.get('num_attention_heads', heads)
    return Attention.Config(heads=heads, q_bias=True, k_bias=True, v_bias=True, o_bias=True)


def config(
    public: Mapping[str, Any], *, head: bool, heads: int = 12, vocab: int = 30522, kinds: int = 0
) -> Decoder.Config:
    """Returns our config of the text model of a config.json, with or without the head that names words.

    `kinds`: how many segments a text may have; none where they were left out (BLIP, Q-Former).
    """
    scale = Norm.Config(eps=public.get('layer_norm_eps', 1e-12))
    return Decoder.Config(
        vocab=public.get('vocab_size', vocab),
        width=public.get('hidden_size', 768),
        depth=public.get('num_hidden_layers', 12),
        block=block(public, heads),
        embed_norm=scale,
        norm=None,
        position=Learned.Config(length=public.get('max_position_embeddings', 512)),
        kinds=kinds,
        transform=Transform.Config(act=activation(public.get('hidden_act', 'gelu')), norm=scale) if head else None,
        tied=True,  # without a head it names nothing and needs none
        head_bias=head,
    )


def masked(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a BertForMaskedLM: spans that reach both ways make it one that fills gaps."""
    return config(public, head=True, kinds=public.get('type_vocab_size', 2))


def masked_table(c: Decoder.Config) -> Table:
    """Returns the names of a BertForMaskedLM; what judges pairs of sentences beside it is not read."""
    return table(c, crossed=False, body='bert.') + Table((), (JUDGE,))


def table(c: Decoder.Config, *, crossed: bool, body: str = '', self_attention: str = 'self') -> Table:
    """Returns the names of a text model; `body` begins those of all but its head."""
    layers, key = range(c.depth), f'{body}encoder.layer.{{layer}}'
    entries = [
        *words('embed/table', f'{body}embeddings.word_embeddings', (c.vocab,)),
        Entry('position/table', f'{body}embeddings.position_embeddings.weight', Same()),
        *([Entry('kinds', f'{body}embeddings.token_type_embeddings.weight', Same())] if c.kinds else []),
        *norm('embed_norm', f'{body}embeddings.LayerNorm'),
        *sums('blocks/attn', 'blocks/attn_sum_norm', f'{key}.attention', self_attention, layers),
        *feed('blocks/mlp', 'blocks/mlp_sum_norm', key, '', layers),
        *(sums('xattn/attn', 'xattn/sum_norm', f'{key}.crossattention', self_attention, layers) if crossed else []),
    ]
    if c.transform is None:
        return Table(tuple(entries), (POSITION_IDS,))
    bias = Entry('bias', 'cls.predictions.bias', Vocabulary((c.vocab,)))
    return Table((*entries, *transform(), bias), (POSITION_IDS, TIED))


def transform(ours: str = 'transform', public: str = 'cls.predictions.transform') -> list[Entry]:
    """Names what stands before the head."""
    return [*linear(f'{ours}/dense', f'{public}.dense'), *norm(f'{ours}/norm', f'{public}.LayerNorm')]


def sums(ours: str, ours_norm: str, public: str, inner: str, layers: Layers) -> list[Entry]:
    """Names an attention layer and the norm of its sum; `inner` holds queries, keys and values."""
    names = (f'{inner}.query', f'{inner}.key', f'{inner}.value', 'output.dense')
    return [
        *attention(ours, public, names=names, bias=True, out_bias=True, layers=layers),
        *norm(ours_norm, f'{public}.output.LayerNorm', layers=layers),
    ]


def feed(ours: str, ours_norm: str, public: str, kind: str, layers: Layers) -> list[Entry]:
    """Names an MLP and the norm of its sum; `kind` ends the public names (`_query` of a Q-Former's queries)."""
    return [
        *linear(f'{ours}/up', f'{public}.intermediate{kind}.dense', layers=layers),
        *linear(f'{ours}/down', f'{public}.output{kind}.dense', layers=layers),
        *norm(ours_norm, f'{public}.output{kind}.LayerNorm', layers=layers),
    ]
