# SPDX-License-Identifier: Apache-2.0
"""A further kind of media beside pictures: sounds, videos, shapes, each with a connector of its own (X-InstructBLIP,
Panagopoulou et al. 2023).

    picture   encoder ──────────► connector ──┐
    video     the same encoder ─► connector ──┼─► tokens among the words
    sound     vectors, a norm ──► connector ──┘

B rows, M media a row, T frames, n features of a frame, E features' width, P tokens a medium, D width.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mmjax.batch import MediaSpec, Sensed
from mmjax.models.connector import AttentionPool, Grid, Linear, Mlp
from mmjax.models.fusion import CrossAttention
from mmjax.models.qformer import Qformer
from mmjax.models.regions import Regions
from mmjax.models.resampler import Resampler
from mmjax.models.vision import Vit
from mmjax.sharding import reshape_rows

Connector = Linear.Config | Mlp.Config | AttentionPool.Config | Resampler.Config | Qformer.Config


class Sense(nnx.Module):
    """Makes tokens of the media of one kind: of vectors that another tower gave, or of frames by the model's own."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        connector: Connector
        encoder: Regions.Config | None = None  # None: its media are videos, read by the encoder of pictures
        frames: int = 1  # T: the most frames of a medium; vectors come in so many stretches of equal length

        def media_spec(self, pictures: Any) -> MediaSpec:
            """Returns what the data side needs to know; `pictures` is the config of the model's encoder."""
            encoder = self.encoder or pictures
            if self.encoder is None and not isinstance(encoder, Vit.Config):
                raise ValueError('Sense.Config.encoder is None, and the model has no Vit whose features could be taken')
            vectors = isinstance(encoder, Regions.Config)
            if vectors and encoder.most % self.frames:
                raise ValueError(
                    f'{encoder.most} vectors (Regions.Config.most) are no {self.frames} stretches of equal length '
                    '(Sense.Config.frames)'
                )
            rows, columns = self.token_grid(encoder, self.frames, *encoder.grid)
            return MediaSpec(
                height=encoder.size[0],
                width=encoder.size[1],
                frames=1 if vectors else self.frames,
                patch=encoder.patch,
                tokens=rows * columns,
                grid=lambda *size: self.token_grid(encoder, *size),
                varying=vectors,
                beside=getattr(self.connector, 'most_words', 0),
                beside_vocab=getattr(self.connector, 'words_vocab', 0),
                features=encoder.width if vectors else 0,
            )

        def token_grid(self, encoder: Any, frames: int, rows: int, columns: int) -> Grid:
            """Returns the rows and columns of the tokens of a medium of so many frames and patches, or vectors."""
            if isinstance(encoder, Regions.Config):
                each = encoder.most // self.frames
                return self.connector.grid(math.ceil(columns / each), (1, min(columns, each)))
            return self.connector.grid(frames, (1, rows * columns + extra(encoder)))

        def build(self, pictures: Any, width: int, *, rngs: nnx.Rngs) -> 'Sense':
            """Builds the part for tokens of this width."""
            return Sense(self, pictures, width, rngs=rngs)

    def __init__(self, c: Config, pictures: Any, width: int, *, rngs: nnx.Rngs):
        seen = c.encoder or pictures
        self.encoder = c.encoder.build(rngs=rngs) if c.encoder else None
        self.extra, self.words = extra(seen), getattr(c.connector, 'most_words', 0)
        width_in = seen.width * (1 + len(getattr(seen, 'deep', ())))
        self.connector = c.connector.build(width_in, width, frames=c.frames, features=seen.grid, rngs=rngs)

    def __call__(self, media: Sensed, pictures: nnx.Module | None) -> Float[Array, 'B MP D']:
        """Returns the tokens of a row's media one after the other; `pictures` is the model's own encoder."""
        x, size = (self.encoder or pictures)(media.shown, media.size), media.size
        b, m, t, n = x.shape[:4]
        count = reshape_rows(size[..., 0] * (size[..., 1] * size[..., 2] + self.extra), (b * m,))
        seen = reshape_rows(x, (b * m, t * n, x.shape[4])), count
        if self.words:
            seen = *seen, reshape_rows(media.words, (b * m, media.words.shape[2]))
        x = self.connector(*seen)
        # As for pictures: a medium that is not there gives zeros.
        x = jnp.where(reshape_rows(size[..., :1], (b * m, 1))[..., None] > 0, x, 0)
        return reshape_rows(x, (b, m * x.shape[1], x.shape[2]))


def extra(encoder: Any) -> int:
    """Returns how many features of a frame are no patches: a cls token that stays."""
    return int(isinstance(encoder, Vit.Config) and encoder.cls and encoder.keep_cls)


def senses_of(c: Any, rngs: nnx.Rngs) -> nnx.Dict:
    """Returns what reads the further kinds of media of a Vlm with this config, by their names."""
    axes, levels = len(getattr(c.decoder.position, 'sections', ())), getattr(c.connector, 'levels', 0)
    if c.senses and (isinstance(c.fusion, CrossAttention.Config) or axes or levels or c.decoder.block.expert):
        raise ValueError(
            'Vlm.Config.senses gives tokens that stand among the words, at positions in a line, read by the weights of '
            'the words: set fusion to Splice, and use no positions of three axes, no DeepStack and no expert'
        )
    return nnx.Dict({kind: s.build(c.encoder, c.decoder.width, rngs=rngs) for kind, s in c.senses.items()})
