# SPDX-License-Identifier: Apache-2.0
"""The public function: it chooses an implementation; `reference` defines what all of them compute."""

from jaxtyping import Array, Float, Int

from pallas_kernels.span_attention import reference, xla

IMPLEMENTATIONS = {'reference': reference.attention, 'xla': xla.attention}


def span_attention(
    q: Float[Array, 'B L N H'],
    k: Float[Array, 'B S K H'],
    v: Float[Array, 'B S K Hv'],
    span: Int[Array, 'B L 2'],
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: str | None = None,
) -> Float[Array, 'B L N Hv']:
    """Returns softmax(scale * q k^T) v over the keys span[..., 0] <= j < span[..., 1]; an empty span gives exact zeros.

    N / K query heads in a row share a key/value head. scale: None is H ** -0.5. soft_cap: scores become
    cap * tanh(scores / cap). Softmax is float32, the result has the type of v. No gradient flows to the span.
    """
    if q.shape[2] % k.shape[2]:
        raise ValueError(f'{q.shape[2]} query heads cannot share {k.shape[2]} key heads evenly')
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f'no implementation {implementation!r} of span_attention; choose one of {sorted(IMPLEMENTATIONS)}'
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return IMPLEMENTATIONS[implementation or 'xla'](q, k, v, span, scale=scale, soft_cap=soft_cap)
