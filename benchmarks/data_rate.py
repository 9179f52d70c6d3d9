# SPDX-License-Identifier: Apache-2.0
"""Measures the input side on real data: pictures a second on one core, packing efficiency, and growth of host memory.

    python benchmarks/data_rate.py 'shards/*.tar' --documents=10000

Reads, decodes to 224 pixels, lays out and packs, with one thread, exactly as training does.
"""

import argparse
import resource
import time

from mmjax.batch import MediaSpec
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.pipeline import Pipeline
from mmjax.data.sources import source_config
from mmjax.data.tokenizer import Bytes


def resident() -> float:
    """Returns this process's memory in MB."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='what `mmjax data inspect` takes')
    parser.add_argument('--documents', type=int, default=10_000)
    parser.add_argument('--tokens', type=int, default=2048, help='places of a row')
    parser.add_argument('--image-tokens', type=int, default=64)
    args = parser.parse_args()
    side = round(args.image_tokens**0.5)
    spec = MediaSpec(224, 224, 1, 14, side * side, lambda frames, rows, columns: (side, side))
    layout = Layout.Config(tokenizer=Bytes.Config(special=('<image>',)), max_tokens=args.tokens, max_media=16)
    data = Mix.Config(parts=[Part(source=source_config(args.source))])
    pipeline = Pipeline(data, layout.build(spec), 4, 0, workers=1)
    # Memory counts from when the first windows are full; all before is set-up.
    while pipeline.stats.documents < args.documents // 10:
        next(pipeline)
    stats = pipeline.stats
    memory, cpu, images, tokens, documents = (
        resident(),
        time.process_time(),
        stats.images,
        stats.tokens,
        stats.documents,
    )
    while stats.documents < args.documents:
        next(pipeline)
    cpu = time.process_time() - cpu
    print(f'{stats.documents - documents} documents (parts of split ones counted), {stats.images - images} pictures')
    print(
        f'{(stats.images - images) / cpu:.0f} pictures/s and {(stats.tokens - tokens) / cpu:,.0f} tokens/s of one core'
    )
    print(f'{stats.efficiency:.1%} of the token places filled; dropped: {dict(stats.dropped) or "nothing"}')
    print(f'memory {memory:.0f} MB, growth {resident() - memory:+.0f} MB')


if __name__ == '__main__':
    main()
