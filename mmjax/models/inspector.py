# SPDX-License-Identifier: Apache-2.0
"""Maps of what is wrong with a picture, and prompts made of such a map (Gu et al. 2024, AnomalyGPT).

    depth k of a tower -> linear -> cosine with (right, wrong) of the texts' space -> stretched -> softmax -> map k
    mean of the maps -> convolutions, each halved -> 9 vectors; they follow 9 learned ones

N pictures, P patches, K depths, E width of a depth, S width of the texts' space, h x w pixels of a map, D of prompts.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mmjax import sharding
from mmjax.models.connector import Grid, unit
from mmjax.models.decoder import Decoder
from mmjax.nn import stack
from mmjax.nn.convolution import Convolution, halved, stretched
from mmjax.nn.layers import Linear, normal, parameter
from mmjax.sharding import ROWS, P, w_DE, w_LD


class MapDecoder(nnx.Module):
    """Compares patches of several depths, each through a map of its own, with texts of what is right and wrong."""

    def __init__(
        self,
        depths: int,
        width_in: int,
        width: int,
        size: tuple[int, int],
        *,
        sharpness: float = 100.0,
        rngs: nnx.Rngs,
    ):
        self.size, self.sharpness = size, sharpness
        linear = lambda r: Linear(width_in, width, bias=True, spec=w_DE, rngs=r)
        self.linear = stack.build(linear, depths, rngs)

    def __call__(
        self, patches: Float[Array, 'K N P E'], grid: tuple[int, int], texts: Float[Array, 'N 2 S']
    ) -> Float[Array, 'K N h w 2']:
        """Returns how likely each pixel is right and wrong, by each depth, float32; `texts` have length 1."""

        def one(_: None, x: tuple[Linear, Array]) -> tuple[None, Array]:
            cosine = jnp.einsum('NPS,NcS->NPc', unit(x[0](x[1]).astype(jnp.float32)), texts.astype(jnp.float32))
            scores = sharding.reshape_rows(self.sharpness * cosine, (cosine.shape[0], *grid, 2))
            return None, jax.nn.softmax(stretched(scores, self.size), axis=-1)

        return jax.lax.scan(one, None, (self.linear, patches))[1]


class PromptLearner(nnx.Module):
    """Turns a map into vectors: convolutions that halve it, and one without padding whose places are the vectors."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        channels: tuple[int, ...] = (4, 16, 64, 256, 1024)
        last: int = 5  # side of the last window
        learned: int = 9  # vectors in front that know no map

        def count(self, size: tuple[int, int]) -> int:
            """Returns the number of vectors that a map of this size gives, the learned ones included."""
            sides = [side // 2 ** len(self.channels) - self.last + 1 for side in size]
            if min(sides) < 1:
                raise ValueError(
                    f'PromptLearner.Config: {len(self.channels)} halvings of a map of {size} leave less than a window '
                    f'of side {self.last}; use fewer channels, a smaller `last` or larger maps'
                )
            return self.learned + sides[0] * sides[1]

        def build(self, width: int, *, rngs: nnx.Rngs) -> 'PromptLearner':
            """Builds the part for vectors of the given width."""
            return PromptLearner(self, width, rngs=rngs)

    def __init__(self, c: Config, width: int, *, rngs: nnx.Rngs):
        widths = (1, *c.channels)
        self.halve = nnx.List(Convolution(a, b, 3, padding=1, rngs=rngs) for a, b in itertools.pairwise(widths))
        self.last = Convolution(widths[-1], width, c.last, rngs=rngs)
        self.base = parameter(normal(rngs.params(), (c.learned, width), 1.0), w_LD)

    def __call__(self, maps: Float[Array, 'N h w']) -> Float[Array, 'N Q D']:
        """Returns the learned vectors, then those of the map."""
        x = maps[..., None]
        for convolution in self.halve:
            x = halved(jax.nn.relu(convolution(x)))
        x = self.last(x)
        x = sharding.reshape_rows(x, (x.shape[0], x.shape[1] * x.shape[2], x.shape[3]))
        return jnp.concatenate([sharding.broadcast_rows(self.base[...], x.shape[0]).astype(x.dtype), x], axis=1)


def unlike(
    patches: Float[Array, 'K N P E'], memory: Float[Array, 'K N M E'], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Array, 'N h w']:
    """Returns how unlike every patch of a memory a picture is: 1 less the largest cosine, a mean over depths."""
    both = (unit(x.astype(jnp.float32)) for x in (patches, memory))
    nearest = jnp.einsum('KNPE,KNME->KNPM', *both).max(axis=-1).mean(axis=0)
    return 1 - stretched(sharding.reshape_rows(nearest, (nearest.shape[0], *grid, 1)), size)[..., 0]


class Inspector(nnx.Module):
    """A connector that gives a picture one token, behind it the prompts of its map: what is wrong with it, and where.

    Features are those of a tower with `deep` blocks and its cls token. Beside each picture stand texts of equal room
    (data.states.States): first those of a right one, then those of a wrong one.
    """

    @dataclasses.dataclass(kw_only=True)
    class Config:
        text: Decoder.Config  # reads the texts
        depths: int = 4  # K: as many as the tower names in `deep`
        space: int = 1024  # S
        size: tuple[int, int] = (224, 224)  # h, w
        sharpness: float = 100.0  # by which cosines are multiplied; where nothing is pretrained, less
        prompts: PromptLearner.Config = dataclasses.field(default_factory=PromptLearner.Config)
        texts: tuple[int, int] = (14, 10)  # of right and of wrong pictures
        longest: int = 24  # words of a text

        @property
        def most_words(self) -> int:
            """W: places for the words of all texts."""
            return sum(self.texts) * self.longest

        @property
        def words_vocab(self) -> int:
            """How many ids of words it knows."""
            return self.text.vocab

        def grid(self, frames: int, features: Grid) -> Grid:
            """Returns the (rows, columns) of a medium's tokens."""
            return 1, 1 + self.prompts.count(self.size)

        def build(
            self, width_in: int, width: int | None, *, frames: int = 1, features: Grid | None = None, rngs: nnx.Rngs
        ) -> 'Inspector':
            """Builds the part; `features` is the grid of one frame's patches."""
            if frames > 1 or features is None or width_in % (1 + self.depths):
                raise ValueError(
                    f'Inspector reads pictures of one frame and a fixed grid, at {self.depths} depths besides the '
                    f'last: frames is {frames}, the grid {features}, the width {width_in}; set Vit.Config.deep'
                )
            return Inspector(self, width_in // (1 + self.depths), width or width_in, features, rngs=rngs)

    def __init__(self, c: Config, width_in: int, width: int, features: Grid, *, rngs: nnx.Rngs):
        self.width, self.patches, self.depths, self.texts = width, features, c.depths, c.texts
        self.text = c.text.build(rngs=rngs)
        self.text_projection = Linear(c.text.width, c.space, bias=False, spec=w_LD, rngs=rngs)
        self.projection = Linear(width_in, c.space, bias=False, spec=w_LD, rngs=rngs)
        self.out = Linear(c.space, width, bias=True, spec=w_DE, rngs=rngs)
        self.decoder = MapDecoder(c.depths, width_in, c.space, c.size, sharpness=c.sharpness, rngs=rngs)
        self.prompts = c.prompts.build(width, rngs=rngs)

    def __call__(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N'], words: Int[Array, 'N W'] | None
    ) -> Float[Array, 'N Q D']:
        """Returns the picture's token, the learned prompts and those of its map."""
        own = jnp.split(features[:, 0], 1 + self.depths, axis=-1)[0]
        token = self.out(unit(self.projection(own)))
        found = self.maps(features, count, words)[..., 1].mean(axis=0)
        prompts = self.prompts(found.astype(token.dtype))
        return jnp.concatenate([token[:, None], prompts.astype(token.dtype)], axis=1)

    def levels(self, features: Float[Array, 'N n E']) -> Float[Array, 'K N P F']:
        """Returns the patches of every depth."""
        return jnp.stack(jnp.split(features[:, 1:], 1 + self.depths, axis=-1)[1:])

    def maps(
        self, features: Float[Array, 'N n E'], count: Int[Array, 'N'], words: Int[Array, 'N W'] | None
    ) -> Float[Array, 'K N h w 2']:
        """Returns how likely each pixel is right and wrong, by each depth."""
        return self.decoder(self.levels(features), self.patches, self.states(words))

    def unlike(self, features: Float[Array, 'N n E'], memory: Float[Array, 'M n E']) -> Float[Array, 'N h w']:
        """Returns how unlike all patches of the pictures in memory every picture is."""
        known = self.levels(memory)
        known = known.reshape(known.shape[0], 1, -1, known.shape[3])
        known = jnp.broadcast_to(known, (known.shape[0], features.shape[0], *known.shape[2:]))
        known = sharding.place(known, P(None, ROWS, None, None))
        return unlike(self.levels(features), known, self.patches, self.decoder.size)

    def states(self, words: Int[Array, 'N W'] | None) -> Float[Array, 'N 2 S']:
        """Returns the mean directions of the texts of a right and of a wrong picture, of length 1."""
        if words is None:
            raise ValueError('an Inspector compares pictures with texts, and there are none: set layout.beside')
        rows, longest = words.shape[0] * sum(self.texts), words.shape[1] // sum(self.texts)
        flat = sharding.reshape_rows(words, (rows, longest))
        length = (flat >= 0).sum(axis=1)
        position = sharding.broadcast_rows(jnp.arange(longest), rows)
        seen = position < length[:, None]
        span = jnp.stack([position * 0, jnp.where(seen, position + 1, 0)], axis=-1)
        hidden = self.text(self.text.embed_tokens(jnp.maximum(flat, 0)), span, position)
        # The sign that closes a text is the place where all of it has been read.
        last = jax.vmap(lambda row, place: row[place])(hidden, jnp.maximum(length - 1, 0))
        each = unit(self.text_projection(last).astype(jnp.float32))
        each = sharding.reshape_rows(each, (words.shape[0], sum(self.texts), each.shape[1]))
        right, wrong = each[:, : self.texts[0]], each[:, self.texts[0] :]
        return unit(jnp.stack([right.mean(axis=1), wrong.mean(axis=1)], axis=1))
