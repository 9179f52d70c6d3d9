# SPDX-License-Identifier: Apache-2.0
"""The public function: it chooses an implementation; `reference` defines what all of them compute."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.platform import platform
from pallas_kernels.span_attention import fused, reference
from pallas_kernels.span_attention.gpu import Gpu
from pallas_kernels.span_attention.tiles import Planned, plain
from pallas_kernels.span_attention.tpu import Tpu
from pallas_kernels.span_attention.xla import Xla

KERNELS = {'tpu': Tpu, 'gpu': Gpu}  # each for the platform of its name
IMPLEMENTATIONS = ('reference', 'xla', *KERNELS)
HEAD_WIDTHS = (32, 256)  # what these kernels are made for
# Below this many keys, tiles cost more than they save (`docs/kernels.md`).
KERNEL_KEYS = 1024


def span_attention(
    q: Float[Array, 'B L N H'],
    k: Float[Array, 'B S K H'],
    v: Float[Array, 'B S K Hv'],
    span: Int[Array, 'B L 2'] | Planned,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: Float[Array, 'N'] | None = None,
    bias: Float[Array, '#B N L S'] | None = None,
    implementation: str | None = None,
    return_lse: bool = False,
) -> Float[Array, 'B L N Hv'] | tuple[Float[Array, 'B L N Hv'], Float[Array, 'B L N']]:
    """Returns softmax(scale * q k^T) v over the keys span[..., 0] <= j < span[..., 1]; an empty span gives exact zeros.

    N / K query heads in a row share a key/value head. scale: None is H ** -0.5. soft_cap: scores become
    cap * tanh(scores / cap). sinks: each head's score of one more key whose value is zero. bias: added to the scores,
    capped ones too; the same for all rows where its first axis is 1. Softmax is float32, the result has the type of v;
    with `return_lse` also the log of each query's sum of exponentials, -inf where it sees nothing. Keys before or
    behind all spans of a row may hold anything, NaN too. No gradient flows to the span, which a `planner` may make.

    implementation: 'reference', 'xla' (any backend), 'tpu', 'gpu'; None takes the fastest that runs on the backend. A
    bias is as large as the scores, so that nothing is gained by cutting those: only 'reference', which holds them,
    takes one.
    """
    check_arrays(q, k, v, plain(span), sinks, bias)
    settings = dict(scale=q.shape[-1] ** -0.5 if scale is None else scale, soft_cap=soft_cap)
    if bias is not None:
        if implementation not in (None, 'reference'):
            raise ValueError(f"span_attention: {implementation!r} takes no bias; 'reference' does")
        implementation, settings = 'reference', {**settings, 'bias': bias}
    kernel = _choose(implementation, q, k)(**settings)
    out, lse = kernel(q, k, v, span)
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
    return here if here in KERNELS and k.shape[1] >= KERNEL_KEYS and fits(q) else 'xla'


def _choose(implementation: str | None, q, k) -> Callable:
    """Returns what takes scale and soft_cap, and gives what takes the arrays."""
    implementation = implementation or _fastest(q, k)
    match implementation:
        case 'reference':
            return lambda **kw: lambda q, k, v, span: reference.attention(q, k, v, plain(span), **kw)
        case 'xla':
            return lambda **kw: lambda q, k, v, span: fused.attention(Xla(**kw), q, k, v, plain(span))
        case 'tpu' | 'gpu':
            if platform() != implementation:
                raise ValueError(f"span_attention: {implementation!r} does not run on {platform()}; 'xla' does")
            if not fits(q):
                raise ValueError(
                    f'span_attention: {implementation!r} is made for heads of {HEAD_WIDTHS[0]} to {HEAD_WIDTHS[1]} in '
                    f"bfloat16 or float32, not of {q.shape[-1]} in {q.dtype}; 'xla' takes them"
                )
            return lambda **kw: lambda *arrays: fused.attention(KERNELS[implementation](**kw), *arrays)
    raise ValueError(f'no implementation {implementation!r} of span_attention; choose one of {sorted(IMPLEMENTATIONS)}')


def fits(q) -> bool:
    """Returns whether the kernels take such queries."""
    return HEAD_WIDTHS[0] <= q.shape[-1] <= HEAD_WIDTHS[1] and q.dtype in (jnp.bfloat16, jnp.float32)


def check_arrays(q, k, v, span, sinks, bias=None) -> None:
    """Refuses arrays that do not belong together."""
    rows, length, heads, width = q.shape
    shapes = f'q {q.shape}, k {k.shape}, v {v.shape}, span {span.shape}'
    if k.shape[0] != rows or k.shape[:3] != v.shape[:3] or k.shape[3] != width or span.shape != (rows, length, 2):
        raise ValueError(f'span_attention takes q [B,L,N,H], k [B,S,K,H], v [B,S,K,Hv] and span [B,L,2], not {shapes}')
    if heads % k.shape[2]:
        raise ValueError(f'{heads} query heads cannot share {k.shape[2]} key heads evenly')
    if not jnp.issubdtype(span.dtype, jnp.integer):
        raise TypeError(f'span_attention takes spans of integers, not {span.dtype}')
    if sinks is not None and sinks.shape != (heads,):
        raise ValueError(f'span_attention takes one sink for each of {heads} heads, not {sinks.shape}')
    if bias is not None and bias.shape not in [(n, heads, length, k.shape[1]) for n in (1, rows)]:
        raise ValueError(f'span_attention takes a bias [1 or B,N,L,S], not {bias.shape}, for {shapes}')
