# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of docs/kernels.md: span attention beside what else there is.

    pip install -e '.[plan]' tokamax && python benchmarks/kernels.py tpu      cycles that the TPU compiler scheduled
    python benchmarks/kernels.py gpu        times on the GPU of this machine, beside cuDNN, tokamax and plain XLA
    python benchmarks/kernels.py decode     cycles of a tile of a cache, beside the time that HBM takes to send it

A mask's cycles are those of its tiles: how many are whole or cut, and what is seen of those, is counted from the
spans; what each costs is read from the schedule, once for all lengths. Ours are the tiles that `Tpu` chooses; the
others' are the best of those in `BLOCKS`, with and without tokamax's scheduler. The others run every causal tile of a
packed row; they compute a causal mask inside pictures where ours sees them both ways. `--keep FILE` keeps what was
compiled, and goes on from there.
"""

import argparse
import functools
import itertools
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np
import splash
import tpu_schedule
from tpu_schedule import Schedule, schedules

from pallas_kernels.span_attention.tiles import Tile

CHIPS = ('v5e', 'v5p', 'v6e', '7x')
LENGTHS = (2048, 4096, 8192, 32768)
COMPILED = 4096  # tokens a row in what is compiled
PACKED = [(length, picture) for length in (2048, 8192, 32768) for picture in (64, 256)]  # tokens a row, a picture
DRAWN = 24  # rows of 8,192 tokens to average over, and as many tokens in rows of other lengths
RIVALS = (('jax_splash', {}), ('tokamax_splash', {'scheduler': False}), ('tokamax_splash', {'scheduler': True}))
BLOCKS = (512, 1024)  # 2,048 overflows VMEM on v5e and v5p
KINDS = {'v5e': 'TPU v5 lite', 'v5p': 'TPU v5', 'v6e': 'TPU v6 lite', '7x': 'TPU7x'}  # as jax names them
# Operations a cycle and core at the published peak, and the width of the matrix units: heads below it fill a part.
FLOPS = {'v5e': 2 * 4 * 128**2, 'v5p': 2 * 4 * 128**2, 'v6e': 2 * 4 * 256**2, '7x': 2 * 4 * 256**2}
UNIT = {'v5e': 128, 'v5p': 128, 'v6e': 256, '7x': 256}

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


class Seen(NamedTuple):
    """What a kernel does for one row: lines, tiles, those of them whole, cut but seen everywhere, parts of the rest."""

    lines: int
    tiles: int
    whole: int = 0
    cut: int = 0
    parts: int = 0

    @classmethod
    def of(cls, span: np.ndarray, tile: Tile) -> 'Seen':
        """Counts."""
        low, high = span.reshape(-1, tile.parts, tile.queries // tile.parts, 2).transpose(3, 0, 1, 2)
        first, last = low.min((1, 2)) // tile.keys, -(-high.max((1, 2)) // tile.keys)
        whole = cut = parts = 0
        for line in range(len(low)):
            for j in range(first[line], last[line]):
                start = np.linspace(j, j + 1, tile.chunks, endpoint=False) * tile.keys
                seen = low[line].min(1)[:, None] < start + tile.keys // tile.chunks
                seen &= high[line].max(1)[:, None] > start
                if j * tile.keys >= low[line].max() and (j + 1) * tile.keys <= high[line].min():
                    whole += 1
                elif seen.all():
                    cut += 1
                else:
                    parts += seen.sum()
        return cls(len(low), (last - first).sum(), whole, cut, parts)


def ours(found: Schedule, seen: Seen, length: int, backward: bool) -> float:
    """Returns our cycles of one key head and row."""
    whole, cut, *parts = found.products
    total = seen.tiles * found.step + seen.whole * whole + seen.cut * cut + seen.parts * np.mean(parts)
    if not backward:
        return total + seen.lines * sum(found.others)
    start, *line, end = found.others  # a row's, and between them a line's
    return total + seen.lines * sum(line) + (start + end) * length / COMPILED


def theirs(found: Schedule, block: int, length: int) -> float:
    """Returns the cycles of a kernel that runs every causal tile; with two bodies, the cheaper is for whole tiles."""
    lines = length // block
    whole, cut = min(found.products), max(found.products)
    return lines * (lines - 1) / 2 * whole + lines * (cut + sum(found.others)) + lines * (lines + 1) / 2 * found.step


class Keep:
    """Schedules by what was compiled, in a file or in memory alone."""

    def __init__(self, path: str | None):
        self.path = pathlib.Path(path) if path else None
        self.known = json.loads(self.path.read_text()) if path and self.path.exists() else {}

    def __call__(self, backward: bool, chip: str, spec: str, **settings: object) -> Schedule:
        """Returns the schedule of the forward or the backward kernel."""
        key = json.dumps([chip, pathlib.Path(spec).name, settings], sort_keys=True)
        if key not in self.known:
            self.known[key] = {name: x._asdict() for name, x in schedules(chip, spec, **settings).items()}
            if self.path:
                self.path.write_text(json.dumps(self.known, indent=1))
        for name, found in self.known[key].items():
            if ('backward' in name or 'dkv' in name) == backward:
                return Schedule(**found)
        raise ValueError(f'no {"backward" if backward else "forward"} kernel in {list(self.known[key])} of {key}')


def row(keep: Keep, chip: str, width: int, groups: int, backward: bool) -> str:
    """Returns a row of the table."""
    import jax

    from pallas_kernels.span_attention import tpu

    settings = {'width': width, 'length': COMPILED, 'heads': 2}
    sizes = tpu.SIZES.get(KINDS[chip], tpu.OTHERS)
    shape = lambda heads: jax.ShapeDtypeStruct((1, COMPILED, heads, width), 'bfloat16')
    cut = tpu.Cut.of(shape(groups), shape(1), sizes)
    me = keep(backward, chip, f'{tpu_schedule.__file__}:ours', **settings, groups=groups)
    rivals = {
        packed: [
            (block, keep(backward, chip, f'{splash.__file__}:{name}', **settings, block=block, segments=packed, **more))
            for name, more in RIVALS
            for block in BLOCKS
        ]
        for packed in (False, True)
    }
    best = lambda packed, length: groups * min(theirs(found, block, length) for block, found in rivals[packed])
    area = sizes.rows * sizes.keys
    whole = min(min(found.products) / block**2 for block, found in rivals[False]) * area
    peak = (5 if backward else 2) * 2 * area * width / FLOPS[chip] / me.products[0]
    cells = [
        f'{sizes.rows} x {sizes.keys}', f'{me.products[0]}', f'{peak:.0%}',
        f'{peak * max(UNIT[chip] / width, 1):.0%}', f'{whole / me.products[0]:.2f}',
    ]  # fmt: skip
    mine = lambda span: ours(me, Seen.of(span, cut.tile), len(span), backward)
    cells += [f'{best(False, length) / mine(causal(length)):.2f}' for length in LENGTHS]
    for length, picture in PACKED:
        rng = np.random.default_rng(0)
        spans = [documents(rng, length, picture) for _ in range(DRAWN * 8192 // length)]
        cells.append(f'{best(True, length) / np.mean([mine(span) for span in spans]):.2f}')
    heads = f'{width}' if groups == 1 else f'{width}, {groups} a key head'
    return f'| {chip} | {heads} | {"backward" if backward else "forward"} | ' + ' | '.join(cells) + ' |'


def decode(chip: str) -> str:
    """Returns a chip's row of the table of caches: cycles of a whole tile, those that HBM takes, and its share."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.span_attention import tpu_decode

    cells, (speed, clock) = [], HBM[chip]
    for queries, heads, kv_heads, width in CACHES.values():
        settings = {'queries': queries, 'heads': heads, 'kv_heads': kv_heads, 'width': width}
        (found,) = schedules(chip, f'{tpu_schedule.__file__}:decode', **settings).values()
        q = jax.ShapeDtypeStruct((4, queries, heads, width), jnp.bfloat16)
        k = jax.ShapeDtypeStruct((4, 8192, kv_heads, width), jnp.bfloat16)
        keys = tpu_decode.Cut.of(q, k, tpu_decode.TILE_BYTES.get(KINDS[chip], tpu_decode.OTHERS)).keys
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
    parser.add_argument('--groups', nargs='+', type=int, default=[1, 4], help='query heads that share a key head')
    parser.add_argument('--keep', help='a file of what was compiled')
    args = parser.parse_args()
    if args.table == 'gpu':
        return gpu(args.widths)
    if args.table == 'decode':
        print('| chip | ' + ' | '.join(CACHES) + ' |\n' + '|---' * (len(CACHES) + 1) + '|')
        for chip in args.chips:
            print(decode(chip), flush=True)
        return
    masks = [*(f'causal {n // 1024}k' for n in LENGTHS), *(f'packed {n // 1024}k, {p}' for n, p in PACKED)]
    head = ['chip', 'head', 'pass', 'tile', 'cycles', 'of the peak', 'of what the width allows', 'ratio', *masks]
    print('| ' + ' | '.join(head) + ' |\n' + '|---' * len(head) + '|')
    keep = Keep(args.keep)
    for chip, width, groups in itertools.product(args.chips, args.widths, args.groups):
        for backward in (False, True):
            print(row(keep, chip, width, groups, backward), flush=True)


if __name__ == '__main__':
    main()
