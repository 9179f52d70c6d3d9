# SPDX-License-Identifier: Apache-2.0
"""Writes a document as tokens: formats, turns, words, regions and places of media become units in order.

A unit is a run of words, which may be cut between any two tokens, or a whole: a picture with its signs, a region with
its coordinates, a state. Words are tokenised run by run. A run is the words of one piece with the format's strings of
equal weight around them, so that the tokens of a prompt do not depend on the answer behind it.
"""

import dataclasses
import math

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.data import features, images
from mmjax.data.coordinates import Codec
from mmjax.data.images import Fit
from mmjax.data.laid import REGION, SENSE, STATE
from mmjax.data.points import inside
from mmjax.data.templates import ImageFormat, TextFormat
from mmjax.data.tiles import Tiles
from mmjax.data.tokenizer import SPECIAL, Tokenizer
from mmjax.document import (
    BadDocument,
    Document,
    Features,
    Generate,
    Image,
    Medium,
    Piece,
    Region,
    State,
    Text,
    Video,
    kind_of,
)


@dataclasses.dataclass
class Unit:
    """Tokens with the weight of predicting each; slot is p for media token p, STATE for a state, else -1."""

    tokens: np.ndarray
    weight: np.ndarray
    slot: np.ndarray
    whole: bool = False
    body: tuple[int, int] = (0, 0)  # where a medium's places are
    medium: Medium | None = None
    kind: str = ''  # of the medium, where the model has a sense of its own for it
    size: tuple[int, int, int] = (0, 0, 0)
    count: int = 0
    grid: tuple[int, int] = (0, 0)  # rows and columns of one frame's places
    starts: bool = False  # the output of an encoder-decoder begins here
    state: np.ndarray | None = None
    number: int = -1  # of a medium among the document's
    region: tuple[np.ndarray, int] | None = None  # points of it, and the number of its medium

    @staticmethod
    def of(ids: list[int] | np.ndarray, weight: float, **fields) -> 'Unit':
        """Returns a unit whose tokens all weigh the same and are no media."""
        tokens = np.asarray(ids, np.int32)
        return Unit(tokens, np.full(len(tokens), weight, np.float32), np.full(len(tokens), -1, np.int32), **fields)

    def cut(self, start: int, end: int) -> 'Unit':
        """Returns some of the tokens of a run of words."""
        return Unit(self.tokens[start:end], self.weight[start:end], self.slot[start:end])


class Page:
    """Units in the making. Words of equal weight join while at least one side is the format's own."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.units = tokenizer, []
        self._first, self._text, self._weight, self._glue = True, '', 0.0, False

    def words(self, text: str, weight: float, glue: bool = False) -> None:
        """Writes words, never special tokens; `glue`: they are the format's, not a piece's."""
        if not text:
            return
        if self._text and (weight != self._weight or not (glue or self._glue)):
            self.flush()
        self._text, self._weight, self._glue = self._text + text, weight, glue

    def format(self, text: str, weight: float) -> None:
        """Writes a format string, in which names of special tokens are their ids."""
        place = 0
        for name in SPECIAL.finditer(text):
            self.words(text[place : name.start()], weight, glue=True)
            self.add(Unit.of([self.tokenizer.id(name[0])], weight))
            place = name.end()
        self.words(text[place:], weight, glue=True)

    def add(self, unit: Unit) -> None:
        """Writes a unit behind all words so far."""
        self.flush()
        self.units.append(unit)
        # Words behind <s> still begin the text; behind a picture only in tokenizers that say so.
        self._first = self.tokenizer.prefix_every or (self._first and unit.medium is None)

    def flush(self) -> None:
        """Tokenises the words that wait."""
        if self._text:
            ids = self.tokenizer.encode(self._text, special=False, first=self._first)
            self.units.append(Unit.of(ids, self._weight))
            self._text, self._first = '', False

    def begin(self) -> None:
        """Makes what follows a text of its own, whatever stands before it."""
        self.flush()
        self._first = True

    def whole_since(self, count: int) -> None:
        """Joins all units from number `count` on into one that is never cut."""
        self.flush()
        parts = self.units[count:]
        if parts:
            join = lambda name: np.concatenate([getattr(unit, name) for unit in parts])
            read = next((unit.region for unit in parts if unit.region), None)
            self.units[count:] = [Unit(join('tokens'), join('weight'), join('slot'), whole=True, region=read)]


@dataclasses.dataclass
class Writer:
    """Knows the formats, the model's media and the tokenizer; writes documents."""

    tokenizer: Tokenizer
    image: ImageFormat
    text: TextFormat
    coordinates: Codec | None
    spec: MediaSpec
    fit: Fit | None
    state: str
    tiles: Tiles | None = None
    region: str = ''  # the special token of a region that is read, behind its coordinates
    kind: str = ''  # of the media that it writes
    senses: dict[str, 'Writer'] = dataclasses.field(default_factory=dict)  # of media of further kinds, in order

    def write(self, document: Document, closed: bool = True, ask: bool = False) -> list[Unit]:
        """Returns the units of a document; raises BadDocument.

        `closed`: the last turn, the chunk and the document end. `ask`: the assistant's turn begins and is left open.
        """
        page, roles = Page(self.tokenizer), self._roles(document)
        if not self.spec.text:
            pictures = [piece for piece in document.pieces if isinstance(piece, Medium)]
            return self._without_words(page, document, pictures)
        page.format(self.text.start, 0.0)
        if roles and roles[0] != 'system':
            page.format(self.text.system, 0.0)
        turn, role, learnt, pictures = None, None, 0.0, 0
        sizes, answer = _Sizes(document, self.fit), self._answer(document, roles, ask)
        for i, piece in enumerate(document.pieces):
            spoken, lead = isinstance(piece, Text | Region), ''
            if roles and roles[i] != role:
                if turn:
                    page.format(turn.after, learnt)
                role, turn = roles[i], self.text.turn(roles[i])
                page.format(turn.before, 0.0)
                lead = turn.lead if spoken else ''
            if i == answer:
                self._seam(page)
            # What an encoder reads is not learnt.
            weight = piece.weight * (turn.weight if turn else 1.0) * (i >= answer)
            page.format(lead, weight)
            if isinstance(piece, Medium):
                if pictures:
                    page.format(self.text.chunk_end, learnt)
                pictures, learnt = pictures + 1, 0.0
            self._piece(page, document, piece, weight, pictures, sizes)
            learnt = weight if spoken else learnt
        if closed or ask:
            page.format(turn.after if turn else '', learnt)
        if ask:
            # Roles that go beyond the pieces name who speaks next.
            following = roles[len(document.pieces) :] or ['assistant'] if roles else []
            page.format(self.text.turn(following[0]).before if following and following[0] != role else '', 0.0)
            if self.spec.encodes:
                self._seam(page)
        elif closed:
            chunk = self.text.chunk_end if pictures else ''
            page.format(chunk, learnt)
            # A chat's last turn may have written the end already.
            if chunk or not (turn and turn.after.endswith(self.text.end)):
                page.format(self.text.end, learnt)
        page.flush()
        return page.units

    def _answer(self, document: Document, roles: list[str], ask: bool) -> int:
        """Returns the piece with which an encoder-decoder's output begins: the last run of learnt words.

        -1 without an encoder: all are learnt as their weights say.
        """
        pieces, last = document.pieces, len(document.pieces)
        if not self.spec.encodes or ask:
            return last if self.spec.encodes else -1
        turns = [self.text.turn(role).weight for role in roles] or [1.0] * last
        learnt = [isinstance(p, Text | Region) and p.weight * w > 0 for p, w in zip(pieces, turns, strict=False)]
        end = max((i + 1 for i in range(last) if learnt[i]), default=last)
        if any(isinstance(piece, Medium | State) for piece in pieces[end:]):
            raise BadDocument(document.key, 'a picture behind the answer', 'only an input, all before it, may hold one')
        return next((i + 1 for i in reversed(range(end)) if not learnt[i]), 0) if any(learnt) else last

    def _seam(self, page: Page) -> None:
        """Writes what stands between the input and the output of an encoder-decoder."""
        page.format(self.text.input_end, 0.0)
        page.flush()
        begin = len(page.units)
        page.format(self.text.output_start, 0.0)
        page.whole_since(begin)
        page.units[-1].starts = True
        page.begin()

    def _without_words(self, page: Page, document: Document, pictures: list[Medium]) -> list[Unit]:
        sizes = _Sizes(document, self.fit)
        for number, piece in enumerate(pictures, start=1):
            self._piece(page, document, piece, 0.0, number, sizes)
        return page.units

    def _roles(self, document: Document) -> list[str]:
        roles = list(document.meta.get('roles') or [])
        if roles and len(roles) < len(document.pieces):
            raise BadDocument(document.key, 'roles missing', f'{len(roles)} roles for {len(document.pieces)} pieces')
        for role in roles:
            if self.text.turn(role) is None:
                raise BadDocument(document.key, 'unknown role', f'{role!r}, known are {", ".join(self.text.turns)}')
        return roles

    def _piece(self, page: Page, document: Document, piece: Piece, weight: float, number: int, sizes: '_Sizes') -> None:
        match piece:
            case Features() | Video() if kind_of(piece) in self.senses:
                self._sensed(page, document, piece, weight, number)
            case Text():
                page.words(piece.text, weight)
            case Region():
                self._region(page, piece, weight, sizes)
            case Image() | Features():
                self._medium(page, document, piece, weight, number)
            case Video() if self.spec.frames > 1 and not self.tiles:
                self._medium(page, document, piece, weight, number)
            case Video():
                for frame in piece.frames:
                    self._medium(page, document, frame, weight, number)
            case State():
                self._state(page, document, piece)
            case Generate():
                raise BadDocument(document.key, 'a picture to draw', 'this layout writes text only')

    def _region(self, page: Page, region: Region, weight: float, sizes: '_Sizes') -> None:
        """Writes words and coordinates; boxes of which nothing shows in the fitted picture are left out."""
        boxes = [box for box in (sizes.fitted(region, box) for box in region.boxes) if box is not None]
        if self.coordinates is None or not boxes:
            page.words(region.text, weight)
            return
        page.flush()
        begin = len(page.units)
        shape = self.coordinates.region if region.text else '{boxes}'
        before, words, after = shape.partition('{words}')
        text = self.coordinates.encode(boxes, (self.spec.width, self.spec.height))
        page.format(before.replace('{boxes}', text), weight)
        page.words(region.text if words else '', weight)
        page.format(after.replace('{boxes}', text), weight)
        if self.region and not weight:
            points = inside(boxes, self.spec.points, (self.spec.width, self.spec.height), text)
            page.format(' ', weight)
            unit = Unit.of([self.tokenizer.id(self.region)], 0.0, whole=True, region=(points, sizes.number(region)))
            unit.slot[:] = REGION
            page.add(unit)
        page.whole_since(begin)

    def _medium(self, page: Page, document: Document, medium: Medium, weight: float, number: int) -> None:
        """Writes the places of a picture: before, rows of placeholders each closed by row_end, after."""
        spec, f = self.spec, self.image
        if not spec.tokens:
            raise BadDocument(document.key, 'picture', 'the model reads none')
        vectors = isinstance(medium, Features)
        if vectors != bool(spec.features) or (vectors and medium.kind != self.kind):
            has, reads = 'features' if vectors else 'a picture', 'features' if spec.features else 'pictures'
            kinds = ', '.join(self.senses)
            has += f' of the kind {medium.kind!r}' if kind_of(medium) and vectors else ''
            raise BadDocument(document.key, has, f'the model reads {reads}' + f' and {kinds}' * bool(kinds))
        first = medium.frames[0] if isinstance(medium, Video) else medium
        tiled = self.tiles and isinstance(medium, Image)
        frames, patches = self._size(document, medium)
        rows, columns = spec.grid(frames, *patches)
        if rows * columns > spec.tokens:
            raise ValueError(
                f'document {document.key!r}: a picture of {frames} x {patches} patches gives {rows} x {columns} '
                f'tokens, the model says at most {spec.tokens}; its MediaSpec contradicts itself'
            )
        ids = lambda text: [] if spec.apart else self.tokenizer.encode(text, first=False)
        before, after = ids(f.before.replace('{n}', str(number))), ids(f.after)
        places, slot = 0 if spec.apart else self.tokenizer.id(f.placeholder), np.zeros(1, np.int32)
        body = np.full(1, places, np.int32)
        if tiled:
            slot = self.tiles.slots(images.size(first), spec.width, columns, spec.tokens - 1)
            body = np.full(len(slot), places, np.int32)
        elif spec.in_sequence:
            row_end = np.asarray(ids(f.row_end), np.int32)
            slot = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
            slot = np.concatenate([slot, np.full((rows, len(row_end)), -1, np.int32)], axis=1).ravel()
            body = np.where(slot >= 0, places, np.tile(np.concatenate([np.full(columns, places), row_end]), rows))
        elif spec.apart:
            slot = body = np.zeros(0, np.int32)
        unit = Unit.of(np.concatenate([before, body, after]), 0.0, whole=True, medium=medium)
        # That a picture comes may be learnt, from its first sign; what its places hold cannot be.
        unit.weight[: max(len(before), 1)] = weight
        unit.body = (len(before), len(before) + len(body))
        unit.size, unit.count, unit.number = (frames, *patches), rows * columns, number - 1
        unit.grid = (rows // -(-frames // spec.temporal), columns)
        if spec.in_sequence:
            unit.slot[slice(*unit.body)] = slot
        page.add(unit)

    def _sensed(self, page: Page, document: Document, medium: Medium, weight: float, number: int) -> None:
        """Writes a medium as its own format says; its places are those of its kind."""
        kind = kind_of(medium)
        self.senses[kind]._medium(page, document, medium, weight, number)
        unit = page.units[-1]
        unit.kind = kind
        unit.slot = np.where(unit.slot >= 0, unit.slot + SENSE * (1 + [*self.senses].index(kind)), -1)

    def _size(self, document: Document, medium: Medium) -> tuple[int, tuple[int, int]]:
        """Returns a medium's frames, and the rows and columns of each one's patches."""
        spec = self.spec
        if isinstance(medium, Features):
            width, count = features.size(medium)
            if width != spec.features:
                detail = f'{width} numbers a vector, the model reads {spec.features}'
                raise BadDocument(document.key, 'features of another width', detail)
            return 1, (1, min(count, spec.width))
        frames = min(len(medium.frames), spec.frames) if isinstance(medium, Video) else 1
        first = medium.frames[0] if isinstance(medium, Video) else medium
        if self.tiles and isinstance(medium, Image):
            frames = 1 + math.prod(self.tiles.choose(images.size(first), spec.width))
        size = images.size(first) if spec.varying else (spec.width, spec.height)
        return frames, tuple(count * spec.multiple for count in self.fit.grid(size))

    def _state(self, page: Page, document: Document, piece: State) -> None:
        if len(piece.vector) != self.spec.state_width:
            detail = f'{len(piece.vector)} numbers, the model reads {self.spec.state_width}'
            raise BadDocument(document.key, 'state of another width', detail)
        unit = Unit.of([self.tokenizer.id(self.state)], 0.0, whole=True, state=np.asarray(piece.vector, np.float32))
        unit.slot[:] = STATE
        page.add(unit)


class _Sizes:
    """Brings the boxes of a document to its fitted pictures, whose sizes it reads once and only if they matter."""

    def __init__(self, document: Document, fit: Fit | None):
        self.pictures = [p for p in document.pieces if isinstance(p, Image | Video)]
        self.key, self.fit, self.before = document.key, fit, {}
        count = 0
        for piece in document.pieces:
            count += isinstance(piece, Image | Video)
            self.before[id(piece)] = count

    def fitted(self, region: Region, box: tuple) -> tuple | None:
        """Returns a region's box as fractions of the fitted picture, None when nothing of it shows."""
        if self.fit is None or not self.pictures or self.fit.config.mode == 'squash':
            return tuple(map(float, box))
        picture = self.pictures[self.number(region)]
        return self.fit.boxes_in(box, images.size(picture.frames[0] if isinstance(picture, Video) else picture))

    def number(self, region: Region) -> int:
        """Returns the number of a region's picture; raises BadDocument for one that is not there."""
        number = region.image if region.image >= 0 else max(self.before[id(region)] - 1, 0)
        if number >= len(self.pictures):
            detail = f'picture {number} of {len(self.pictures)}'
            raise BadDocument(self.key, 'region of a picture that is not there', detail)
        return number
