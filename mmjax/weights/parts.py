# SPDX-License-Identifier: Apache-2.0
"""What public layouts share: the names of a Linear, a norm, an attention layer, and the reading of a config.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.nn.positions import Rotary
from mmjax.weights.rules import Joined, Matrix, Vector, Vocabulary
from mmjax.weights.table import Entry, Layers


def linear(ours: str, public: str, *, bias: bool = True, inputs: int = 1, layers: Layers = None) -> list[Entry]:
    """Names a Linear; `inputs` leading axes of our kernel are summed over."""
    entries = [Entry(f'{ours}/kernel', f'{public}.weight', Matrix(inputs), layers)]
    return entries + ([Entry(f'{ours}/bias', f'{public}.bias', Vector(), layers)] if bias else [])


def norm(ours: str, public: str, *, bias: bool = True, layers: Layers = None) -> list[Entry]:
    """Names a norm: LayerNorm with a bias, RMSNorm without."""
    entries = [Entry(f'{ours}/scale', f'{public}.weight', Vector(), layers)]
    return entries + ([Entry(f'{ours}/bias', f'{public}.bias', Vector(), layers)] if bias else [])


def attention(
    ours: str,
    public: str,
    *,
    names: tuple[str, str, str, str] = ('q_proj', 'k_proj', 'v_proj', 'o_proj'),
    bias: bool = False,
    out_bias: bool = False,
    layers: Layers = None,
) -> list[Entry]:
    """Names an attention layer whose queries, keys and values are three Linears."""
    q, k, v, o = names
    return [
        *linear(f'{ours}/q', f'{public}.{q}', bias=bias, layers=layers),
        *linear(f'{ours}/k', f'{public}.{k}', bias=bias, layers=layers),
        *linear(f'{ours}/v', f'{public}.{v}', bias=bias, layers=layers),
        *linear(f'{ours}/o', f'{public}.{o}', bias=out_bias, inputs=2, layers=layers),
    ]


def fused(ours: str, public: str, *, bias: bool = False, dot: str = '.', layers: Layers = None) -> list[Entry]:
    """Names queries, keys and values that are one Linear, one after the other; `dot` stands before weight and bias."""
    parts = ('q', 'k', 'v')
    entries = [Entry(tuple(f'{ours}/{p}/kernel' for p in parts), f'{public}{dot}weight', Joined(Matrix()), layers)]
    biases = Entry(tuple(f'{ours}/{p}/bias' for p in parts), f'{public}{dot}bias', Joined(Vector()), layers)
    return entries + ([biases] if bias else [])


def fused_attention(ours: str, public: str, *, layers: Layers = None) -> list[Entry]:
    """Names an attention layer of torch's own class: queries, keys and values are one tensor, one after the other."""
    return [
        *fused(ours, f'{public}.in_proj', bias=True, dot='_', layers=layers),
        *linear(f'{ours}/o', f'{public}.out_proj', inputs=2, layers=layers),
    ]


def words(ours: str, public: str | Sequence[str], counts: tuple[int, ...], *, transposed: bool = False) -> list[Entry]:
    """Names a table of words (or, transposed, a head): one public table, or several that follow one another in ours."""
    keys = (public,) if isinstance(public, str) else tuple(public)
    return [Entry(ours, tuple(f'{key}.weight' for key in keys), Vocabulary(counts, transposed))]


_ACTIVATIONS = {'gelu_new': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh', 'swish': 'silu', 'relu_2': 'relu2'}


def activation(public: str) -> str:
    """Returns our name of an activation."""
    return _ACTIVATIONS.get(public, public)


def rotary(public: Mapping[str, Any], **ours: Any) -> Rotary.Config:
    """Returns the rotary positions of a config.json, in its old spelling (rope_theta, rope_scaling) or its new one."""
    rope = public.get('rope_parameters') or public.get('rope_scaling') or {}
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind not in ('default', 'linear'):
        raise ValueError(f"rotary positions of type {kind!r} are not implemented; 'default' and 'linear' are")
    return Rotary.Config(
        theta=float(rope.get('rope_theta', public.get('rope_theta', 10_000.0))),
        factor=float(rope['factor']) if kind == 'linear' else 1.0,
        fraction=float(rope.get('partial_rotary_factor', public.get('partial_rotary_factor', 1.0))),
        **ours,
    )
