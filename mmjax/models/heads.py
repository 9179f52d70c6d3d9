# SPDX-License-Identifier: Apache-2.0
"""What stands behind queries and words where pairs of them are judged: contrast, verdict, captions (BLIP-2, stage 1).

N pairs, Q queries, D width, E width of the common space, V vocabulary (padded).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmjax import sharding
from mmjax.models.connector import unit
from mmjax.nn.layers import Linear, Norm, Unembedding, parameter
from mmjax.nn.mlp import Transform
from mmjax.sharding import P, w_DE, w_DV

MULTIPLE = 128  # tables of words are padded to it


def padded(vocab: int) -> int:
    """Returns the rows of a table of so many words."""
    return -(-vocab // MULTIPLE) * MULTIPLE


class Heads(nnx.Module):
    """A picture is as near to a text as the nearest of its queries; a verdict is the mean of the queries' verdicts."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        width: int = 256  # E
        temperature: float | None = 0.07  # by which cosines are divided; learnt; None: they are not
        writes: bool = True  # there is a head that names words
        norm: Norm.Config = dataclasses.field(default_factory=lambda: Norm.Config(eps=1e-12))  # before that head

        def build(self, width: int, vocab: int, *, rngs: nnx.Rngs) -> 'Heads':
            """Builds the heads behind parts of the given width."""
            return Heads(self, width, vocab, rngs=rngs)

    def __init__(self, c: Config, width: int, vocab: int, *, rngs: nnx.Rngs):
        self.vocab = vocab
        self.image = Linear(width, c.width, bias=True, spec=w_DE, rngs=rngs)
        self.text = Linear(width, c.width, bias=True, spec=w_DE, rngs=rngs)
        self.verdict = Linear(width, 2, bias=True, spec=w_DE, rngs=rngs)
        self.temperature = parameter(jnp.array(c.temperature), P()) if c.temperature else None
        self.transform = Transform.Config(norm=c.norm).build(width, rngs=rngs) if c.writes else None
        self.name = Linear(width, padded(vocab), bias=True, spec=w_DV, rngs=rngs) if c.writes else None

    def images(self, queries: Float[Array, 'N Q D']) -> Float[Array, 'N Q E']:
        """Returns a vector of length 1 for each query."""
        return unit(self.image(queries))

    def texts(self, words: Float[Array, 'N W D']) -> Float[Array, 'N E']:
        """Returns a vector of length 1 for each text: that of its first word."""
        return unit(self.text(words[:, 0]))

    def similarity(self, images: Float[Array, 'N Q E'], texts: Float[Array, 'M E']) -> Float[Array, 'N M']:
        """Returns how near every text is to the nearest query of every picture, float32."""
        images, texts = images.astype(jnp.float32), sharding.place(texts.astype(jnp.float32), P())
        cosine = jnp.einsum('NQE,ME->NMQ', images, texts).max(axis=-1)
        return cosine if self.temperature is None else cosine / self.temperature[...].astype(jnp.float32)

    def match(self, queries: Float[Array, 'N Q D']) -> Float[Array, 'N 2']:
        """Returns logits of (no, yes) for queries that stood beside words."""
        return self.verdict(queries, jnp.float32).mean(axis=1)

    def logits(self, hidden: Float[Array, 'N W D']) -> Float[Array, 'N W V']:
        """Returns float32 scores of the next word, of transformed vectors; -inf for padding."""
        y = self.name(hidden, jnp.float32)
        return jnp.where(jax.lax.broadcasted_iota(jnp.int32, (1, 1, y.shape[-1]), 2) < self.vocab, y, -jnp.inf)

    def unembedding(self) -> Unembedding:
        """Returns what `logits` computes with."""
        return Unembedding(self.name.kernel[...], 1, self.name.bias[...], self.vocab)
