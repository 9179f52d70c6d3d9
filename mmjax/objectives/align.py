# SPDX-License-Identifier: Apache-2.0
"""Three losses of pictures and their texts: contrast, verdict on hard negatives, captions (BLIP-2's first stage).

N pairs, Q queries, W words, D width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax import sharding
from mmjax.models.qformer import Qformer
from mmjax.objectives.next_token import token_losses
from mmjax.sharding import ROWS, P, reshape_rows

FAR = -1e9  # the logarithm of a weight that is never drawn


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class Align:
    """Teaches a Q-Former with heads what belongs together; the words beside each medium (Batch.words) are its caption.

    Its three losses are means over the batch and are added up (Li et al. 2023, section 3.2).
    """

    smoothing: float = 0.1  # of the targets of contrast and captions

    whole = True

    def __call__(
        self, model: Any, batch: Any, *, key: Array | None = None, teacher: Any = None
    ) -> tuple[Float[Array, ''], Float[Array, ''], dict[str, Float[Array, '']]]:
        """Returns (loss sum, pairs, sums of each loss over pairs); without a key negatives are the hardest ones."""
        features, count, words = pairs(model, batch)
        there = (count > 0) & (words[:, 0] >= 0)
        losses = {}
        losses['contrast'], similarity = contrast(model.connector, features, count, words, there, self.smoothing)
        wrong_images, wrong_texts = negatives(similarity, there, key)
        losses['verdict'], _ = verdict(model.connector, features, count, words, there, wrong_images, wrong_texts)
        losses['caption'], _ = captions(model.connector, features, count, words, there, self.smoothing)
        weight = there.sum().astype(jnp.float32)
        sums = {name: loss * weight for name, loss in losses.items()}
        return sum(sums.values()), weight, sums


def pairs(model: Any, batch: Any) -> tuple[Float[Array, 'N n E'], Int[Array, 'N'], Int[Array, 'N W']]:
    """Returns the features of all media of a batch, how many of each are real, and the words beside it."""
    if batch.words is None:
        raise ValueError('pairs of pictures and texts are asked for, but no words stand beside the pictures: '
                         'set layout.beside')  # fmt: skip
    features, size = model.encoder(batch.shown, batch.media_size), batch.media_size
    b, m, t, n, width = features.shape
    per_frame = size[..., 1] * size[..., 2] + model.extra_features
    count = reshape_rows(size[..., 0] * per_frame, (b * m,))
    return reshape_rows(features, (b * m, t * n, width)), count, reshape_rows(batch.words, (b * m, words_of(batch)))


def words_of(batch: Any) -> int:
    """Returns how many words may stand beside a medium."""
    return batch.words.shape[2]


def contrast(
    q: Qformer,
    features: Float[Array, 'N n E'],
    count: Int[Array, 'N'],
    words: Int[Array, 'N W'],
    there: Bool[Array, 'N'],
    smoothing: float,
) -> tuple[Float[Array, ''], Float[Array, 'N N']]:
    """Returns (loss, similarity of every picture with every text); neither side sees the other."""
    queries, _ = q.read(features, count, None, 'two-way')
    _, hidden = q.read(None, None, words, 'two-way')
    similarity = q.heads.similarity(q.heads.images(queries), q.heads.texts(hidden))
    weight, others = there / jnp.maximum(there.sum(), 1), there.sum()
    column = sharding.place(there, P())[None]

    def side(scores: Array) -> Array:
        log = jax.nn.log_softmax(jnp.where(column, scores, -jnp.inf), axis=1)
        log = jnp.where(column, log, 0.0)
        target = (1 - smoothing) * jnp.eye(len(scores)) + smoothing / jnp.maximum(others, 1)
        return -((log * target).sum(axis=1) * weight).sum()

    return (side(similarity) + side(sharding.place(similarity.T, P(ROWS)))) / 2, similarity


def negatives(
    similarity: Float[Array, 'N N'], there: Bool[Array, 'N'], key: Array | None
) -> tuple[Int[Array, 'N'], Int[Array, 'N']]:
    """Returns (a wrong picture for each text, a wrong text for each picture), drawn as near as they are."""
    never = jnp.eye(len(similarity), dtype=bool) | ~sharding.place(there, P())[None]
    scores = jnp.where(never, FAR, jax.lax.stop_gradient(similarity))
    turned = jnp.where(never, FAR, jax.lax.stop_gradient(sharding.place(similarity.T, P(ROWS))))
    if key is None:
        return turned.argmax(axis=1), scores.argmax(axis=1)
    first, second = jax.random.split(key)
    drawn = lambda key, scores: jax.random.categorical(key, sharding.place(scores, P()), axis=1)
    return drawn(first, turned), drawn(second, scores)


def verdict(
    q: Qformer,
    features: Float[Array, 'N n E'],
    count: Int[Array, 'N'],
    words: Int[Array, 'N W'],
    there: Bool[Array, 'N'],
    wrong_images: Int[Array, 'N'],
    wrong_texts: Int[Array, 'N'],
) -> tuple[Float[Array, ''], Float[Array, 'M 2']]:
    """Returns (loss, logits) of all right pairs, then texts with wrong pictures, then pictures with wrong texts."""
    pick = lambda x, index: sharding.place(x, P()).at[index].get(out_sharding=sharding.where(P(ROWS)))
    cases = (
        (features, count, words),
        (pick(features, wrong_images), pick(count, wrong_images), words),
        (features, count, pick(words, wrong_texts)),
    )
    logits = [q.heads.match(q.read(*case, 'two-way')[0]) for case in cases]
    log = jnp.stack([jax.nn.log_softmax(x, axis=1)[:, int(right)] for x, right in zip(logits, (1, 0, 0), strict=True)])
    weight = there / jnp.maximum(3 * there.sum(), 1)
    return -(log * weight).sum(), jnp.concatenate(logits)


def captions(
    q: Qformer,
    features: Float[Array, 'N n E'],
    count: Int[Array, 'N'],
    words: Int[Array, 'N W'],
    there: Bool[Array, 'N'],
    smoothing: float,
) -> tuple[Float[Array, ''], Float[Array, 'N W D']]:
    """Returns (loss, what the words' scores are made of) where each word sees the queries and those before it."""
    begun = words.at[:, 0].set(jnp.where(words[:, 0] >= 0, q.words.begin, -1))
    hidden = q.heads.transform(q.read(features, count, begun, 'captions')[1])
    labels = jnp.roll(words, -1, axis=1).at[:, -1].set(-1)
    weight = ((labels >= 0) & there[:, None]).astype(jnp.float32)
    total, weight, _ = token_losses(q.heads, hidden, jnp.maximum(labels, 0), weight, label_smoothing=smoothing)
    return total / jnp.maximum(weight, 1), hidden
