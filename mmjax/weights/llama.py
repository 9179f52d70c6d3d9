# SPDX-License-Identifier: Apache-2.0
"""The layout of LlamaForCausalLM (LLaMA, Vicuna)."""

from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp
from mmjax.weights.parts import activation, attention, linear, norm, rotary, words
from mmjax.weights.table import Table


def config(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a config.json; what it leaves out has the public class's default."""
    heads, bias, mlp_bias = (
        public.get('num_attention_heads', 32),
        public.get('attention_bias', False),
        public.get('mlp_bias', False),
    )
    scale = Norm.Config(kind='rms', eps=public.get('rms_norm_eps', 1e-6))
    block = Block.Config(
        attn=Attention.Config(
            heads=heads,
            kv_heads=public.get('num_key_value_heads') or heads,
            head_width=public.get('head_dim'),
            q_bias=bias,
            k_bias=bias,
            v_bias=bias,
            o_bias=bias,
        ),
        mlp=Mlp.Config(
            width=public.get('intermediate_size', 11008),
            act=activation(public.get('hidden_act', 'silu')),
            gated=True,
            bias=mlp_bias,
        ),
        norm=scale,
    )
    return Decoder.Config(
        vocab=public.get('vocab_size', 32000),
        width=public.get('hidden_size', 4096),
        depth=public.get('num_hidden_layers', 32),
        block=block,
        norm=scale,
        position=rotary(public),
        tied=public.get('tie_word_embeddings', False),
    )


def table(c: Decoder.Config, body: str = 'model.', head: str = 'lm_head') -> Table:
    """Returns the names of a decoder; `body` and `head` begin the public ones."""
    entries = [
        *words('embed/table', f'{body}embed_tokens', (c.vocab,)),
        *blocks(c, f'{body}layers.{{layer}}'),
        *norm('norm', f'{body}norm', bias=False),
        *([] if c.tied else words('head/kernel', head, (c.vocab,), transposed=True)),
    ]
    tied = [(rf'{head}\.weight', 'the head is the embedding table')] if c.tied else []
    # Old checkpoints hold the rotary frequencies, which follow from the config.
    return Table(tuple(entries), ((r'.*rotary_emb\.inv_freq', 'computed from the config'), *tied))


def blocks(c: Decoder.Config, key: str) -> list:
    """Names the decoder's blocks, with norms of queries and keys where it has them; `key` holds `{layer}`."""
    layers, attn = range(c.depth), c.block.attn
    mlp_bias = c.block.mlp.bias
    qk_norm = [(f'blocks/attn/{p}_norm', f'{key}.self_attn.{p}_norm') for p in 'qk'] if attn.qk_norm else []
    return [
        *norm('blocks/attn_norm', f'{key}.input_layernorm', bias=False, layers=layers),
        *attention('blocks/attn', f'{key}.self_attn', bias=attn.q_bias, out_bias=attn.o_bias, layers=layers),
        *(entry for names in qk_norm for entry in norm(*names, bias=False, layers=layers)),
        *norm('blocks/mlp_norm', f'{key}.post_attention_layernorm', bias=False, layers=layers),
        *linear('blocks/mlp/gate', f'{key}.mlp.gate_proj', bias=mlp_bias, layers=layers),
        *linear('blocks/mlp/up', f'{key}.mlp.up_proj', bias=mlp_bias, layers=layers),
        *linear('blocks/mlp/down', f'{key}.mlp.down_proj', bias=mlp_bias, layers=layers),
    ]
