# SPDX-License-Identifier: Apache-2.0
"""The layout of T5ForConditionalGeneration (T5, T5 v1.1, FLAN-T5)."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.trunk import Trunk
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, CrossBranch
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Relative
from mmjax.weights.parts import activation, attention, linear, norm, words
from mmjax.weights.rules import Same
from mmjax.weights.table import Entry, Table

_NAMES = ('q', 'k', 'v', 'o')


def config(public: Mapping[str, Any]) -> Seq2seq.Config:
    """Returns our config of a config.json; what it leaves out has the public class's default."""
    width, depth = public.get('d_model', 512), public.get('num_layers', 6)
    scale = Norm.Config(kind='rms', eps=public.get('layer_norm_epsilon', 1e-6))
    # Scores are not scaled: T5 began with smaller kernels of queries instead.
    attn = Attention.Config(heads=public.get('num_heads', 8), head_width=public.get('d_kv', 64), scale=1.0)
    *gated, act = public.get('feed_forward_proj', 'relu').split('-')
    mlp = Mlp.Config(
        width=public.get('d_ff', 2048),
        # `gated-gelu` means the approximation; where there is no gate, names mean what they say.
        act='gelu_tanh' if gated and act == 'gelu' else activation(act),
        gated=bool(gated),
        bias=False,
    )
    block = Block.Config(attn=attn, mlp=mlp, norm=scale)

    def stack(kind: type, depth: int, *, two_way: bool, **more: Any) -> Any:
        buckets, reach = (public.get(f'relative_attention_{key}') for key in ('num_buckets', 'max_distance'))
        position = Relative.Config(buckets=buckets or 32, reach=reach or 128, two_way=two_way)
        return kind(depth=depth, block=block, norm=scale, position=position, **more)

    tied = public.get('tie_word_embeddings', True)
    return Seq2seq.Config(
        encoder=stack(Trunk.Config, depth, two_way=True),
        decoder=stack(
            Decoder.Config,
            public.get('num_decoder_layers') or depth,
            two_way=False,
            vocab=public.get('vocab_size', 32128),
            width=width,
            tied=tied,
            logit_scale=width**-0.5 if public.get('scale_decoder_outputs', tied) else 1.0,
        ),
        cross=CrossBranch.Config(attn=attn, norm=scale),
    )


def table(c: Seq2seq.Config) -> Table:
    """Returns the names of a checkpoint."""
    tied = c.decoder.tied
    entries = (
        *words('decoder/embed/table', 'shared', (c.vocab,)),
        *_stack('encoder/', 'encoder', c.encoder, mlp=1),
        *_stack('decoder/', 'decoder', c.decoder, mlp=2),
        *_branch('decoder/xattn', 'decoder', 1, 'EncDecAttention', c.decoder, 'norm'),
        *([] if tied else words('decoder/head/kernel', 'lm_head', (c.vocab,), transposed=True)),
    )
    ignored = [
        (r'(encoder|decoder)\.embed_tokens\.weight', 'the same as shared.weight'),
        # The first checkpoints hold a table that the public class never read.
        (r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight', 'read by nothing'),
        *([(r'lm_head\.weight', 'the head is the embedding table')] if tied else []),
    ]
    return Table(entries, tuple(ignored))


def _stack(ours: str, public: str, c: Trunk.Config, *, mlp: int) -> list[Entry]:
    """Names a stack whose blocks have their MLP as part number `mlp`."""
    layers, key = range(c.depth), f'{public}.block.{{layer}}.layer.{mlp}'
    names = {'gate': 'wi_0', 'up': 'wi_1', 'down': 'wo'} if c.block.mlp.gated else {'up': 'wi', 'down': 'wo'}
    biases = f'{public}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    return [
        Entry(f'{ours}relative/table', biases, Same()),
        *_branch(f'{ours}blocks', public, 0, 'SelfAttention', c, 'attn_norm'),
        *norm(f'{ours}blocks/mlp_norm', f'{key}.layer_norm', bias=False, layers=layers),
        *(
            entry
            for part, name in names.items()
            for entry in linear(f'{ours}blocks/mlp/{part}', f'{key}.DenseReluDense.{name}', bias=False, layers=layers)
        ),
        *norm(f'{ours}norm', f'{public}.final_layer_norm', bias=False),
    ]


def _branch(ours: str, public: str, part: int, kind: str, c: Trunk.Config, ours_norm: str) -> list[Entry]:
    layers, key = range(c.depth), f'{public}.block.{{layer}}.layer.{part}'
    return [
        *norm(f'{ours}/{ours_norm}', f'{key}.layer_norm', bias=False, layers=layers),
        *attention(f'{ours}/attn', f'{key}.{kind}', names=_NAMES, layers=layers),
    ]
