# SPDX-License-Identifier: Apache-2.0
"""The vision-language model: encoder -> connector -> fusion -> decoder. Every system here is a config of it.

B rows, L tokens, M media a row, T frames, n features of a frame, P tokens a medium, S media tokens and states of a row,
D width, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mmjax.batch import Batch, MediaSpec
from mmjax.models import connector
from mmjax.models.budget import BudgetVit
from mmjax.models.combinations import refuse
from mmjax.models.davit import Davit
from mmjax.models.decoder import Cache, Decoder
from mmjax.models.deepstack import DeepStack
from mmjax.models.fusion import CrossAttention, Splice, of_media, splice, together
from mmjax.models.gated import GatedConnector
from mmjax.models.grid_resampler import GridResampler
from mmjax.models.inspector import Inspector
from mmjax.models.native import NativeVit
from mmjax.models.overview import Overview
from mmjax.models.patches import Patches
from mmjax.models.qformer import Qformer
from mmjax.models.reader import Reader
from mmjax.models.region_sampler import RegionSampler
from mmjax.models.regions import Regions
from mmjax.models.resampler import Resampler
from mmjax.models.sense import Sense, senses_of
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.state import StateVector
from mmjax.models.vision import Vit
from mmjax.nn.layers import Unembedding, normal, parameter
from mmjax.sharding import b_D, broadcast_rows, reshape_rows

Encoder = Vit.Config | Patches.Config | NativeVit.Config | BudgetVit.Config | Davit.Config | Regions.Config
Connector = (
    connector.Linear.Config
    | connector.Mlp.Config
    | connector.AttentionPool.Config
    | Resampler.Config
    | GatedConnector.Config
    | Reader.Config
    | Qformer.Config
    | GridResampler.Config
    | DeepStack.Config
    | Overview.Config
    | Inspector.Config
)


class Vlm(nnx.Module):
    """Reads batches in which text, pictures, frames and states alternate; writes hidden states of what comes next."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        decoder: Decoder.Config | Seq2seq.Config
        encoder: Encoder | None = None  # None: the model sees no pictures
        connector: Connector | None = None  # None: the encoder's features are the media tokens
        state: StateVector.Config | None = None
        region_sampler: RegionSampler.Config | None = None  # reads regions of pictures as a token each
        senses: dict[str, Sense.Config] = dataclasses.field(default_factory=dict)  # further kinds of media, by name
        fusion: Splice.Config | CrossAttention.Config = dataclasses.field(default_factory=Splice.Config)
        frames: int = 1  # the most frames of one medium
        per_second: float = 0.0  # positions of time a second of video, where positions have three axes
        signs: int = 0  # tokens on either side of a medium that are of its kind, where the decoder knows two kinds
        newline: bool = False  # each medium has one token more, learned, that ends the rows of tiled pictures

        def media_spec(self) -> MediaSpec:
            """Returns all that the data side needs to know of the model."""
            senses = {kind: sense.media_spec(self.encoder) for kind, sense in self.senses.items()}
            state_width = self.state.size if self.state else 0
            axes = len(getattr(self.decoder.position, 'sections', ())) or 1
            in_sequence, encodes = isinstance(self.fusion, Splice.Config), isinstance(self.decoder, Seq2seq.Config)
            if self.encoder is None:
                return MediaSpec(
                    in_sequence=in_sequence, encodes=encodes, state_width=state_width, axes=axes, senses=senses
                )
            token_rows, token_columns = self.token_grid(self.frames, *self.encoder.grid)
            budget = getattr(self.encoder, 'budget', 0)
            most = -(-self.frames // self.temporal) * budget // self.squares**2
            tokens = min(token_rows * token_columns, most or token_rows * token_columns)
            return MediaSpec(
                height=self.encoder.size[0],
                width=self.encoder.size[1],
                frames=self.frames,
                patch=self.encoder.patch,
                budget=budget,
                tokens=tokens + self.newline,
                newline=self.newline,
                axes=axes,
                grid=self.token_grid,
                in_sequence=in_sequence,
                encodes=encodes,
                varying=self.varying,
                state_width=state_width,
                ends=getattr(self.connector, 'ends', 0),
                multiple=self.squares,
                temporal=self.temporal,
                per_second=self.per_second,
                experts=self.decoder.block.expert is not None,
                beside=self.words,
                marks=getattr(self.connector, 'size', None),
                features=self.encoder.width if isinstance(self.encoder, Regions.Config) else 0,
                points=self.region_sampler.points if self.region_sampler else 0,
                beside_vocab=getattr(self.connector, 'words_vocab', 0),
                senses=senses,
            )

        @property
        def words(self) -> int:
            """The most words that the connector reads beside a medium."""
            return getattr(self.connector, 'most_words', 0)

        def token_grid(self, frames: int, patch_rows: int, patch_columns: int) -> tuple[int, int]:
            """Returns the rows and columns of the tokens that a medium of so many frames and patches gives."""
            frames, features = -(-frames // self.temporal), (patch_rows, patch_columns)
            if self.extra_features:
                features = 1, patch_rows * patch_columns + self.extra_features
            if self.connector is not None:
                return self.connector.grid(frames, features)
            return frames * features[0], features[1]

        @property
        def vocab(self) -> int | None:
            """How many token ids the model knows; None for one that reads no tokens."""
            return self.decoder.vocab

        @property
        def varying(self) -> bool:
            """Says whether pictures keep their aspect."""
            return getattr(self.encoder, 'varying', False)

        @property
        def squares(self) -> int:
            """Side of the squares in whose order the encoder gives features; 1: they come row by row."""
            return self.encoder.merge if isinstance(self.encoder, NativeVit.Config) else 1

        @property
        def temporal(self) -> int:
            """Frames that one feature stands for."""
            return self.encoder.temporal if isinstance(self.encoder, NativeVit.Config) else 1

        @property
        def extra_features(self) -> int:
            """Features of a frame that are not patches: a cls token that stays."""
            return int(isinstance(self.encoder, Vit.Config) and self.encoder.cls and self.encoder.keep_cls)

        def build(self, *, rngs: nnx.Rngs) -> 'Vlm':
            """Builds the model; widths follow from the neighbours'."""
            return Vlm(self, rngs=rngs)

    def __init__(self, c: Config, *, rngs: nnx.Rngs):
        refuse(c)
        encodes = isinstance(c.decoder, Seq2seq.Config)
        self.extra_features, self.words, self.squares = c.extra_features, c.words, c.squares
        self.temporal, self.signs, self.varying = c.temporal, c.signs, c.varying
        self.deep = getattr(c.connector, 'levels', 0)
        crossing = c.fusion if isinstance(c.fusion, CrossAttention.Config) else None
        # Among text, media are as wide as text; looked at through cross-attention, they keep the encoder's width.
        width = None if crossing else c.decoder.width
        self.encoder, self.connector = _vision(c, width, rngs)
        last = self.connector or self.encoder
        self.media_width = last.width if last else c.decoder.width
        if width and self.media_width != width:
            raise ValueError(
                f'media tokens of width {self.media_width} cannot stand among text of width {width}; '
                'choose a connector in Vlm.Config'
            )
        self.newline = parameter(normal(rngs.params(), (self.media_width,), 0.02), b_D) if c.newline else None
        self.state = c.state.build(self.media_width, rngs=rngs) if c.state else None
        self.kinds, self.senses = tuple(c.senses), senses_of(c, rngs)
        cross = dict(cross=crossing.block, every=crossing.every, first=crossing.start) if crossing else {}
        cross = {} if encodes else {**cross, 'media_width': self.media_width}
        self.region_sampler = _sampler(c, self.encoder, rngs) if c.region_sampler else None
        self.grid, self.crossing = c.encoder.grid if c.region_sampler else None, crossing is not None
        self.decoder = c.decoder.build(**cross, rngs=rngs)

    def media(self, batch: Batch, seen: tuple[Array, ...] | None = None) -> Float[Array, 'B S D'] | None:
        """Returns the row's media tokens, states and regions, in the order of Batch.slot; None where there are none.

        What `seen` gave of the batch need not be computed again.
        """
        parts = []
        if self.encoder is not None and batch.shown is not None:
            seen = self.seen(batch) if seen is None else seen
            parts.append(self._pictures(batch, seen))
        if self.state is not None and batch.states is not None:
            parts.append(self.state(batch.states))
        if self.region_sampler is not None and batch.points is not None:
            parts.append(self._regions(batch, seen[0]))
        if batch.senses is not None:
            parts += [self.senses[kind](batch.senses[kind], self.encoder) for kind in self.kinds]
        return jnp.concatenate(parts, axis=1) if parts else None

    def _regions(self, batch: Batch, features: Float[Array, 'N P E']) -> Float[Array, 'B R D']:
        """Returns a token for each region, from the first frame of its medium, zero where there is no region."""
        b, r = batch.points_of.shape
        first = features[:, self.extra_features :][:, : self.grid[0] * self.grid[1]]
        first = reshape_rows(first, (b, first.shape[0] // b, *first.shape[1:]))
        own = jax.vmap(lambda x, index: x[index])(first, jnp.maximum(batch.points_of, 0))
        flat = lambda x: reshape_rows(x, (b * r, *x.shape[2:]))
        tokens = self.region_sampler(flat(own), self.grid, flat(batch.points))
        return jnp.where((batch.points_of >= 0)[..., None], reshape_rows(tokens, (b, r, tokens.shape[1])), 0)

    def seen(self, batch: Batch) -> tuple[Array, ...]:
        """Returns what the connector reads of all B * M media: features [N, T*n, E], their count [N], words [N, W]."""
        size = batch.media_size
        with jax.named_scope('encoder'):
            features = self.encoder(batch.shown, size)
        b, m, t, n = features.shape[:4]
        x = reshape_rows(features, (b * m, t * n, features.shape[4]))
        count = reshape_rows(-(-size[..., 0] // self.temporal) * self._per_frame(size), (b * m,))
        words = None if batch.words is None else reshape_rows(batch.words, (b * m, batch.words.shape[2]))
        return (x, count, words) if self.words else (x, count)

    def _per_frame(self, size: Int[Array, 'B M 3']) -> Int[Array, 'B M']:
        return size[..., 1] * size[..., 2] + self.extra_features

    def _pictures(self, batch: Batch, seen: tuple[Array, ...]) -> Float[Array, 'B MP D']:
        size = batch.media_size
        b, m = size.shape[:2]
        x, t = seen[0], 1 if batch.pixels is None else -(-batch.pixels.shape[2] // self.temporal)
        if self.connector is not None:
            with jax.named_scope('connector'):
                x = self.connector(*seen)
            if self.varying and t > 1:
                x = together(x, reshape_rows(self._per_frame(size) // self.squares**2, (b * m,)), t)
        if self.newline is not None:
            end = broadcast_rows(self.newline[...][None].astype(x.dtype), b * m)
            x = jnp.concatenate([x, end], axis=1)
        x = reshape_rows(x, (b, m, *x.shape[1:]))
        # A medium that is not there gives zeros, whatever biases and latents made of its blank pixels.
        x = jnp.where((size[..., 0] > 0)[..., None, None], x, 0)
        return reshape_rows(x, (b, m * x.shape[2], x.shape[3]))

    def __call__(self, batch: Batch, seen: tuple[Array, ...] | None = None) -> Float[Array, 'B L D']:
        """Returns the hidden states after the last norm; what `seen` gave need not be computed again."""
        x, beside = self._fused(batch, seen)
        with jax.named_scope('decoder'):
            return self.decoder(x, batch.span, batch.position, expert=batch.expert, **beside)

    def logits(self, hidden: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
        """Returns float32 scores of the next token; those of the vocabulary's padding are -inf."""
        return self.decoder.logits(hidden)

    def unembedding(self) -> Unembedding:
        """Returns what `logits` computes with."""
        return self.decoder.unembedding()

    def init_cache(self, rows: int, length: int, dtype: DTypeLike) -> Cache:
        """Returns an empty cache for `rows` rows of at most `length` tokens."""
        return self.decoder.init_cache(rows, length, dtype)

    def prefill(self, batch: Batch, cache: Cache) -> tuple[Float[Array, 'B L D'], Cache]:
        """Reads prompts: returns what __call__ does, and the cache with places 0..L-1 of every row written."""
        x, beside = self._fused(batch)
        return self.decoder.prefill(x, batch.span, batch.position, cache, expert=batch.expert, **beside)

    def step(
        self,
        tokens: Int[Array, 'B L'],
        span: Int[Array, 'B L 2'],
        position: Int[Array, 'B L *axes'],
        write: Int[Array, 'B'],
        media_span: Int[Array, 'B L 2'] | None,
        cache: Cache,
    ) -> tuple[Float[Array, 'B L D'], Cache]:
        """Goes on by L tokens of text (usually one), written from place write[b] on; spans speak of cache places."""
        if self.crossing and media_span is None:
            media_span = jnp.zeros_like(span)
        x = self.decoder.embed_tokens(tokens)
        return self.decoder.step(x, span, position, write, cache, media_span=media_span)

    def _fused(self, batch: Batch, seen: tuple[Array, ...] | None = None) -> tuple[Array, dict[str, Array]]:
        """Returns what enters the decoder: embedded tokens; and what its layers get besides.

        That is media with their spans where the text looks at them, and what is added to tokens within the layers.
        """
        text, media = self.decoder.embed_tokens(batch.tokens), self.media(batch, seen)
        if not self.crossing:
            # Of a Seq2seq, the decoder's tokens look at places of the row.
            beside = {} if batch.media_span is None else dict(media_span=batch.media_span)
            if getattr(self.decoder, 'kinds', None) is not None and batch.slot is not None:
                beside['kind'] = of_media(batch.slot, self.signs).astype(jnp.int32)
            if media is None:
                return text, beside
            own, *deep = jnp.split(media, 1 + self.deep, axis=-1)
            more = [splice(jnp.zeros_like(text), part, batch.slot) for part in deep]
            return splice(text, own, batch.slot), beside | (dict(deep=jnp.stack(more)) if more else {})
        span = batch.media_span
        if media is None or span is None:
            # Nothing to see, but the blocks' feed-forward halves still work: one blank token that no span reaches.
            media = jnp.zeros_like(text[:, :1], shape=(text.shape[0], 1, self.media_width))
            span = jnp.zeros_like(batch.span)
        return text, dict(media=media, media_span=span)


def _vision(c: Vlm.Config, width: int | None, rngs: nnx.Rngs) -> tuple[nnx.Module | None, nnx.Module | None]:
    """Builds the encoder and the connector that gives tokens of `width` (None: of whatever width the features have)."""
    if c.encoder is None:
        return None, None
    varying = isinstance(c.encoder, Patches.Config)
    encoder = c.encoder.build(width=c.decoder.width, rngs=rngs) if varying else c.encoder.build(rngs=rngs)
    if c.connector is None:
        return encoder, None
    features = c.encoder.grid if c.squares == 1 else None
    return encoder, c.connector.build(encoder.width, width, frames=c.frames, features=features, rngs=rngs)


def _sampler(c: Vlm.Config, encoder: nnx.Module | None, rngs: nnx.Rngs) -> RegionSampler:
    """Builds what reads regions of the encoder's features."""
    return c.region_sampler.build(encoder.width, c.decoder.width, rngs=rngs)
