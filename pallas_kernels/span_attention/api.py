# SPDX-License-Identifier: Apache-2.0
"""The public function: it chooses an implementation; `reference` defines what all of them compute."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels.platform import platform
from pallas_kernels.span_attention import fused, reference
from pallas_kernels.span_attention.gpu import Gpu
from pallas_kernels.span_attention.tiles import Planned, plain
from pallas_kernels.span_attention.tpu import Tpu
from pallas_kernels.span_attention.tpu_decode import few
from pallas_kernels.span_attention.xla import Xla

KERNELS = ('tpu', 'gpu')  # each for the platform of its name
IMPLEMENTATIONS = ('reference', 'xla', *KERNELS)
HEAD_WIDTHS, DTYPES = (32, 256), (jnp.bfloat16, jnp.float32)  # what the kernels are made for
# Below this many keys, tiles cost more than they save (`docs/kernels.md`).
KERNEL_KEYS = 1024


def span_attention(
    q: Float[Array, 'B L N H'],
    k: Float[Array, '*depth B S K H'],
    v: Float[Array, '*depth B S K Hv'],
    span: Int[Array, 'B L 2'] | Planned,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: Float[Array, 'N'] | None = None,
    bias: Float[Array, '#B N L S'] | None = None,
    layer: Int[Array, ''] | None = None,
    implementation: str | None = None,
    return_lse: bool = False,
) -> Float[Array, 'B L N Hv'] | tuple[Float[Array, 'B L N Hv'], Float[Array, 'B L N']]:
    """Returns softmax(scale * q k^T) v over the keys span[..., 0] <= j < span[..., 1]; an empty span gives exact zeros.

    N / K query heads in a row share a key/value head. scale: None is H ** -0.5. soft_cap: scores become
    cap * tanh(scores / cap). sinks: each head's score of one more key whose value is zero. bias: added to the scores,
    capped ones too; the same for all rows where its first axis is 1. Softmax is float32, the result has the type of v;
    with `return_lse` also the log of each query's sum of exponentials, -inf where it sees nothing. Keys before or
    behind all spans of a row may hold anything, NaN too. No gradient flows to the span, which a `planner` may make.

    layer: k and v are a cache of all layers [depth, B, S, K, H], of which this one is read. Where a kernel reads it in
    place (few queries on a TPU), nothing is copied and there is no gradient.

    implementation: 'reference', 'xla' (any backend), 'tpu', 'gpu'; None takes the fastest that runs on the backend. A
    bias is as large as the scores, so that nothing is gained by cutting those: only 'reference', which holds them,
    takes one.
    """
    check_arrays(q, k, v, plain(span), sinks, bias, layer)
    if implementation is None:
        implementation = 'reference' if bias is not None else _fastest(q, k)
    check_implementation(implementation, q, k, v, bias)
    settings = dict(scale=q.shape[-1] ** -0.5 if scale is None else scale, soft_cap=soft_cap)
    if layer is not None and not (implementation == 'tpu' and few(q)):
        k, v = (lax.dynamic_index_in_dim(x, layer, 0, keepdims=False) for x in (k, v))
        layer = None
    match implementation:
        case 'reference':
            out, lse = reference.attention(q, k, v, plain(span), bias=bias, **settings)
        case 'xla':
            out, lse = fused.attention(Xla(**settings), q, k, v, plain(span))
        case 'gpu':
            out, lse = fused.attention(Gpu(**settings), q, k, v, plain(span))
        case 'tpu' if layer is None:
            out, lse = fused.attention(Tpu(**settings), q, k, v, span)
        case 'tpu':
            out, lse = Tpu(**settings).decode_in_place(q, k, v, span, layer)
    if sinks is not None:
        out, lse = fused.with_sinks(out, lse, sinks)
    if not return_lse:
        return out
    return out, jnp.where(lse < fused.NOTHING, lse, -jnp.inf)


def planner(q: jax.ShapeDtypeStruct, k: jax.ShapeDtypeStruct) -> Callable[[Int[Array, 'B L 2']], Planned] | None:
    """Returns what makes of spans all that the fastest implementation computes from them alone, or None: nothing.

    What it makes takes the place of the spans: computed once before a loop over layers, for XLA would compute it in
    each. q [B, L, N, H] and k [B, S, K, H] say which shapes and type the layers' queries and keys will have.
    """
    return functools.partial(Tpu(scale=1.0).plan, q, k) if _fastest(q, k) == 'tpu' else None


def _fastest(q, k) -> str:
    here = platform()
    fits = k.shape[-3] >= KERNEL_KEYS and HEAD_WIDTHS[0] <= q.shape[-1] <= HEAD_WIDTHS[1] and q.dtype in DTYPES
    return here if here in KERNELS and fits and k.dtype == q.dtype else 'xla'


def check_implementation(name: str, q, k, v, bias) -> None:
    """Refuses what an implementation does not do, and says which one does."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f'no implementation {name!r} of span_attention; choose one of {sorted(IMPLEMENTATIONS)}')
    if bias is not None and name != 'reference':
        raise ValueError(f"span_attention: {name!r} takes no bias; 'reference' does")
    if name not in KERNELS:
        return
    if platform() != name:
        raise ValueError(f"span_attention: {name!r} does not run on {platform()}; 'xla' does")
    least, most = HEAD_WIDTHS
    if not least <= q.shape[-1] <= most or not least <= v.shape[-1] <= most or q.dtype not in DTYPES:
        raise ValueError(
            f'span_attention: {name!r} is made for heads of {least} to {most} in bfloat16 or float32, '
            f"not of {q.shape[-1]} with values of {v.shape[-1]} in {q.dtype}; 'xla' takes them"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f'span_attention: {name!r} takes q, k and v of one type, not {q.dtype}, {k.dtype} and {v.dtype}; '
            "'xla' takes them"
        )


def check_arrays(q, k, v, span, sinks, bias=None, layer=None) -> None:
    """Refuses arrays that do not belong together."""
    shapes = f'q {q.shape}, k {k.shape}, v {v.shape}, span {span.shape}'
    depth = () if layer is None else ('depth',)
    if q.ndim != 4 or k.ndim != 4 + len(depth) or v.ndim != k.ndim or span.ndim != 3:
        cache = f'[{",".join((*depth, "B", "S", "K"))}'
        raise ValueError(
            f'span_attention takes q [B,L,N,H], k {cache},H], v {cache},Hv] and span [B,L,2], not {shapes}'
        )
    rows, length, heads, width = q.shape
    _, keys, kv_heads, _ = k.shape[-4:]
    if k.shape[-4] != rows or k.shape[:-1] != v.shape[:-1] or k.shape[-1] != width or span.shape != (rows, length, 2):
        raise ValueError(f'span_attention takes q [B,L,N,H], k [B,S,K,H], v [B,S,K,Hv] and span [B,L,2], not {shapes}')
    if heads % kv_heads:
        raise ValueError(f'{heads} query heads cannot share {kv_heads} key heads evenly')
    if not jnp.issubdtype(span.dtype, jnp.integer):
        raise TypeError(f'span_attention takes spans of integers, not {span.dtype}')
    if sinks is not None and sinks.shape != (heads,):
        raise ValueError(f'span_attention takes one sink for each of {heads} heads, not {sinks.shape}')
    if bias is not None and bias.shape not in [(n, heads, length, keys) for n in (1, rows)]:
        raise ValueError(f'span_attention takes a bias [1 or B,N,L,S], not {bias.shape}, for {shapes}')
