# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs: picture i belongs to text i, and to no other of the global batch.

N pairs, D width of the common space. A row that lacks its picture or its words is no pair: it is neither right nor
wrong, and nothing is compared with it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax import sharding
from mmjax.sharding import ROWS, P

LOSSES = ('softmax', 'sigmoid')
_NEVER = -1e30  # the similarity of what takes no part; finite, so that no gradient is 0 * inf


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class Contrastive:
    """The objective of a pair of towers: every picture is compared with the texts of the whole global batch.

    'softmax' is CLIP's loss (Radford et al. 2021), 'sigmoid' SigLIP's (Zhai et al. 2023).
    """

    loss: str = 'softmax'

    whole = True

    def __call__(
        self, model: Any, batch: Any, *, key: Array | None = None, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns the sums over pairs; a model of pairs is models.pair.Pair."""
        if self.loss not in LOSSES:
            raise ValueError(f'Contrastive.loss is {self.loss!r}; choose one of {LOSSES}')
        images, texts, there = model.vectors(batch)
        count = there.sum(dtype=jnp.float32)
        if self.loss == 'sigmoid':
            return sigmoid_ring(images, texts, there, *model.gain()), count, {}
        total, correct = softmax_sums(model.similarity(images, texts), there)
        return total, count, {'correct': correct}


def softmax_pairs(similarity: Float[Array, 'N N']) -> Float[Array, '']:
    """Returns the mean of two cross entropies: pictures among texts, texts among pictures (CLIP)."""
    n = similarity.shape[0]
    return softmax_sums(similarity, jnp.ones(n, bool))[0] / n


def softmax_sums(similarity: Float[Array, 'N N'], there: Bool[Array, 'N']) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Returns (the sum of the pairs' losses, how many pictures are nearest to their own text)."""
    there = sharding.place(there, P())
    among_texts = jnp.where(there[None], similarity, _NEVER)
    among_images = jnp.where(there[:, None], similarity, _NEVER)
    # Masked, not indexed: rows lie on different devices.
    own = jnp.diag(there)
    both = jax.nn.log_softmax(among_texts, axis=1) + jax.nn.log_softmax(among_images, axis=0)
    nearest = among_texts >= among_texts.max(axis=1, keepdims=True)
    return -jnp.where(own, both, 0).sum() / 2, (own & nearest).sum(dtype=jnp.float32)


def sigmoid_pairs(similarity: Float[Array, 'N N']) -> Float[Array, '']:
    """Returns the binary cross entropies of all pairs, summed over texts, averaged over pictures (SigLIP)."""
    sign = 2 * jnp.eye(similarity.shape[0]) - 1
    return -jax.nn.log_sigmoid(sign * similarity).sum(axis=1).mean()


def sigmoid_ring(
    images: Float[Array, 'N D'],
    texts: Float[Array, 'N D'],
    there: Bool[Array, 'N'],
    scale: Float[Array, ''],
    bias: Float[Array, ''],
) -> Float[Array, '']:
    """Returns N times `sigmoid_pairs` of vectors of length 1, without ever holding all similarities.

    Texts go round the devices of the rows, one neighbour a turn, so a device holds n x n similarities, not n x N:

      device   0     1     2     3
      turn 0   t0    t1    t2    t3      a device's own texts: the pairs are on the diagonal
      turn 1   t3    t0    t1    t2      everything else is wrong
    """
    mesh = sharding.current()
    turns = sharding.axis_size('data') * sharding.axis_size('fsdp')
    neighbours = [(i, (i + 1) % turns) for i in range(turns)]

    def local(images: Array, texts: Array, there: Array, scale: Array, bias: Array) -> Array:
        own = jnp.eye(images.shape[0], dtype=bool)

        def turn(carry: tuple[Array, Array, Array], number: Array) -> tuple[tuple[Array, Array, Array], None]:
            total, texts, real = carry
            similarity = scale * images @ texts.T + bias
            loss = -jax.nn.log_sigmoid(jnp.where(own & (number == 0), similarity, -similarity))
            total = total + jnp.where(there[:, None] & real[None], loss, 0).sum()
            if turns > 1:
                texts, real = (jax.lax.ppermute(x, ROWS, neighbours) for x in (texts, real))
            return (total, texts, real), None

        # Each turn's similarities are computed again by the backward pass, or it would keep all of them.
        step = jax.checkpoint(turn, prevent_cse=False)
        return jax.lax.scan(step, (jnp.zeros(()), texts, there), jnp.arange(turns))[0][0][None]

    if mesh is None:
        return local(images, texts, there, scale, bias)[0]
    specs = (P(ROWS, None), P(ROWS, None), P(ROWS), P(), P())
    ring = jax.shard_map(local, in_specs=specs, out_specs=P(ROWS), check_vma=False)
    return ring(images, texts, there, scale, bias).sum()
