# SPDX-License-Identifier: Apache-2.0
"""Top-down attention: a question chooses among a picture's regions, and both together score a list of answers.

    words -> GRU -> question --.------------------------------ layer --.
                               v                                        * -> layer -> score of each answer
    regions ------------> attention -> weighted mean of regions - layer -'

Anderson et al. 2018 (arXiv:1707.07998) and Teney et al. 2018 (1708.02711): gated tanh, a score of [region; question].
The public re-implementation hengyuan-hu/bottom-up-attention-vqa: relu, weights of learned length, a score of products.

N questions, L words, n regions of a picture, E their width, D width of the common space, A answers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mmjax.batch import Batch, MediaSpec
from mmjax.models.heads import padded
from mmjax.models.regions import Regions
from mmjax.nn.gated_layer import Layer, affine
from mmjax.nn.layers import Embed
from mmjax.nn.recurrent import Gru
from mmjax.sharding import reshape_rows, w_VD

JOINTS = ('product', 'concat')


class TopDown(nnx.Module):
    """Answers questions about pictures that come as regions, by choosing from a list."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        encoder: Regions.Config
        vocab: int  # ids of words
        answers: int  # A
        word_width: int = 300
        width: int = 512  # D, also of the GRU
        hidden: int = 512  # between the common space and the answers
        layer: Layer.Config = dataclasses.field(default_factory=Layer.Config)
        joint: str = 'concat'  # what scores a region: the 'product' of two layers, or one layer of both ('concat')
        pad: int | None = None  # the word that is read in front of questions shorter than a row; None: none is

        def media_spec(self) -> MediaSpec:
            """Returns what the data side needs to know: regions of one picture, which stand beside the words."""
            e = self.encoder
            grid = lambda frames, rows, columns: (1, columns)
            return MediaSpec(
                height=1, width=e.most, tokens=e.most, grid=grid, in_sequence=False, apart=True, varying=True,
                features=e.width, answers=self.answers,
            )  # fmt: skip

        def build(self, *, rngs: nnx.Rngs) -> 'TopDown':
            """Builds the model."""
            return TopDown(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if c.joint not in JOINTS:
            raise ValueError(f'TopDown.Config.joint is {c.joint!r}; choose one of {JOINTS}')
        self.pad, self.answers, seen = c.pad, c.answers, c.encoder.width
        layer = lambda width_in, width: c.layer.build(width_in, width, rngs=rngs)
        self.encoder = c.encoder.build(rngs=rngs)
        self.words = Embed(padded(c.vocab), c.word_width, spec=w_VD, rngs=rngs)
        self.reader = Gru(c.word_width, c.width, rngs=rngs)
        product = c.joint == 'product'
        self.score_region = layer(seen if product else seen + c.width, c.width)
        self.score_question = layer(c.width, c.width) if product else None
        self.score = affine(c.width, 1, normed=c.layer.normed, rngs=rngs)
        self.region, self.question = layer(seen, c.width), layer(c.width, c.width)
        self.joined = layer(c.width, c.hidden)
        self.answer = affine(c.hidden, c.answers, normed=c.layer.normed, rngs=rngs)

    def scores(self, batch: Batch) -> tuple[Float[Array, 'N A'], Bool[Array, 'N']]:
        """Returns logits of every answer to each row's question, float32, and whether the row has a picture."""
        if batch.features is None or batch.features.shape[1] != 1:
            shape = None if batch.features is None else batch.features.shape
            raise ValueError(f'features {shape}: a question is about one picture; set layout.max_media to 1')
        n, _, regions, width = batch.features.shape
        features = reshape_rows(self.encoder(batch.features, batch.media_size), (n, regions, width))
        count = batch.media_size[:, 0, 0] * batch.media_size[:, 0, 2]
        question = self.read(batch.tokens, (batch.span[..., 1] > batch.span[..., 0]).sum(axis=1))
        _, seen = self.look(features, count, question)
        joint = self.question(question) * self.region(seen)
        return self.answer(self.joined(joint)).astype(jnp.float32), count > 0

    def read(self, tokens: Int[Array, 'N L'], length: Int[Array, 'N']) -> Float[Array, 'N D']:
        """Returns questions as vectors. Each ends at the row's last place, where the state is taken."""
        place = jnp.arange(tokens.shape[1]) - (tokens.shape[1] - length[:, None])
        there = place >= 0
        moved = jax.vmap(lambda row, place: row[place])(tokens, jnp.maximum(place, 0))
        if self.pad is None:
            return self.reader(self.words(moved), there)
        return self.reader(self.words(jnp.where(there, moved, self.pad)))

    def look(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N'], question: Float[Array, 'N D']
    ) -> tuple[Float[Array, 'N n'], Float[Array, 'N E']]:
        """Returns how much each of the first `count` regions is looked at, and the mean of regions by that."""
        if self.score_question is None:
            asked = jnp.broadcast_to(question[:, None], (*features.shape[:2], question.shape[1]))
            joint = self.score_region(jnp.concatenate([features, asked.astype(features.dtype)], axis=-1))
        else:
            joint = self.score_region(features) * self.score_question(question)[:, None]
        there = jnp.arange(features.shape[1]) < count[:, None]
        scores = jnp.where(there, self.score(joint)[..., 0].astype(jnp.float32), -1e30)
        weight = jnp.where(there, jax.nn.softmax(scores, axis=-1), 0)
        return weight, jnp.einsum('Nn,NnE->NE', weight.astype(features.dtype), features)
