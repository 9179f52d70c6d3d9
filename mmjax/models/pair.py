# SPDX-License-Identifier: Apache-2.0
"""A pair of towers, one for pictures and one for text, whose vectors are compared (CLIP, SigLIP, BLIP).

N pictures or texts, L tokens, D width of the common space.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from mmjax import sharding
from mmjax.batch import Batch, MediaSpec
from mmjax.models.connector import unit
from mmjax.models.decoder import Decoder
from mmjax.models.resnet import ResNet
from mmjax.models.vision import Vit, everything
from mmjax.nn.block import CrossBranch
from mmjax.nn.layers import Linear, parameter
from mmjax.sharding import ROWS, P, w_DE, w_LD

POOLS = ('start', 'first', 'largest', 'last')


class Pair(nnx.Module):
    """Two towers and the scale (and bias) of their vectors' products.

    With `cross`, texts may also look at a picture while they are read, and a head says whether the two belong together
    (BLIP's image-text matching).
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        vision: Vit.Config | ResNet.Config
        text: Decoder.Config
        width: int  # D
        project_image: bool = False  # False: the tower's own vector, which then has width D
        image_bias: bool = False  # of the pictures' projection
        text_bias: bool = False  # of the text's projection
        cross: CrossBranch.Config | None = None  # in every block of the text tower
        causal: bool = False  # a token sees those before it; False: all of them
        # The token behind a text's end that is read like any other, up to the row's end, and pooled; None: padding is
        # not read (see `vectors`).
        read_pad: int | None = None
        # The text's vector is that of: the 'start', the 'first' pool_id, the 'largest' id, the 'last' place.
        pool: str = 'last'
        pool_id: int = 0
        init_scale: float | None = 1 / 0.07  # None: products are not scaled
        max_scale: float | None = None
        logit_bias: bool = False
        init_bias: float = -10.0

        def media_spec(self) -> MediaSpec:
            """Returns what the data side needs to know: a picture a row, which takes no place among the words."""
            height, width = self.vision.size
            one = lambda frames, rows, columns: (1, 1)
            return MediaSpec(
                height=height, width=width, patch=self.vision.patch, tokens=1, grid=one, in_sequence=False, apart=True
            )

        @property
        def vocab(self) -> int | None:
            """How many token ids the model knows."""
            return self.text.vocab

        def build(self, *, rngs: nnx.Rngs) -> 'Pair':
            """Builds the pair."""
            return Pair(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        if c.pool not in POOLS:
            raise ValueError(f'Pair.Config.pool is {c.pool!r}; choose one of {POOLS}')
        given = c.vision.pooled_width
        if not c.project_image and given != c.width:
            raise ValueError(f'pictures have width {given}, the common space {c.width}: set project_image')
        self.causal, self.pool, self.pool_id, self.read_pad = c.causal, c.pool, c.pool_id, c.read_pad
        self.max_scale = c.max_scale
        self.vision = c.vision.build(rngs=rngs)
        self.text = c.text.build(cross=c.cross, media_width=c.vision.width, rngs=rngs)
        project = lambda: Linear(given, c.width, bias=c.image_bias, spec=w_LD, rngs=rngs)
        self.image_projection = project() if c.project_image else None
        self.text_projection = Linear(c.text.width, c.width, bias=c.text_bias, spec=w_LD, rngs=rngs)
        self.verdict = Linear(c.text.width, 2, bias=True, spec=w_DE, rngs=rngs) if c.cross else None
        self.scale = parameter(jnp.array(math.log(c.init_scale)), P()) if c.init_scale else None
        self.bias = parameter(jnp.array(c.init_bias), P()) if c.logit_bias else None

    def vectors(self, batch: Batch) -> tuple[Float[Array, 'N D'], Float[Array, 'N D'], Bool[Array, 'N']]:
        """Returns each row's picture and text as vectors of length 1, float32, and whether the row has both."""
        if batch.pixels is None or batch.pixels.shape[1:3] != (1, 1):
            shape = None if batch.pixels is None else batch.pixels.shape
            raise ValueError(f'pixels {shape}: a pair is one picture beside one text; set layout.max_media to 1')
        words = batch.span[..., 1] > batch.span[..., 0]
        there = (batch.media_size[:, 0, 0] > 0) & words.any(axis=1)
        pixels = sharding.reshape_rows(batch.pixels, (batch.pixels.shape[0], *batch.pixels.shape[3:]))
        if self.read_pad is None:
            texts = self.texts(batch.tokens, words.sum(axis=1))
        else:
            texts = self.texts(jnp.where(words, batch.tokens, self.read_pad))
        return *(unit(x.astype(jnp.float32)) for x in (self.images(pixels), texts)), there

    def gain(self) -> tuple[Float[Array, ''], Float[Array, '']]:
        """Returns the scale and the bias of similarities, float32."""
        scale = jnp.ones(()) if self.scale is None else jnp.exp(self.scale[...].astype(jnp.float32))
        scale = scale if self.max_scale is None else jnp.minimum(scale, self.max_scale)
        return scale, jnp.zeros(()) if self.bias is None else self.bias[...].astype(jnp.float32)

    def read(
        self,
        tokens: Int[Array, 'N L'],
        length: Int[Array, 'N'] | None = None,
        features: Float[Array, 'N P W'] | None = None,
    ) -> Float[Array, 'N L E']:
        """Returns the text tower's hidden states; tokens from `length` on see nothing and are not seen.

        With the features of a picture for each text, every token looks at all of them.
        """
        rows, places = tokens.shape
        span = sharding.place(everything(rows, places, places), P(ROWS, None, None))
        position = sharding.broadcast_rows(jnp.arange(places), rows)
        if self.causal:
            span = span.at[..., 1].set(position + 1)
        if length is not None:
            end = jnp.where(position < length[:, None], jnp.minimum(span[..., 1], length[:, None]), 0)
            span = span.at[..., 1].set(end)
        looks = None
        if features is not None:
            seen = span[..., 0] < span[..., 1]
            looks = jnp.stack([seen * 0, seen * features.shape[1]], axis=-1)
        return self.text(self.text.embed_tokens(tokens), span, position, media=features, media_span=looks)

    def match(
        self, features: Float[Array, 'N P W'], tokens: Int[Array, 'N L'], length: Int[Array, 'N'] | None = None
    ) -> Float[Array, 'N 2']:
        """Returns logits of (no, yes): whether text n belongs to the picture whose features stand at n."""
        return self.verdict(self._pooled(tokens, self.read(tokens, length, features)))

    def texts(self, tokens: Int[Array, 'N L'], length: Int[Array, 'N'] | None = None) -> Float[Array, 'N D']:
        """Returns the vectors of texts, not yet of length 1."""
        return self.text_projection(self._pooled(tokens, self.read(tokens, length)))

    def images(self, pixels: UInt8[Array, 'N h w 3'] | Float[Array, 'N h w 3']) -> Float[Array, 'N D']:
        """Returns the vectors of pictures, not yet of length 1."""
        pooled = self.vision.pooled(pixels)
        return pooled if self.image_projection is None else self.image_projection(pooled)

    def similarity(self, images: Float[Array, 'N D'], texts: Float[Array, 'M D']) -> Float[Array, 'N M']:
        """Returns the scaled cosine of every picture with every text, float32."""
        images, texts = (unit(x).astype(jnp.float32) for x in (images, texts))
        scale, bias = self.gain()
        # Every device compares its pictures with all texts.
        return scale * jnp.einsum('ND,MD->NM', images, sharding.place(texts, P())) + bias

    def _pooled(self, tokens: Int[Array, 'N L'], hidden: Float[Array, 'N L E']) -> Float[Array, 'N E']:
        if self.pool in ('start', 'last'):
            return hidden[:, 0 if self.pool == 'start' else -1]
        place = jnp.argmax(tokens == self.pool_id if self.pool == 'first' else tokens, axis=1)
        place = sharding.place(place, P(ROWS))
        return jax.vmap(lambda row, place: row[place])(hidden, place)
