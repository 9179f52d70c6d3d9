# SPDX-License-Identifier: Apache-2.0
"""The layouts of Qwen2ForCausalLM and Qwen3ForCausalLM: LLaMA's names, with biases or norms in attention."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.models.decoder import Decoder
from mmjax.weights import llama
from mmjax.weights.llama import table

__all__ = ['qwen2', 'qwen3', 'table']

DEFAULTS = dict(vocab_size=151936, intermediate_size=22016)  # where the public classes differ from LLaMA's


def qwen2(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a config.json: queries, keys and values have biases."""
    return _with_attention(public, q_bias=True, k_bias=True, v_bias=True, o_bias=False)


def qwen3(public: Mapping[str, Any]) -> Decoder.Config:
    """Returns our config of a config.json: queries and keys are normed, head by head."""
    return _with_attention({'head_dim': 128, **public}, qk_norm=llama.config(public).norm)


def _with_attention(public: Mapping[str, Any], **changes: Any) -> Decoder.Config:
    if public.get('use_sliding_window'):
        raise ValueError('use_sliding_window: windows in the last layers only are not implemented; set it to False')
    c = llama.config({**DEFAULTS, **public})
    attn = dataclasses.replace(c.block.attn, **changes)
    return dataclasses.replace(c, block=dataclasses.replace(c.block, attn=attn))
