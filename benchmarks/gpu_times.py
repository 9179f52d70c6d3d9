# SPDX-License-Identifier: Apache-2.0
"""Times attention on the GPU of this machine: ours beside cuDNN's, tokamax's and the chunked version in plain XLA.

Every figure is the median of several runs, each of which ends when the device is idle. TFLOP/s count the pairs of a
query and a key that see each other (4 * width operations each forward, 10 backward), for all implementations alike;
shares are of what a large product of bfloat16 matrices reaches on the same device.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.span_attention import fused
from pallas_kernels.span_attention.gpu import Gpu
from pallas_kernels.span_attention.xla import Xla

HEADS, KV_HEADS = 16, 4
TOKENS = 32768  # of all rows together
RUNS, WARM = 10, 3


def seconds(call: Callable, *arrays) -> float:
    """Returns the median time of a compiled call."""
    call = jax.jit(call)
    for _ in range(WARM):
        jax.block_until_ready(call(*arrays))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        jax.block_until_ready(call(*arrays))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak() -> float:
    """Returns the operations a second of a product of two bfloat16 matrices."""
    side = 8192
    x = jnp.ones((side, side), jnp.bfloat16)
    return 2 * side**3 / seconds(lambda x, y: x @ y, x, x)


def cudnn(q, k, v, span):
    """cuDNN's flash attention, causal, without packing."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation='cudnn')


def tokamax(q, k, v, span):
    """The best that tokamax has for the device, causal, without packing."""
    import tokamax as library

    return library.dot_product_attention(q, k, v, is_causal=True)


def implementations(width: int) -> dict[str, Callable]:
    """Returns what to time, by name; the first is ours."""
    of = lambda kernel: lambda *arrays: fused.attention(kernel(scale=width**-0.5), *arrays)[0]
    return {'ours': of(Gpu), 'xla': of(Xla), 'cudnn': cudnn, 'tokamax': tokamax}


def rows(lengths, widths, masks: dict[str, Callable[[int], np.ndarray]]) -> Iterator[str]:
    """Yields the table, line by line; masks give the spans [L, 2] of a row of a length."""
    top, names = peak(), list(implementations(64))
    yield f'{jax.devices()[0].device_kind}: {top / 1e12:.0f} TFLOP/s of bfloat16 products; jax {jax.__version__}'
    yield '| mask | length | width | pass | ' + ' | '.join(f'{name}: ms (TFLOP/s, of peak)' for name in names) + ' |'
    yield '|---' * (4 + len(names)) + '|'
    for mask, draw in masks.items():
        for length in lengths:
            for width in widths:
                for backward in (False, True):
                    cells = line(mask, draw(length), length, width, backward, top)
                    yield f'| {mask} | {length} | {width} | {"both" if backward else "forward"} | {cells} |'


def line(mask: str, span: np.ndarray, length: int, width: int, backward: bool, top: float) -> str:
    """Returns the cells of one line: all implementations, or why one does not run."""
    rng, batch = np.random.default_rng(0), max(TOKENS // length, 1)
    normal = lambda heads: jnp.asarray(rng.normal(size=(batch, length, heads, width)), jnp.bfloat16)
    q, k, v = normal(HEADS), normal(KV_HEADS), normal(KV_HEADS)
    spans = jnp.broadcast_to(jnp.asarray(span, jnp.int32), (batch, length, 2))
    work = batch * HEADS * width * float((span[:, 1] - span[:, 0]).sum()) * (14 if backward else 4)
    cells = []
    for name, call in implementations(width).items():
        if name in ('cudnn', 'tokamax') and mask != 'causal':
            cells.append('no such mask')
            continue
        run = jax.grad(functools.partial(_loss, call), (0, 1, 2)) if backward else call
        try:
            taken = seconds(run, q, k, v, spans)
        except Exception as error:  # a library that is absent, or refuses the shape: the table says so and goes on
            cells.append(f'{type(error).__name__}')
            continue
        cells.append(f'{taken * 1e3:.2f} ({work / taken / 1e12:.0f}, {work / taken / top:.0%})')
    return ' | '.join(cells)


def _loss(call, q, k, v, span):
    return call(q, k, v, span).astype(jnp.float32).sum()
