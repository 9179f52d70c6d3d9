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

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.data import features, images, masks
from mmjax.data.answer_list import AnswerList
from mmjax.data.beside import Beside
from mmjax.data.coordinates import Cells, Numbers
from mmjax.data.images import Fit
from mmjax.data.laid import REGION, STATE, Laid, Shape
from mmjax.data.sources.problems import Problems
from mmjax.data.states import States
from mmjax.data.templates import ImageFormat, TextFormat
from mmjax.data.tiles import Tiles
from mmjax.data.tokenizer import SPECIAL, Bytes, HuggingFace, SentencePiece
from mmjax.data.writing import Unit, Writer
from mmjax.document import BadDocument, Document, Features, Image, Medium, Video

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
        image: ImageFormat = dataclasses.field(default_factory=ImageFormat)
        text: TextFormat = dataclasses.field(default_factory=TextFormat)
        tiles: Tiles | None = None  # pictures are an overview and tiles; None: one frame
        coordinates: Numbers | Cells | None = None  # None: regions are their words alone
        beside: Beside.Config | States.Config | None = None  # the words that a connector reads beside each picture
        answers: AnswerList.Config | None = None  # what the model chooses from; None: it writes
        state: str = '<state>'  # the special token where a state stands
        region: str = '<region_fea>'  # that of a region
        fit: str = 'squash'  # squash, pad, crop, inside, whole, budget
        fill: tuple[int, int, int] = (122, 116, 104)  # colour of what a picture does not cover
        sees: str = 'last'  # cross-attention: text looks at the last picture, at all so far, or at the next
        two_way_prompt: bool = False  # what stands before the first learnt token sees itself both ways
        overlong: str = 'split'  # split, truncate, cut, drop

        def special_tokens(self) -> tuple[str, ...]:
            """Returns the special tokens that this layout writes; the tokenizer must have them."""
            codec = self.coordinates.special_tokens() if self.coordinates else ()
            state = (self.state,) * bool(self.max_states) + (self.region,) * bool(self.max_regions)
            return tuple(dict.fromkeys(self.image.special_tokens() + self.text.special_tokens() + codec + state))

        def build(self, spec: MediaSpec) -> 'Layout':
            """Checks the numbers against the model's and returns the layout."""
            return Layout(self, spec)

    def __init__(self, c: Config, spec: MediaSpec):
        for name, value, known in (('sees', c.sees, masks.POLICIES), ('overlong', c.overlong, OVERLONG)):
            if value not in known:
                raise ValueError(f'layout.{name} is {value!r}, known are {", ".join(known)}')
        self.config, self.spec, self.tokenizer = c, spec, c.tokenizer.build()
        self.shape = Shape(c.max_tokens, c.max_media if spec.tokens else 0, c.max_states, c.max_regions)
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
        self.fit = None
        if spec.tokens and not spec.features:
            unit = spec.patch * spec.multiple
            size = dict(height=spec.height, width=spec.width, budget=spec.budget)
            self.fit = Fit.Config(**size, mode=c.fit, fill=c.fill, patch=unit).build()
        self._check()
        region = c.region if c.max_regions else ''
        self._writer = Writer(self.tokenizer, c.image, c.text, c.coordinates, spec, self.fit, c.state, c.tiles, region)

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
        if isinstance(piece, Features):
            return features.read(piece)[: self.spec.width]
        if self.config.tiles and isinstance(piece, Image):
            return self.config.tiles.read(piece, images.size(piece), self.fit)
        frames = (piece,) if isinstance(piece, Image) else piece.frames
        if len(frames) > self.spec.frames:
            frames = [frames[i] for i in np.linspace(0, len(frames) - 1, self.spec.frames).round().astype(int)]
        return np.stack([self.fit.read(frame) for frame in frames])

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
        for unit in units:
            slot = unit.slot
            if unit.medium is not None:
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

    def _check(self) -> None:
        """Refuses what cannot work with this model or this tokenizer."""
        c, spec = self.config, self.spec
        stands = spec.tokens and not spec.apart
        needed = [t for t in c.special_tokens() if stands or t not in c.image.special_tokens()]
        if missing := [t for t in needed if not self.tokenizer.knows(t)]:
            raise ValueError(f'layout writes special tokens that are not there: {self.tokenizer.missing(missing)}')
        if not spec.in_sequence and (c.image.two_way or c.image.one_position or c.image.row_end):
            raise ValueError(
                'layout.image sets two_way, one_position or row_end, but this model looks at pictures through '
                'cross-attention: they have no places in the sequence; leave them unset'
            )
        if not spec.in_sequence and spec.varying and c.sees == 'all':
            raise ValueError(
                "layout.sees='all' needs pictures of one size: those of this model vary, and an interval over several "
                "would hold their padding; use 'last' or 'next'"
            )
        self._check_encoder()
        if spec.marks and c.fit != 'squash':
            raise ValueError(
                f"layout.fit is {c.fit!r}: marks follow only pictures that are squashed, set it to 'squash'"
            )
        if c.max_states and not spec.state_width:
            raise ValueError(
                f'layout.max_states is {c.max_states}, but the model reads no states; set Vlm.Config.state'
            )
        _check_regions(c, spec)
        if c.max_states and not spec.in_sequence:
            raise ValueError(
                f'layout.max_states is {c.max_states}, but states stand among the text, where a model that looks at '
                'media through cross-attention puts none; use Splice'
            )
        if spec.answers and (c.max_media != 1 or not spec.apart):
            raise ValueError(f'layout.max_media is {c.max_media}: answers are chosen row by row, set it to 1')
        if not spec.tokens or not c.max_media:
            return
        if spec.axes > 1 and (c.image.row_end or c.image.one_position or c.tiles):
            raise ValueError(
                'layout.image.row_end, one_position and layout.tiles speak of positions in a line, but those of this '
                'model have three axes: leave them unset'
            )
        if c.tiles and (spec.frames < 1 + c.tiles.most or not spec.newline or c.fit != 'squash' or spec.varying):
            raise ValueError(
                f'layout.tiles makes up to {1 + c.tiles.most} frames of a picture and ends rows with a learned token: '
                f'set Vlm.Config.frames to that (now {spec.frames}) and newline to True (now {spec.newline}), '
                f"layout.fit to 'squash' (now {c.fit!r}), and use a tower of fixed size"
            )
        rows, columns = spec.grid(spec.frames, spec.height // spec.patch, spec.width // spec.patch)
        ends = len(self.tokenizer.encode(c.image.row_end)) * rows
        around = len(self.tokenizer.encode(c.image.before + c.image.after))
        most = min(rows * columns, spec.tokens)
        longest = 0 if spec.apart else (most + ends if spec.in_sequence else 1) + around
        if c.tiles:
            longest = c.tiles.longest(columns) + around
        if longest > c.max_tokens:
            raise ValueError(
                f'a picture takes up to {longest} tokens ({rows} x {columns}, {ends} at the ends of rows, {around} '
                f'around), a row holds {c.max_tokens}; raise layout.max_tokens or give the model a smaller connector'
            )

    def _check_encoder(self) -> None:
        c, spec = self.config, self.spec
        if spec.encodes != bool(c.text.output_start):
            raise ValueError(
                f'layout.text.output_start is {c.text.output_start!r}: it opens what a decoder writes, for a model '
                f'with an encoder beside it, and this one has {"one" if spec.encodes else "none"}; take the format of '
                f'the model, e.g. templates.{"t5" if spec.encodes else "plain"}()'
            )
        if spec.encodes and c.overlong not in ('cut', 'drop'):
            raise ValueError(
                f'layout.overlong is {c.overlong!r}, but an answer cannot be parted from what the encoder reads: set '
                "it to 'cut' or 'drop'"
            )
        if spec.encodes and (c.two_way_prompt or c.image.two_way or c.image.one_position):
            raise ValueError(
                'layout.two_way_prompt, image.two_way or image.one_position is set, but an encoder sees its whole '
                'input both ways, each token at a position of its own: leave them unset'
            )


def _check_regions(c: Layout.Config, spec: MediaSpec) -> None:
    if bool(c.max_regions) != bool(spec.points):
        raise ValueError(
            f'layout.max_regions is {c.max_regions}, and the model reads {spec.points} points of a region: set '
            'Vlm.Config.region_sampler and layout.max_regions, or neither'
        )


def _need(units: list[Unit]) -> Shape:
    """Returns how much of a row units take."""
    media = sum(unit.medium is not None for unit in units)
    states = sum(unit.state is not None for unit in units)
    regions = sum(unit.region is not None for unit in units)
    return Shape(sum(len(unit.tokens) for unit in units), media, states, regions)
