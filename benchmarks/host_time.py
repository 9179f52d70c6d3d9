# SPDX-License-Identifier: Apache-2.0
"""Measures the host's time outside the compiled step, for a decoder of 4 layers and width 256, in the loop's parts.

    python benchmarks/host_time.py

A step of the loop takes a batch that is ready, starts the program, and logs the metrics of the step before. What the
program itself takes is measured by running it on one batch over and over. The share of the rest is printed.
"""

import pathlib
import tempfile
import time

import jax

from configs import quickstart
from mmjax import sharding
from mmjax.config import Log
from mmjax.data.pipeline import Pipeline
from mmjax.feed import Feed
from mmjax.log import Logger
from mmjax.models.decoder import Decoder
from mmjax.objectives.next_token import next_token
from mmjax.params import Skeleton, flatten
from mmjax.step import build_update, compile_update, init_state

STEPS = 40


def main() -> None:
    """Prints the share."""
    run = quickstart.get_config()
    attn = run.model.decoder.block
    attn.mlp.width = 1024
    run.model.decoder = Decoder.Config(vocab=257, width=256, depth=4, block=attn, norm=quickstart.RMS, tied=True)
    stage, mesh = run.stages[0], sharding.make_mesh()
    pipeline = Pipeline(stage.data, run.layout.build(run.model.media_spec()), stage.rows, run.seed)
    with sharding.use(mesh), tempfile.TemporaryDirectory() as folder:
        model = sharding.init_sharded(lambda rngs: run.model.build(rngs=rngs), jax.random.key(0), mesh)
        params = flatten(model)
        optimizer = stage.optimizer.build(params, stage.steps)
        state = init_state(optimizer, params, 0)
        feed, logger = Feed(pipeline, mesh), Logger(Log(), pathlib.Path(folder), STEPS, 0)
        update = build_update(Skeleton(model), optimizer, next_token, compute_dtype='float32')
        step, _ = compile_update(update, state, {}, feed.peek().batch)
        batch = feed.peek().batch
        state, metrics = jax.block_until_ready(step(state, {}, batch))

        # The two are measured in turn, since the machine's speed drifts.
        alone = host = 0.0
        for number in range(STEPS):
            start = time.perf_counter()
            state, metrics = jax.block_until_ready(step(state, {}, batch))
            alone += time.perf_counter() - start
            feed.peek()  # waiting for data is the data's time, and has a figure of its own
            start = time.perf_counter()
            fed = next(feed)
            state, metrics = step(state, {}, fed.batch)
            started = time.perf_counter() - start
            jax.block_until_ready(metrics)
            start = time.perf_counter()
            logger.step(number, metrics, {**fed.counts, 'stall': 0.0})
            host += min(started, alone / (number + 1)) + time.perf_counter() - start
            if started > 0.5 * alone / (number + 1):
                host -= started  # this backend runs the program inside the call: then there is nothing before it
        feed.close()
        logger.close()
    print(
        f'step {1e3 * alone / STEPS:.1f} ms, host beside it {1e3 * host / STEPS:.2f} ms: {host / alone:.1%} of the step'
    )


if __name__ == '__main__':
    main()
