# SPDX-License-Identifier: Apache-2.0
"""Measures `mmjax import`: its rate and its memory, beside plain sequential reading of the same files.

    python benchmarks/import_rate.py --gigabytes=1 --folder=/tmp/import_rate

Writes a random LLaVA in shards, reads them once by `read`, imports them, and says how much memory that took at its peak
beyond what the process had before.
"""

import argparse
import json
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
    width, depth = 1024, 1
    public = dict(
        architectures=['LlavaForConditionalGeneration'],
        model_type='llava',
        text_config=dict(
            model_type='llama', hidden_size=width, intermediate_size=2816, num_attention_heads=16, vocab_size=32064
        ),
        vision_config=dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4),
        torch_dtype='bfloat16',
    )
    while True:
        public['text_config']['num_hidden_layers'] = depth
        c = llava.config(public)
        table = llava.table(c)
        found = public_shapes(table, shapes(c.build))
        if 2 * sum(int(np.prod(s)) for s in found.values()) >= size:
            break
        depth += 1
    rng = np.random.default_rng(0)
    numbers = lambda s: (rng.standard_normal(s, np.float32) * 0.02).astype(ml_dtypes.bfloat16)
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
    parser.add_argument('--gigabytes', type=float, default=1.0)
    parser.add_argument('--shard', type=int, default=250, help='MB of a shard')
    parser.add_argument('--folder', type=pathlib.Path, default=pathlib.Path('/tmp/import_rate'))
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    publish(args.folder / 'in', int(args.gigabytes * 1024 * MB), args.shard * MB)
    files = sorted((args.folder / 'in').glob('*.safetensors'))
    sizes = [file.stat().st_size / MB for file in files]
    run = recipe(args.folder / 'in')
    plain = read_plainly(files)
    before = resident()
    with Peak() as peak:
        start = time.perf_counter()
        import_checkpoint(Request(folder=args.folder / 'in', out=args.folder / 'out', run=run))
        taken = time.perf_counter() - start
    print(f'{sum(sizes):.0f} MB in {len(files)} shards, the largest {max(sizes):.0f} MB')
    print(f'read plainly: {plain:.1f} s, {sum(sizes) / plain:.0f} MB/s')
    print(f'imported:     {taken:.1f} s, {sum(sizes) / taken:.0f} MB/s, checked and written')
    print(f'memory: {peak.most - before:.0f} MB at its peak, beyond the {before:.0f} MB of before')
    print(f'        the model and the largest shard are {sum(sizes) + max(sizes):.0f} MB')
    shutil.rmtree(args.folder)


if __name__ == '__main__':
    main()
