# SPDX-License-Identifier: Apache-2.0
"""Layout: documents become integers. Only here are special tokens, prompt formats, coordinates and masks known.

How many tokens a picture takes the model says (MediaSpec). A document that is longer than a row, or that has more media
than one holds, is

    split      cut between two tokens of words, never inside a picture or a region; the parts repeat nothing
    truncate   left without its last pieces
    cut        left without the last tokens of its words; what closes it is written all the same
    drop       left out

and whatever is left out is counted by reason. Documents of which nothing is learnt are left out too.

A model with an encoder reads all that stands before the last run of learnt words both ways, and its decoder writes
these; of such a document the answer's words are cut first, never all of them, and nothing else is split off.
"""

import dataclasses
import itertools
from collections import Counter

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.data import agree, features, images, masks
from mmjax.data.answer_list import AnswerList
from mmjax.data.beside import Beside
from mmjax.data.coordinates import Cells, Numbers
from mmjax.data.images import Fit
from mmjax.data.laid import REGION, STATE, Heard, Laid, Shape
from mmjax.data.sources.problems import Problems
from mmjax.data.states import States
from mmjax.data.templates import ImageFormat, TextFormat
from mmjax.data.tiles import Tiles
from mmjax.data.tokenizer import SPECIAL, Bytes, HuggingFace, SentencePiece
from mmjax.data.writing import Unit, Writer
from mmjax.document import BadDocument, Document, Features, Image, Medium, Video, kind_of

OVERLONG = ('split', 'truncate', 'cut', 'drop')


class Layout:
    """Lays out documents for one model. Any number of threads may use it."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """How documents become tokens and how much a row holds."""

        tokenizer: Bytes.Config | HuggingFace.Config | SentencePiece.Config = dataclasses.field(
            default_factory=Bytes.Config
        )
        max_tokens: int = 1024  # L, tokens a row
        max_media: int = 8  # M, pictures and videos a row
        max_states: int = 0  # S, state vectors a row
        max_regions: int = 0  # R, regions a row that are read as a token each, behind their coordinates
        max_senses: int = 0  # media a row of each kind that the model has a sense of its own for
        image: ImageFormat = dataclasses.field(default_factory=ImageFormat)
        text: TextFormat = dataclasses.field(default_factory=TextFormat)
        senses: dict[str, ImageFormat] = dataclasses.field(default_factory=dict)  # what stands around further kinds
        tiles: Tiles | None = None  # pictures are an overview and tiles; None: one frame
        coordinates: Numbers | Cells | None = None  # None: regions are their words alone
        beside: Beside.Config | States.Config | None = None  # the words that a connector reads beside each picture
        answers: AnswerList.Config | None = None  # what the model chooses from; None: it writes
        state: str = '<state>'  # the special token where a state stands
        region: str = '<region_fea>'  # that of a region
        fit: str = 'squash'  # squash, pad, crop, inside, whole, budget
        least: int = 0  # with 'whole': patches, or squares of them, of a picture; smaller ones are enlarged
        fill: tuple[int, int, int] = (122, 116, 104)  # colour of what a picture does not cover
        sees: str = 'last'  # cross-attention: text looks at the last picture, at all so far, or at the next
        two_way_prompt: bool = False  # what stands before the first learnt token sees itself both ways
        overlong: str = 'split'  # split, truncate, cut, drop

        def special_tokens(self) -> tuple[str, ...]:
            """Returns the special tokens that this layout writes; the tokenizer must have them."""
            codec = self.coordinates.special_tokens() if self.coordinates else ()
            state = (self.state,) * bool(self.max_states) + (self.region,) * bool(self.max_regions)
            senses = tuple(token for form in self.senses.values() for token in form.special_tokens())
            own = self.image.special_tokens() + self.text.special_tokens()
            return tuple(dict.fromkeys(own + codec + state + senses))

        def build(self, spec: MediaSpec) -> 'Layout':
            """Checks the numbers against the model's and returns the layout."""
            return Layout(self, spec)

    def __init__(self, c: Config, spec: MediaSpec):
        for name, value, known in (('sees', c.sees, masks.POLICIES), ('overlong', c.overlong, OVERLONG)):
            if value not in known:
                raise ValueError(f'layout.{name} is {value!r}, known are {", ".join(known)}')
        self.config, self.spec, self.tokenizer = c, spec, c.tokenizer.build()
        self.shape = Shape(c.max_tokens, c.max_media if spec.tokens else 0, c.max_states, c.max_regions, c.max_senses)
        self.pad = 0  # padding sees nothing and nobody sees it: any id will do
        self.problems = Problems()  # what was left out of documents that were kept
        if bool(spec.beside) != bool(c.beside):
            reads = (
                f'reads {spec.beside} words beside each picture' if spec.beside else 'reads no words beside pictures'
            )
            raise ValueError(f'the connector {reads}; layout.beside must be {"set" if spec.beside else "None"}')
        self.beside = c.beside.build(spec) if c.beside else None
        if bool(spec.answers) != bool(c.answers):
            does = f'chooses from {spec.answers} answers' if spec.answers else 'writes its answers'
            raise ValueError(f'the model {does}; layout.answers must be {"set" if spec.answers else "None"}')
        self.answers = c.answers.build(spec) if c.answers else None
        self.fit = self._fits_to(spec)
        agree.check(c, spec, self.tokenizer)
        region = c.region if c.max_regions else ''
        write = lambda image, spec, **more: Writer(
            self.tokenizer, image, c.text, c.coordinates, spec, self._fits_to(spec), c.state, **more
        )
        kinds = spec.senses if c.max_senses else {}
        senses = {
            kind: write(c.senses.get(kind, ImageFormat(placeholder=c.image.placeholder)), sense, kind=kind)
            for kind, sense in kinds.items()
        }
        self._writer = write(c.image, spec, tiles=c.tiles, region=region, senses=senses)

    def __call__(self, document: Document) -> list[Laid]:
        """Returns the laid-out document, in parts if it was split; raises BadDocument when nothing is left."""
        # Of answers that are chosen no word is read: they are labels.
        read = document.split()[0] if self.answers else document
        laid = [self._laid(read, part) for part in self._parts(read)]
        if self.answers:
            scores = self.answers(document)
            laid = [dataclasses.replace(part, answers=scores) for part in laid]
        # A model that reads pictures apart from words learns from every one of them, whatever the words weigh.
        kept = [part for part in laid if part.weight.any() or (part.media and self.spec.apart)]
        if not kept:
            raise BadDocument(document.key, 'nothing to learn', 'no token of it has a loss weight')
        if len(kept) < len(laid):
            self.problems.add('part with nothing to learn', document.key, len(laid) - len(kept))
        return kept

    def prompt(self, document: Document) -> Laid:
        """Returns a question and, behind it, the opening of the answer; raises BadDocument if it is too long."""
        if self.answers:
            return self._laid(document, self._parts(document)[0])
        units = self._writer.write(document, closed=False, ask=True)
        if not self._fits(units):
            raise self._too_long(document, units)
        return self._laid(document, units)

    def decode(self, piece: Medium) -> np.ndarray:
        """Returns the fitted frames, uint8 [frames, height, width, 3]; of a longer video evenly spaced ones.

        Of features the vectors, float32 [vectors, width], the first ones of too many.
        """
        reader = self._writer.senses.get(kind_of(piece), self._writer)
        spec, fit = reader.spec, reader.fit
        if isinstance(piece, Features):
            return features.read(piece)[: spec.width]
        if self.config.tiles and isinstance(piece, Image):
            return self.config.tiles.read(piece, images.size(piece), fit)
        frames = (piece,) if isinstance(piece, Image) else piece.frames
        if len(frames) > spec.frames:
            frames = [frames[i] for i in np.linspace(0, len(frames) - 1, spec.frames).round().astype(int)]
        return np.stack([fit.read(frame) for frame in frames])

    def _fits_to(self, spec: MediaSpec) -> Fit | None:
        """Returns what brings pictures to the size that a model, or one of its senses, reads."""
        if not spec.tokens or spec.features:
            return None
        unit = spec.patch * spec.multiple
        size = dict(height=spec.height, width=spec.width, budget=spec.budget // spec.multiple**2)
        c = self.config
        return Fit.Config(**size, mode=c.fit, fill=c.fill, patch=unit, least=c.least).build()

    def _fits(self, units: list[Unit]) -> bool:
        return all(n <= most for n, most in zip(_need(units), self.shape, strict=True))

    def _too_long(self, document: Document, units: list[Unit]) -> BadDocument:
        return BadDocument(document.key, 'too long', f'needs {_need(units)}, a row holds {self.shape}')

    def _parts(self, document: Document) -> list[list[Unit]]:
        """Returns the units of each part of a document that fits a row."""
        units = self._writer.write(document)
        if self._fits(units):
            return [units]
        if self.config.overlong == 'drop':
            raise self._too_long(document, units)
        if self.config.overlong == 'truncate':
            return [self._truncated(document)]
        if self.config.overlong == 'cut':
            return [self._cut(document, units)]
        self.problems.add('too long, split', document.key)
        return self._split(document, units)

    def _split(self, document: Document, units: list[Unit]) -> list[list[Unit]]:
        """Cuts units into parts that fit, each filled before the next begins."""
        parts: list[list[Unit]] = [[]]
        for unit in units:
            if unit.whole and not self._fits([unit]):
                self.problems.add('too long, a piece left out', document.key)
                continue
            done = 0
            while done < len(unit.tokens):
                room = self.shape.tokens - _need(parts[-1]).tokens
                part = unit if unit.whole else unit.cut(done, done + room)
                if room and self._fits([*parts[-1], part]):
                    parts[-1].append(part)
                    done += len(part.tokens)
                else:
                    parts.append([])
        return [part for part in parts if part]

    def _cut(self, document: Document, units: list[Unit]) -> list[Unit]:
        """Leaves out as few of the last tokens of words as possible, in front of a special token that ends the text."""
        closing = len(units) - 1 if SPECIAL.fullmatch(self.config.text.end) else len(units)
        over = _need(units).tokens - self.shape.tokens
        kept = [*units]
        for i in reversed(range(closing)):
            if not kept[i].whole and over > 0:
                size = len(kept[i].tokens)
                kept[i], over = kept[i].cut(0, max(size - over, 0)), over - size
        # An answer of which only the end is left would teach to say nothing.
        said = any(unit.weight.any() for unit in kept[:closing])
        if not self._fits(kept) or (not said and any(unit.weight.any() for unit in units[:closing])):
            raise self._too_long(document, units)
        self.problems.add('too long, words left out', document.key)
        return kept

    def _truncated(self, document: Document) -> list[Unit]:
        """Leaves out as few of the last pieces as possible; the end is not written, since the document goes on."""
        write = lambda count: self._writer.write(
            dataclasses.replace(document, pieces=document.pieces[:count]), closed=False
        )
        few, many = 0, len(document.pieces)  # `few` pieces fit, `many` do not
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if self._fits(write(middle)) else (few, middle)
        if not few:
            raise self._too_long(document, write(1))
        self.problems.add('too long, pieces left out', document.key, len(document.pieces) - few)
        return write(few)

    def _laid(self, document: Document, units: list[Unit]) -> Laid:
        join = lambda arrays, dtype: np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)
        own = join([unit.weight for unit in units], np.float32)
        slots, places, media, states, regions, start = [], [], [], [], [], 0
        senses: dict[str, list[Unit]] = {kind: [] for kind in self.spec.senses}
        for unit in units:
            slot = unit.slot
            if unit.kind:
                slot = np.where(slot >= 0, slot + len(senses[unit.kind]) * self.spec.senses[unit.kind].tokens, -1)
                senses[unit.kind].append(unit)
            elif unit.medium is not None:
                slot = np.where(slot >= 0, slot + len(media) * self.spec.tokens, -1)
                places.append((start + unit.body[0], start + unit.body[1]))
                media.append(unit)
            elif unit.state is not None:
                slot = np.full(1, STATE - len(states), np.int32)
                states.append(unit.state)
            elif unit.region is not None:
                slot = np.where(slot == REGION, REGION - len(regions), slot)
                regions.append(unit.region)
            slots.append(slot)
            start += len(unit.tokens)
        places = np.array(places, np.int32).reshape(-1, 2)
        weight = np.append(own[1:], np.float32(0))[:start]
        counts = np.array([unit.count for unit in media], np.int32)
        at = {unit.number: place for place, unit in reversed([*enumerate(media)])}
        if self.spec.encodes:
            before = itertools.takewhile(lambda unit: not unit.starts, units)
            span, looks, position = masks.input_output(start, sum(len(unit.tokens) for unit in before))
        else:
            span, looks = self._span(weight, places), self._media_span(start, places, counts)
            position = self._position(start, places, media)
        return Laid(
            key=document.key,
            tokens=join([unit.tokens for unit in units], np.int32),
            weight=weight,
            span=span,
            position=position,
            slot=join(slots, np.int32),
            media_span=looks,
            media=[unit.medium for unit in media],
            media_size=np.array([unit.size for unit in media], np.int32).reshape(-1, 3),
            states=states,
            points=[points for points, _ in regions],
            points_of=[at.get(number, -1) for _, number in regions],
            senses=[Heard(unit.kind, unit.medium, unit.size) for some in senses.values() for unit in some],
            **({'words': self.beside(document)} if self.beside else {}),
        )

    def _span(self, weight: np.ndarray, places: np.ndarray) -> np.ndarray:
        span = masks.causal(len(weight))
        if self.config.image.two_way:
            span = masks.two_way(span, places)
        if self.config.two_way_prompt:
            # weight[l] is that of token l + 1. Where nothing is learnt, a question alone, all of it is prompt.
            learnt = np.flatnonzero(weight)
            span = masks.two_way_prompt(span, int(learnt[0]) + 1 if len(learnt) else len(weight))
        return span

    def _position(self, length: int, places: np.ndarray, media: list[Unit]) -> np.ndarray:
        if self.spec.axes > 1:
            grids = np.array([unit.grid for unit in media], np.int32).reshape(-1, 2)
            return masks.grid_positions(length, places, grids, [self._times(unit) for unit in media])
        return masks.positions(length, places, self.spec.ends, shared=self.config.image.one_position)

    def _times(self, unit: Unit) -> np.ndarray:
        """Returns the positions in time of a medium's rows of frames, from 0."""
        spec, steps = self.spec, np.arange(-(-unit.size[0] // self.spec.temporal))
        if not spec.per_second or not isinstance(unit.medium, Video) or len(unit.medium.times) < 2:
            return steps
        seconds = (unit.medium.times[-1] - unit.medium.times[0]) / (unit.size[0] - 1)
        return np.floor(steps * seconds * spec.temporal * spec.per_second).astype(np.int32)

    def _media_span(self, length: int, places: np.ndarray, counts: np.ndarray) -> np.ndarray:
        looked_at = places[:0, 0] if self.spec.in_sequence else places[:, 0]
        return masks.media(length, looked_at, counts, self.spec.tokens, self.config.sees)


def _need(units: list[Unit]) -> Shape:
    """Returns how much of a row units take."""
    media = sum(unit.medium is not None and not unit.kind for unit in units)
    senses = max(Counter(unit.kind for unit in units if unit.kind).values(), default=0)
    states = sum(unit.state is not None for unit in units)
    regions = sum(unit.region is not None for unit in units)
    return Shape(sum(len(unit.tokens) for unit in units), media, states, regions, senses)
