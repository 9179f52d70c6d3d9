# SPDX-License-Identifier: Apache-2.0
"""The smallest thing that can be trained: an embedding, one layer, a head; and batches for it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.nn.layers import Embed, Linear
from mmjax.sharding import w_DF, w_FD, w_VD

VOCAB, WIDTH = 16, 8


class Tiny(nnx.Module):
    """Predicts the next token from this one alone."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.embed = Embed(VOCAB, WIDTH, spec=w_VD, std=1.0, rngs=rngs)
        self.up = Linear(WIDTH, 4 * WIDTH, bias=True, spec=w_DF, rngs=rngs)
        self.down = Linear(4 * WIDTH, WIDTH, bias=True, spec=w_FD, rngs=rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        """Returns logits."""
        x = self.embed(batch.tokens)
        return self.embed.attend(x + self.down(jax.nn.gelu(self.up(x))))


def objective(model: Tiny, batch: Batch, *, z_loss: float):
    """Returns the sums of a weighted next-token loss."""
    logits = sharding.place(model(batch), sharding.act_BLD)
    target = jnp.roll(batch.tokens, -1, axis=1)[..., None] == jnp.arange(VOCAB)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = (log_z - jnp.sum(logits * target, axis=-1)) + z_loss * log_z**2
    return jnp.sum(loss * batch.weight), jnp.sum(batch.weight), {}


def make_batch(rows: int, seed: int = 0, length: int = 6) -> Batch:
    """Returns random tokens with random weights, so that rows count differently."""
    rng = np.random.default_rng(seed)
    place = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return Batch(
        tokens=rng.integers(0, VOCAB, (rows, length), dtype=np.int32),
        weight=(rng.random((rows, length)) < rng.random((rows, 1))).astype(np.float32),
        span=np.stack([np.zeros_like(place), place + 1], axis=-1),
        position=np.array(place),
    )
