# SPDX-License-Identifier: Apache-2.0
"""The Q-Former in its public layouts: that of transformers (in BLIP-2, InstructBLIP, TextBind) and that of LAVIS."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.models.heads import Heads
from mmjax.models.qformer import Qformer, Words
from mmjax.weights import bert
from mmjax.weights.parts import linear, norm, words
from mmjax.weights.rules import Same, Vector, Vocabulary
from mmjax.weights.table import Entry, Table


@dataclasses.dataclass(frozen=True)
class Names:
    """What tells the layouts apart."""

    latents: str = 'query_tokens'
    layers: str = 'qformer.encoder.layer'
    inner: str = 'attention'  # of queries, keys and values
    norm: str = 'qformer.layernorm'
    words: str = 'qformer.embeddings'
    image: str = 'vision_projection'
    text: str = 'text_projection'


HUB = Names()
INSTRUCTED = Names(norm='qformer.embeddings.layernorm')
RETRIEVAL = Names(words='embeddings')
LAVIS = Names(
    layers='Qformer.bert.encoder.layer',
    inner='self',
    norm='Qformer.bert.embeddings.LayerNorm',
    words='Qformer.bert.embeddings',
    image='vision_proj',
    text='text_proj',
)


def config(public: Mapping[str, Any], *, queries: int, reads: bool, most: int = 32, **ours: Any) -> Qformer.Config:
    """Returns our config of a qformer_config; `reads`: words may stand beside the queries, at most `most`."""
    block = bert.block(public)
    read = Words.Config(
        vocab=public.get('vocab_size', 30522), most=most, places=public.get('max_position_embeddings', 512)
    )
    return Qformer.Config(
        width=public.get('hidden_size', 768),
        depth=public.get('num_hidden_layers', 12),
        attn=block.attn,
        mlp=block.mlp,
        norm=block.sum_norm,
        queries=queries,
        every=public.get('cross_attention_frequency', public.get('cross_attention_freq', 2)),
        words=read if reads else None,
        **ours,
    )


def heads(public: Mapping[str, Any], *, width: int, temperature: float | None = None, writes: bool) -> Heads.Config:
    """Returns our config of the heads beside a qformer_config."""
    return Heads.Config(width=width, temperature=temperature, writes=writes, norm=bert.block(public).sum_norm)


def table(c: Qformer.Config, names: Names) -> Table:
    """Returns the names of a Q-Former and its heads; those of its map to the decoder's width stand elsewhere."""
    layers, looks, key = range(c.depth), range(0, c.depth, c.every), f'{names.layers}.{{layer}}'
    entries = [
        Entry('latents', names.latents, Vector((1, c.queries, c.width))),
        *norm('norm', names.norm),
        *bert.sums('blocks/attn', 'blocks/attn_norm', f'{key}.attention', names.inner, layers),
        *bert.sums('xattn/attn', 'xattn/sum_norm', f'{key}.crossattention', names.inner, looks),
        *bert.feed('blocks/mlp', 'blocks/mlp_norm', key, '_query', layers),
    ]
    if c.words:
        entries += [
            *words('words/embed/table', f'{names.words}.word_embeddings', (c.words.vocab,)),
            Entry('words/position/table', f'{names.words}.position_embeddings.weight', Same()),
            *bert.feed('blocks/word_mlp', 'blocks/word_norm', key, '', layers),
        ]
    if c.heads:
        entries += _heads(c, names)
    return Table(tuple(entries), (bert.POSITION_IDS,))


def _heads(c: Qformer.Config, names: Names) -> list[Entry]:
    entries = [
        *linear('heads/image', names.image),
        *linear('heads/text', names.text),
        *linear('heads/verdict', 'itm_head'),
    ]
    if c.heads.temperature:
        entries.append(Entry('heads/temperature', 'temp', Vector(())))
    if c.heads.writes:
        head = 'Qformer.cls.predictions'
        bias = Entry('heads/name/bias', f'{head}.bias', Vocabulary((c.words.vocab,)), also=(f'{head}.decoder.bias',))
        entries += [
            *bert.transform('heads/transform', f'{head}.transform'),
            *words('heads/name/kernel', f'{head}.decoder', (c.words.vocab,), transposed=True),
            bias,
        ]
    return entries
