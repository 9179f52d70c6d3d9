# SPDX-License-Identifier: Apache-2.0
"""The smallest run: a model of one layer, a made-up data pipeline, and `main`, which is the command line with them.

They have the interfaces of the real ones, so that the loop, the checkpoints and the log are tested alone and fast.
"""

import dataclasses
import sys
import time
import types
from collections import Counter
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from mmjax.batch import Batch, MediaSpec
from mmjax.config import Adamw, Checkpoints, Log, Mesh, Run, Stage
from mmjax.nn.layers import Embed, Linear, Unembedding
from mmjax.objectives.next_token import NextToken, next_token
from mmjax.sharding import w_DF, w_FD, w_VD

VOCAB, WIDTH, LENGTH = 16, 8, 6


class Tiny(nnx.Module):
    """Predicts the next token from this one alone."""

    @dataclasses.dataclass
    class Config:
        width: int = WIDTH
        vocab: int = VOCAB
        spec: Callable[[], MediaSpec] = MediaSpec  # of pictures, which it does not look at

        def media_spec(self) -> MediaSpec:
            """Returns what the data side is told."""
            return self.spec()

        def build(self, *, rngs: nnx.Rngs) -> 'Tiny':
            """Builds the model."""
            return Tiny(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        self.embed = Embed(c.vocab, c.width, spec=w_VD, std=1.0, rngs=rngs)
        self.up = Linear(c.width, 4 * c.width, bias=True, spec=w_DF, rngs=rngs)
        self.down = Linear(4 * c.width, c.width, bias=True, spec=w_FD, rngs=rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        """Returns hidden states."""
        x = self.embed(batch.tokens)
        return x + self.down(jax.nn.gelu(self.up(x)))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns scores of the next token."""
        return self.embed.attend(hidden)

    def unembedding(self) -> Unembedding:
        """Returns what `logits` computes with."""
        table = self.embed.table[...]
        return Unembedding(table, 0, None, table.shape[0])


def objective(model: Tiny, batch: Batch, *, key: jax.Array, teacher: Tiny | None):
    """Returns the sums of a weighted next-token loss."""
    return next_token(model, batch, z_loss=1e-4)


def make_batch(rows: int, seed: int = 0) -> Batch:
    """Returns random tokens with random weights, so that rows count differently."""
    return stack([make_row(np.random.default_rng((seed, row))) for row in range(rows)])


def make_row(rng: np.random.Generator) -> Batch:
    """Returns one row: each token is mostly the one before plus one."""
    place = np.arange(LENGTH, dtype=np.int32)
    jump = rng.integers(0, VOCAB, LENGTH) * (rng.random(LENGTH) < 0.2)
    return Batch(
        tokens=((rng.integers(VOCAB) + np.cumsum(1 + jump)) % VOCAB).astype(np.int32),
        weight=(rng.random(LENGTH) < rng.random()).astype(np.float32),
        span=np.stack([np.zeros_like(place), place + 1], axis=-1),
        position=place,
    )


def stack(rows: list[Batch]) -> Batch:
    """Returns rows as a batch."""
    return jax.tree.map(lambda *a: np.stack(a), *rows)


@dataclasses.dataclass
class Mixture:
    """Stands for the data's config."""

    seconds: float = 0.0  # that a batch takes to make


@dataclasses.dataclass
class Layout:
    """Stands for the layout and its config."""

    tokenizer, problems = types.SimpleNamespace(size=VOCAB), types.SimpleNamespace(lines=list)

    def build(self, spec: MediaSpec) -> 'Layout':
        """Returns itself."""
        return self


class Pipeline:
    """Row r of step s is a function of (seed, r, s), as in the real pipeline."""

    def __init__(self, data: Mixture, layout: Layout, rows: int, seed: int, row_range: tuple[int, int]):
        self.data, self.seed, self.mine = data, seed, range(*row_range)
        self.places = np.zeros((len(self.mine), 2), np.int64)
        self.stats = types.SimpleNamespace(documents=0, efficiency=1.0, dropped=Counter(unreadable=2), examples={})

    def state(self) -> np.ndarray:
        """Returns (window, row in the window) of each row."""
        return self.places.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Goes on from there."""
        assert state.shape == self.places.shape
        self.places = np.array(state)

    def __iter__(self):
        while True:
            time.sleep(self.data.seconds)
            rows = [
                make_row(np.random.default_rng((self.seed, r, *p))) for r, p in zip(self.mine, self.places, strict=True)
            ]
            self.places[:, 1] += 1
            self.places[:, 0] += self.places[:, 1] // 3
            self.places[:, 1] %= 3
            yield stack(rows), None


def get_config(arg: str = '') -> Run:
    """Returns a run of one stage, or of two for 'stages'."""
    optimizer = Adamw(peak_lr=1e-2, warmup=2, weight_decay=0.1)
    stages = [
        Stage(
            'only',
            Mixture(),
            rows=8,
            steps=8,
            accumulate=2,
            optimizer=optimizer,
            objective=NextToken(z_loss=1e-4),
            ema=0.9,
        )
    ]
    if arg == 'stages':
        first = Stage('align', Mixture(), rows=8, steps=4, trainable=('up/.*',), optimizer=optimizer)
        stages = [
            first,
            Stage('tune', Mixture(), rows=16, steps=4, trainable=('up/.*', 'down/.*'), optimizer=optimizer),
        ]
    return Run(
        Tiny.Config(),
        Layout(),
        stages,
        mesh=Mesh(2, 2, 2),
        compute_dtype='float32',
        checkpoint=Checkpoints(every_steps=3),
        log=Log(every_steps=1, tensorboard=False),
    )


def main() -> None:
    """Runs the command line with the made-up pipeline."""
    import mmjax.cli
    import mmjax.train

    mmjax.train.Pipeline = Pipeline
    mmjax.cli.main(sys.argv[1:])


if __name__ == '__main__':
    sys.modules['tiny'] = sys.modules['__main__']  # one module, whether run or imported by the config loader
    main()
