# SPDX-License-Identifier: Apache-2.0
"""Measures the host's time outside the compiled step, for a decoder of 4 layers and width 256.

    python benchmarks/host_time.py

The same number of steps is run bare (the program on one batch, over and over) and as the training loop runs them: a
batch is carried to the device, taken from the feed, the program is started, its metrics are logged. The two take turns,
since the machine's speed drifts; what the loop takes longer is the host's share. Making documents is not part of it: it
runs beside the program, and the loop reports as `stall` what it waits for.
"""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from configs import quickstart
from mmjax import sharding
from mmjax.batch import Batch
from mmjax.config import Log
from mmjax.data.pipeline import Pipeline
from mmjax.feed import Feed
from mmjax.log import Logger
from mmjax.models.decoder import Decoder
from mmjax.objectives.next_token import NextToken
from mmjax.params import Skeleton, flatten
from mmjax.step import build_update, compile_update, init_state

TURNS, STEPS = 12, 20


class Again:
    """One batch, again and again."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def __iter__(self) -> Iterator[tuple[Batch]]:
        return itertools.repeat((self.batch,))

    def state(self) -> np.ndarray:
        """Returns the place in the data."""
        return np.zeros((len(self.batch.tokens), 2), np.int64)


def main() -> None:
    """Prints the share."""
    run = quickstart.get_config()
    block = run.model.decoder.block
    block.mlp.width = 1024
    run.model.decoder = Decoder.Config(vocab=257, width=256, depth=4, block=block, norm=quickstart.RMS)
    stage, mesh = run.stages[-1], sharding.make_mesh()
    batch, _ = next(Pipeline(stage.data, run.layout.build(run.model.media_spec()), stage.rows, run.seed))
    with sharding.use(mesh), tempfile.TemporaryDirectory() as folder:
        model = sharding.init_sharded(lambda rngs: run.model.build(rngs=rngs), jax.random.key(0), mesh)
        params = flatten(model)
        optimizer = stage.optimizer.build(params, stage.steps)
        state = init_state(optimizer, params, 0)
        feed, logger = Feed(Again(batch), mesh), Logger(Log(), pathlib.Path(folder), TURNS * STEPS, 0)
        update = build_update(Skeleton(model), optimizer, NextToken(), compute_dtype='float32')
        fed = next(feed)
        step, _ = compile_update(update, state, {}, fed.batch)
        state, metrics = jax.block_until_ready(step(state, {}, fed.batch))

        bare, loop = [], []
        for turn in range(TURNS):
            start = time.perf_counter()
            for _ in range(STEPS):
                state, metrics = step(state, {}, fed.batch)
            jax.block_until_ready(metrics)
            middle = time.perf_counter()
            for i in range(STEPS):
                waited, taken = feed.stalled, next(feed)
                state, metrics = step(state, {}, taken.batch)
                logger.step(turn * STEPS + i, metrics, {**taken.counts, 'stall': feed.stalled - waited})
            jax.block_until_ready(metrics)
            bare.append((middle - start) / STEPS)
            loop.append((time.perf_counter() - middle) / STEPS)
        feed.close()
        logger.close()
    alone, share = np.median(bare), np.median(np.array(loop) / np.array(bare)) - 1
    print(f'step {1e3 * alone:.1f} ms, {1e3 * np.median(loop):.1f} ms in the loop: the host adds {share:+.1%}')


if __name__ == '__main__':
    main()
