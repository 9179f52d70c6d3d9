# SPDX-License-Identifier: Apache-2.0
"""Measures `mmjax import`: its rate and its memory, beside plain sequential reading of the same files.

    python benchmarks/import_rate.py --gigabytes=4 --folder=/tmp/import_rate

Writes a random LLaVA in shards; then, --times over, reads them from end to end and imports them, both times from the
disk: what the system keeps of the files in memory is dropped before. Everything that is imported is on the disk when
the import ends. The memory is the whole process's at its peak.
"""

import argparse
import json
import math
import os
import pathlib
import resource
import shutil
import threading
import time

import ml_dtypes
import numpy as np

from mmjax.public import Request, import_checkpoint
from mmjax.weights import llava, save, shapes
from mmjax.weights.table import public_shapes

MB = 1 << 20


def resident() -> float:
    """Returns this process's memory in MB."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MB


class Peak:
    """Notes the most memory the process has while the block runs, in MB."""

    def __enter__(self) -> 'Peak':
        self.most, self._done = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, resident())


def publish(folder: pathlib.Path, size: int, shard: int) -> None:
    """Writes a LLaVA of about `size` bytes."""
    public = dict(
        architectures=['LlavaForConditionalGeneration'],
        model_type='llava',
        text_config=dict(
            model_type='llama', hidden_size=2048, intermediate_size=5632, num_attention_heads=16, vocab_size=32064
        ),
        vision_config=dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4),
        torch_dtype='bfloat16',
    )

    def tensors(depth: int) -> dict[str, tuple[int, ...]]:
        public['text_config']['num_hidden_layers'] = depth
        c = llava.config(public)
        return public_shapes(llava.table(c), shapes(c.build))

    one, two = (2 * sum(map(math.prod, tensors(depth).values())) for depth in (1, 2))
    found = tensors(1 + max((size - one) // (two - one), 0))
    rng = np.random.default_rng(0)
    # Random signs and fractions between 1/128 and 1/64: as quick to make as bytes.
    bits = lambda s: rng.integers(0, 1 << 16, s, np.uint16) & 0x807F | 0x3C00
    numbers = lambda s: bits(s).view(ml_dtypes.bfloat16)
    save(folder, ((key, numbers(s)) for key, s in found.items()), shard)
    (folder / 'config.json').write_text(json.dumps(public))


def read_plainly(files: list[pathlib.Path]) -> float:
    """Returns the seconds that reading the files from end to end takes."""
    start = time.perf_counter()
    for path in files:
        with open(path, 'rb', buffering=0) as file:
            while file.read(16 * MB):
                pass
    return time.perf_counter() - start


def forget(files: list[pathlib.Path]) -> None:
    """Makes the system drop what it keeps of the files in memory."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def recipe(folder: pathlib.Path):
    """Returns a run of the model in the folder whose tokenizer needs no files."""
    from mmjax.config import Run
    from mmjax.data import templates
    from mmjax.data.layout import Layout
    from mmjax.data.tokenizer import Bytes

    form = templates.vicuna()
    layout = Layout.Config(image=form.image, text=form.text)
    layout.tokenizer = Bytes.Config(special=layout.special_tokens())
    return Run(llava.config(json.loads((folder / 'config.json').read_text())), layout, [])


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gigabytes', type=float, default=4.0)
    parser.add_argument('--shard', type=int, default=500, help='MB of a shard')
    parser.add_argument('--times', type=int, default=3)
    parser.add_argument('--folder', type=pathlib.Path, default=pathlib.Path('/tmp/import_rate'))
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    publish(args.folder / 'in', int(args.gigabytes * 1024 * MB), args.shard * MB)
    files = sorted((args.folder / 'in').glob('*.safetensors'))
    sizes = [file.stat().st_size / MB for file in files]
    run = recipe(args.folder / 'in')
    size, largest = sum(sizes), max(sizes)
    print(f'{size:.0f} MB in {len(files)} shards, the largest {largest:.0f} MB')
    for _ in range(args.times):
        shutil.rmtree(args.folder / 'out', ignore_errors=True)
        forget(files)
        plain = read_plainly(files)
        forget(files)
        with Peak() as peak:
            start = time.perf_counter()
            import_checkpoint(Request(folder=args.folder / 'in', out=args.folder / 'out', run=run))
            taken = time.perf_counter() - start
        print(
            f'read {size / plain:.0f} MB/s, imported {size / taken:.0f} MB/s: {plain / taken:.2f} of it; '
            f'memory {peak.most:.0f} MB, {peak.most - largest:.0f} MB above the largest shard'
        )
    shutil.rmtree(args.folder)


if __name__ == '__main__':
    main()
