# SPDX-License-Identifier: Apache-2.0
"""The layout of GPT2LMHeadModel, whose matrices are stored [in, out]."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Learned
from mmjax.weights.parts import activation, norm, words
from mmjax.weights.rules import Joined, Matrix, Rule, Same, Transposed, Vector
from mmjax.weights.table import Entry, Table


def config(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a config.json."""
    width = public.get('n_embd', 768)
    for switch, usual in (
        ('scale_attn_weights', True),
        ('scale_attn_by_inverse_layer_idx', False),
        ('add_cross_attention', False),
    ):
        if public.get(switch, usual) != usual:
            raise ValueError(f'{switch}={not usual} is not implemented; published checkpoints have {usual}')
    scale = Norm.Config(eps=public.get('layer_norm_epsilon', 1e-5))
    block = Block.Config(
        attn=Attention.Config(heads=public.get('n_head', 12), q_bias=True, k_bias=True, v_bias=True, o_bias=True),
        mlp=Mlp.Config(
            width=public.get('n_inner') or 4 * width, act=activation(public.get('activation_function', 'gelu_new'))
        ),
        norm=scale,
    )
    return Decoder.Config(
        vocab=public.get('vocab_size', 50257),
        width=width,
        depth=public.get('n_layer', 12),
        block=block,
        norm=scale,
        position=Learned.Config(length=public.get('n_positions', 1024)),
        tied=public.get('tie_word_embeddings', True),
    )


def table(c: Decoder.Config, body: str = 'transformer.') -> Table:
    """Returns the names of a checkpoint; the oldest ones on the Hub lack `body`, so that it is ''."""
    layers, key, parts = range(c.depth), f'{body}h.{{layer}}', ('q', 'k', 'v')
    kernels, biases = (tuple(f'blocks/attn/{p}/{kind}' for p in parts) for kind in ('kernel', 'bias'))

    def affine(ours: str, public: str, rule: Rule = Matrix()) -> list[Entry]:
        return [
            Entry(f'{ours}/kernel', f'{public}.weight', Transposed(rule), layers),
            Entry(f'{ours}/bias', f'{public}.bias', layers=layers),
        ]

    entries = (
        *words('embed/table', f'{body}wte', (c.vocab,)),
        Entry('position/table', f'{body}wpe.weight', Same()),
        *norm('blocks/attn_norm', f'{key}.ln_1', layers=layers),
        Entry(kernels, f'{key}.attn.c_attn.weight', Transposed(Joined(Matrix())), layers),
        Entry(biases, f'{key}.attn.c_attn.bias', Joined(Vector()), layers),
        *affine('blocks/attn/o', f'{key}.attn.c_proj', Matrix(inputs=2)),
        *norm('blocks/mlp_norm', f'{key}.ln_2', layers=layers),
        *affine('blocks/mlp/up', f'{key}.mlp.c_fc'),
        *affine('blocks/mlp/down', f'{key}.mlp.c_proj'),
        *norm('norm', f'{body}ln_f'),
        *([] if c.tied else words('head/kernel', 'lm_head', (c.vocab,), transposed=True)),
    )
    tied = [(r'lm_head\.weight', 'the head is the embedding table')] if c.tied else []
    # Old checkpoints hold the causal masks.
    return Table(entries, ((r'(.*\.)?attn\.(masked_)?bias', 'a mask, computed from the spans'), *tied))
