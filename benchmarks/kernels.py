# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of docs/kernels.md: span attention beside what else there is.

    pip install -e '.[plan]' tokamax && python benchmarks/kernels.py tpu      cycles that the TPU compiler scheduled
    python benchmarks/kernels.py gpu        times on the GPU of this machine, beside cuDNN, tokamax and plain XLA
    python benchmarks/kernels.py decode     cycles of a tile of a cache, beside the time that HBM takes to send it

A mask's cycles are those of its tiles: how many are whole, cut on one side or on both is counted from the spans, what
each costs is read from the schedule. The others run every causal tile of a packed row; they compute a causal mask
inside pictures where ours sees them both ways.
"""

import argparse
import functools
import math

import numpy as np
import splash
import tpu_schedule
from tpu_schedule import Schedule, schedules

CHIPS = ('v5e', 'v5p', 'v6e', '7x')
LENGTHS = (2048, 4096, 8192, 32768)
COMPILED = 4096  # tokens a row in what is compiled
TILE = 1024
PACKED = [(length, picture) for length in (2048, 8192, 32768) for picture in (64, 256)]  # tokens a row, a picture
DRAWN = 24  # rows of 8,192 tokens to average over, and as many tokens in rows of other lengths
RIVALS = (('jax_splash', {}), ('tokamax_splash', {'scheduler': False}), ('tokamax_splash', {'scheduler': True}))
FLOPS = {'v5e': 2 * 4 * 128**2, 'v5p': 2 * 4 * 128**2, 'v6e': 2 * 2 * 256**2, '7x': 2 * 2 * 256**2}  # a cycle

# Bytes a second of a chip's HBM (7x: of a core's half) and clock, published.
HBM = {'v5e': (0.819e12, 1.5e9), 'v5p': (2.765e12, 1.75e9), 'v6e': (1.64e12, 1.75e9), '7x': (3.69e12, 2.2e9)}
CACHES = {  # queries, heads, key heads, width
    '1 query, 32 heads on 8': (1, 32, 8, 128),
    '4 queries, 32 heads on 8': (4, 32, 8, 128),
    '1 query, 32 heads on 32': (1, 32, 32, 128),
    '1 query, 8 heads on 1': (1, 8, 1, 128),
    '1 query, 8 heads on 4 of 256': (1, 8, 4, 256),
}


def documents(rng: np.random.Generator, length: int, picture: int) -> np.ndarray:
    """Draws the spans [L, 2] of one packed row: text of 403 tokens in the median among about 4 pictures a document."""
    span, start = np.zeros((length, 2), int), 0
    while start < length:
        text = int(rng.lognormal(math.log(403), 1.0)) + 1
        pieces = np.diff(np.sort([0, *rng.integers(0, text + 1, rng.poisson(4)), text]))
        place = start
        for number, words in enumerate(pieces):
            for size, both_ways in ((0 if number == 0 else picture, True), (words, False)):
                here = np.arange(place, min(place + size, length))
                span[here] = np.stack([here * 0 + start, (here * 0 + place + size) if both_ways else here + 1], axis=-1)
                place += size
        start = place
    return span.clip(0, length)


def causal(length: int) -> np.ndarray:
    """Returns the spans of one document."""
    return np.stack([np.zeros(length, int), np.arange(1, length + 1)], axis=-1)


def kinds(span: np.ndarray) -> np.ndarray:
    """Counts the tiles that are seen: [whole, cut at the end, cut at the start, both]."""
    low, high = span.reshape(-1, TILE, 2).transpose(2, 0, 1)
    first, last = low.min(1) // TILE, -(-high.max(1) // TILE)
    count = np.zeros(4, int)
    for line in range(len(low)):
        for j in range(first[line], last[line]):
            count[2 * (j * TILE < low[line].max()) + ((j + 1) * TILE > high[line].min())] += 1
    return count


def ours(found: Schedule, span: np.ndarray, backward: bool) -> float:
    """Returns our cycles of one head and row."""
    count, lines = kinds(span), len(span) // TILE
    total = float(count @ np.array(found.products)) + count.sum() * found.step
    if not backward:
        return total + lines * sum(found.others)
    *start, first, last, end = found.others
    return total + lines * (first + last) + (sum(start) + end) * len(span) / COMPILED


def theirs(found: Schedule, length: int) -> float:
    """Returns the cycles of a kernel that runs every causal tile; with two bodies, the cheaper is for whole tiles."""
    lines = length // TILE
    whole, cut = min(found.products), max(found.products)
    return lines * (lines - 1) / 2 * whole + lines * (cut + sum(found.others)) + lines * (lines + 1) / 2 * found.step


def rows(chip: str, width: int) -> list[str]:
    """Returns a chip's two rows of the table, forward and backward."""
    settings = {'width': width, 'length': COMPILED, 'heads': 2}
    mine = schedules(chip, f'{tpu_schedule.__file__}:ours', **settings, rows=TILE, keys=TILE)
    rivals = {
        packed: [
            schedules(chip, f'{splash.__file__}:{name}', **settings, backward=True, segments=packed, **more)
            for name, more in RIVALS
        ]
        for packed in (False, True)
    }
    found = []
    for backward in (False, True):
        pick = lambda kernels, backward=backward: next(
            schedule for name, schedule in kernels.items() if ('backward' in name or 'dkv' in name) == backward
        )
        me = pick(mine)
        best = lambda packed, length, pick=pick: min(theirs(pick(rival), length) for rival in rivals[packed])
        whole = min(min(pick(rival).products) for rival in rivals[False])
        floor = (5 if backward else 2) * 2 * TILE**2 * width / FLOPS[chip]
        cells = [f'{me.products[0]} ({floor / me.products[0]:.0%})', f'{whole / me.products[0]:.2f}']
        cells += [f'{best(False, length) / ours(me, causal(length), backward):.2f}' for length in LENGTHS]
        for length, picture in PACKED:
            rng = np.random.default_rng(0)
            spans = [documents(rng, length, picture) for _ in range(DRAWN * 8192 // length)]
            cells.append(f'{best(True, length) / np.mean([ours(me, span, backward) for span in spans]):.2f}')
        found.append(f'| {chip} | {width} | {"backward" if backward else "forward"} | ' + ' | '.join(cells) + ' |')
    return found


def decode(chip: str) -> str:
    """Returns a chip's row of the table of caches: cycles of a whole tile, those that HBM takes, and its share."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.span_attention import tpu_decode

    cells, (speed, clock) = [], HBM[chip]
    kind = {'v5p': 'TPU v5', '7x': 'TPU7x'}.get(chip, '')
    for queries, heads, kv_heads, width in CACHES.values():
        settings = {'queries': queries, 'heads': heads, 'kv_heads': kv_heads, 'width': width}
        (found,) = schedules(chip, f'{tpu_schedule.__file__}:decode', **settings).values()
        q = jax.ShapeDtypeStruct((4, queries, heads, width), jnp.bfloat16)
        k = jax.ShapeDtypeStruct((4, 8192, kv_heads, width), jnp.bfloat16)
        keys = tpu_decode.Cut.of(q, k, tpu_decode.TILE_BYTES.get(kind, tpu_decode.OTHERS)).keys
        cycles = found.products[0] + found.step
        waits = keys * kv_heads * width * 2 * 2 / speed * clock
        cells.append(f'{keys}: {cycles} of {waits:.0f} ({min(waits / cycles, 1):.0%})')
    return f'| {chip} | ' + ' | '.join(cells) + ' |'


def gpu(widths: list[int]) -> None:
    """Prints the table of times on a GPU, or leaves where there is none."""
    import jax

    if jax.default_backend() != 'gpu':
        raise SystemExit(f'no GPU to time: jax sees only {jax.devices()[0].device_kind} here')
    import gpu_times

    rng = np.random.default_rng(0)
    masks = {'causal': causal} | {
        f'packed, {size}': functools.partial(documents, rng, picture=size) for size in (64, 256)
    }
    for line in gpu_times.rows(LENGTHS, widths, masks):
        print(line, flush=True)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', choices=['tpu', 'decode', 'gpu'])
    parser.add_argument('--chips', nargs='+', default=CHIPS)
    parser.add_argument('--widths', nargs='+', type=int, default=[64, 128, 256])
    args = parser.parse_args()
    if args.table == 'gpu':
        return gpu(args.widths)
    if args.table == 'decode':
        print('| chip | ' + ' | '.join(CACHES) + ' |\n' + '|---' * (len(CACHES) + 1) + '|')
        for chip in args.chips:
            print(decode(chip), flush=True)
        return
    masks = [*(f'causal {n // 1024}k' for n in LENGTHS), *(f'packed {n // 1024}k, {p}' for n, p in PACKED)]
    head = ['chip', 'head', 'pass', 'whole tile (of the peak)', 'whole tile', *masks]
    print('| ' + ' | '.join(head) + ' |\n' + '|---' * len(head) + '|')
    for chip in args.chips:
        for width in args.widths:
            print('\n'.join(rows(chip, width)), flush=True)


if __name__ == '__main__':
    main()
