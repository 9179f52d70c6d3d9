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
from jaxtyping import Array, Float

from mmjax import sharding
from mmjax.models.connector import unit
from mmjax.nn import stack
from mmjax.nn.convolution import Convolution, halved, stretched
from mmjax.nn.layers import Linear, normal, parameter
from mmjax.sharding import w_DE, w_LD

SHARPNESS = 100.0  # by which cosines are multiplied


class MapDecoder(nnx.Module):
    """Compares patches of several depths, each through a map of its own, with texts of what is right and wrong."""

    def __init__(self, depths: int, width_in: int, width: int, size: tuple[int, int], *, rngs: nnx.Rngs):
        self.size = size
        linear = lambda r: Linear(width_in, width, bias=True, spec=w_DE, rngs=r)
        self.linear = stack.build(linear, depths, rngs)

    def __call__(
        self, patches: Float[Array, 'K N P E'], grid: tuple[int, int], texts: Float[Array, 'N 2 S']
    ) -> Float[Array, 'K N h w 2']:
        """Returns how likely each pixel is right and wrong, by each depth, float32; `texts` have length 1."""

        def one(_: None, x: tuple[Linear, Array]) -> tuple[None, Array]:
            cosine = jnp.einsum('NPS,NcS->NPc', unit(x[0](x[1]).astype(jnp.float32)), texts.astype(jnp.float32))
            scores = sharding.reshape_rows(SHARPNESS * cosine, (cosine.shape[0], *grid, 2))
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
