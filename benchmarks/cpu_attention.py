# SPDX-License-Identifier: Apache-2.0
"""Measures span attention on one CPU core beside jax.nn's and PyTorch's, in turns, by CPU time.

    pip install -e '.[parity]' && python benchmarks/cpu_attention.py

1 row, 8 heads of 64, float32. Packed rows hold four causal documents: both others take a dense mask for them.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LENGTHS = (256, 512, 1024, 2048)
HEADS, WIDTH = 8, 64
ENDS = (0.1, 0.5, 0.7, 1.0)  # of the documents of a packed row


def spans(length: int, packed: bool) -> np.ndarray:
    """Returns the spans [1, L, 2] of one document or of four."""
    place = np.arange(length)
    ends = np.array([round(end * length) for end in ENDS if packed or end == 1])
    starts = np.concatenate([[0], ends[:-1]])
    return np.stack([starts[np.searchsorted(ends, place, side='right')], place + 1], axis=-1)[None]


def candidates(length: int, packed: bool, backward: bool) -> tuple[dict[str, Callable[[], Any]], int]:
    """Returns what to time, by name, and the bytes of scratch that our program takes; all give the same."""
    import jax
    import jax.numpy as jnp
    import torch

    from pallas_kernels.span_attention import span_attention

    rng, span = np.random.default_rng(0), spans(length, packed)
    qkv = [rng.normal(size=(1, length, HEADS, WIDTH)).astype(np.float32) for _ in range(3)]
    keys = np.arange(length)
    mask = (span[..., :1] <= keys) & (keys < span[..., 1:])
    how = {'mask': jnp.asarray(mask)[:, None]} if packed else {'is_causal': True}
    calls = {
        'ours': lambda q, k, v: span_attention(q, k, v, jnp.asarray(span, jnp.int32)),
        'jax.nn': lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **how),
    }
    arrays, found, scratch = [jnp.asarray(x) for x in qkv], {}, 0
    for name, call in calls.items():
        step = jax.grad(lambda q, k, v, call=call: call(q, k, v).sum(), (0, 1, 2)) if backward else call
        program = jax.jit(step).lower(*arrays).compile()
        found[name] = lambda program=program: jax.block_until_ready(program(*arrays))
        scratch = scratch or program.memory_analysis().temp_size_in_bytes

    tensors = [torch.from_numpy(x).transpose(1, 2).contiguous().requires_grad_(backward) for x in qkv]
    visible = {'attn_mask': torch.from_numpy(mask)[:, None]} if packed else {'is_causal': True}

    def of_torch() -> list[torch.Tensor]:
        out = torch.nn.functional.scaled_dot_product_attention(*tensors, **visible)
        if not backward:
            return [out]
        return list(torch.autograd.grad(out.sum(), tensors))

    found['torch'] = of_torch
    mine = found['ours']()
    for got, want in zip(mine if backward else [mine], of_torch(), strict=True):
        np.testing.assert_allclose(got, want.detach().transpose(1, 2).numpy(), atol=1e-4)
    return found, scratch


def rows(repeat: int, lengths: Sequence[int] = LENGTHS, masks: Sequence[bool] = (False, True)) -> None:
    """Prints the table, a row as soon as it is measured."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # before jax and torch count the cores
    import jax
    import torch

    torch.set_num_threads(1)
    print(f'jax {jax.__version__}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}')
    head = ['mask', 'L', 'pass', 'ours, ms', 'jax.nn / ours', 'torch / ours', 'scratch, MiB', 'of dense scores']
    print('| ' + ' | '.join(head) + ' |\n' + '|---' * len(head) + '|')
    for packed in masks:
        for length in lengths:
            for backward in (False, True):
                calls, scratch = candidates(length, packed, backward)
                times: dict[str, list[float]] = {name: [] for name in calls}
                for _ in range(repeat):
                    for name, call in calls.items():
                        call()  # the caches are its own
                        start = time.process_time()
                        call()
                        times[name].append(time.process_time() - start)
                median = {name: float(np.median(t)) for name, t in times.items()}
                ratio = lambda name, times=times: float(np.median(np.divide(times[name], times['ours'])))
                cells = [
                    'packed' if packed else 'causal',
                    length,
                    'with gradient' if backward else 'forward',
                    *(f'{1e3 * median["ours"]:.1f}', f'{ratio("jax.nn"):.2f}', f'{ratio("torch"):.2f}'),
                    *(f'{scratch / 2**20:.1f}', f'{scratch / (4 * HEADS * length**2):.0%}'),
                ]
                print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)
    print(f'load {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeat', type=int, default=15)
    parser.add_argument('--lengths', type=int, nargs='+', default=LENGTHS)
    given = parser.parse_args()
    rows(given.repeat, given.lengths)
