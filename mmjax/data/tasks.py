# SPDX-License-Identifier: Apache-2.0
"""Tasks: what is asked of a document, a function Document -> Document that a part of a mixture may have (`Part.task`).

    [picture] 'two cats'                       -> Caption  -> [picture] 'Describe the picture.' 'two cats'
    [picture] 'How many cats?' '2'             -> Ask      -> [picture] 'Question: How many cats? Answer:' '2'
    [picture] 'two cats on a mat'              -> Prefix   -> [picture] 'two cats' 'on a mat'
    [picture] 'a' (cat: boxes) 'and' (dog: box)-> Locate   -> [picture] 'Where is the dog?' (box)
                                               -> Name     -> [picture] 'What is in' (box) '?' 'dog'

Where there are several questions to choose from, the document's key chooses, so that a document always gets the same.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

from mmjax.document import BadDocument, Document, Image, Piece, Region, Text, Video


def pick(document: Document, options: Sequence[Any]) -> Any:
    """Returns the option that the document's key chooses."""
    return options[zlib.crc32(document.key.encode()) % len(options)]


class Task:
    """The base of all tasks: a task is its own config."""

    def build(self) -> 'Task':
        """Returns the function."""
        return self

    def __call__(self, document: Document) -> Document:
        """Returns the document that asks; raises BadDocument for one of which this cannot be asked."""
        raise NotImplementedError


@dataclasses.dataclass(kw_only=True)
class Chat(Task):
    """Gives each piece a role: what is learnt the assistant says, or another `speaker`, and all else the user."""

    speaker: str = 'assistant'

    def __call__(self, document: Document) -> Document:
        """Returns the document with roles."""
        roles = [self.speaker if piece.weight > 0 else 'user' for piece in document.pieces]
        return dataclasses.replace(document, meta={**document.meta, 'roles': roles})


@dataclasses.dataclass(kw_only=True)
class SilentUntilPicture(Task):
    """Takes the weights of all pieces before the first picture, as Flamingo's trainers do on web pages."""

    def __call__(self, document: Document) -> Document:
        """Returns the document with fewer weights."""
        first = next((i for i, piece in enumerate(document.pieces) if isinstance(piece, Image | Video)), 0)
        pieces = [dataclasses.replace(p, weight=0.0) if i < first else p for i, p in enumerate(document.pieces)]
        return dataclasses.replace(document, pieces=pieces)


@dataclasses.dataclass(kw_only=True)
class Caption(Task):
    """Asks for the words of a picture: the question stands behind the document's first run of pictures."""

    questions: tuple[str, ...] = (
        'What does the picture show?',
        'Say in a sentence what you see.',
        'Describe this picture.',
    )
    chat: bool = False

    def __call__(self, document: Document) -> Document:
        """Returns the document with a question."""
        words = (i for i, piece in enumerate(document.pieces) if not isinstance(piece, Image | Video))
        place = next(words, len(document.pieces))
        question = Text(pick(document, self.questions), weight=0.0)
        pieces = [*document.pieces[:place], question, *document.pieces[place:]]
        return _asked(document, pieces, self.chat)


@dataclasses.dataclass(kw_only=True)
class Prefix(Task):
    """Parts the last learnt words at one of their spaces, which the key chooses: what stands before is only read.

    So an encoder-decoder learns from captions that ask nothing (BLIP-2 before T5). The prefix may be empty, the rest
    never is.
    """

    def __call__(self, document: Document) -> Document:
        """Returns the document with two pieces in the place of its last learnt text."""
        place = max((i for i, p in enumerate(document.pieces) if isinstance(p, Text) and p.weight > 0), default=None)
        if place is None:
            raise BadDocument(document.key, 'no learnt words to part')
        piece = document.pieces[place]
        words = piece.text.split(' ')
        cut = pick(document, range(len(words)))
        prefix = [Text(' '.join(words[:cut]), weight=0.0)] if cut else []
        rest = dataclasses.replace(piece, text=' '.join(words[cut:]))
        return dataclasses.replace(
            document, pieces=[*document.pieces[:place], *prefix, rest, *document.pieces[place + 1 :]]
        )


@dataclasses.dataclass(kw_only=True)
class Ask(Task):
    """Rewrites what is read but not learnt: `{}` in the question is the text as it stands."""

    questions: tuple[str, ...] = ('Question: {} Answer:',)
    chat: bool = False

    def __call__(self, document: Document) -> Document:
        """Returns the document with its questions rewritten."""
        asked = pick(document, self.questions)
        write = lambda p: Text(asked.replace('{}', p.text), p.weight) if isinstance(p, Text) and p.weight <= 0 else p
        return _asked(document, [write(piece) for piece in document.pieces], self.chat)


@dataclasses.dataclass(kw_only=True)
class Locate(Task):
    """Asks where one of the document's regions is; `{}` in the question is its words."""

    questions: tuple[str, ...] = ('Where is {}?', 'Find {} in the picture.', 'Give the box of {}.')
    chat: bool = False
    named: bool = False  # the answer holds the words too

    def __call__(self, document: Document) -> Document:
        """Returns the pictures, the question, and the region's boxes; raises BadDocument without a region of words."""
        region = _region(document, lambda r: bool(r.text.strip()))
        question = Text(pick(document, self.questions).replace('{}', region.text.strip()), weight=0.0)
        answer = region if self.named else dataclasses.replace(region, text='')
        return _asked(document, [*_pictures(document), question, answer], self.chat)


@dataclasses.dataclass(kw_only=True)
class Name(Task):
    """Asks what stands in one of the document's regions; `{}` in the question is its boxes."""

    questions: tuple[str, ...] = ('What is in {}?', 'Say what {} shows.', 'Name what you see in {}.')
    chat: bool = False

    def __call__(self, document: Document) -> Document:
        """Returns the pictures, the question with boxes, and the words; raises BadDocument without such a region."""
        region = _region(document, lambda r: bool(r.text.strip()))
        before, _, after = pick(document, self.questions).partition('{}')
        question = [Text(before, weight=0.0), dataclasses.replace(region, text='', weight=0.0), Text(after, weight=0.0)]
        answer = Text(region.text, region.weight)
        return _asked(document, [*_pictures(document), *question, answer], self.chat)


def _asked(document: Document, pieces: list[Piece], chat: bool) -> Document:
    meta = {key: value for key, value in document.meta.items() if key != 'roles'}
    asked = dataclasses.replace(document, pieces=pieces, meta=meta)
    return Chat()(asked) if chat else asked


def _pictures(document: Document) -> list[Piece]:
    return [piece for piece in document.pieces if isinstance(piece, Image | Video)]


def _region(document: Document, fits: Any) -> Region:
    """Returns a region of the document, its picture named by number."""
    found, pictures = [], -1
    for piece in document.pieces:
        pictures += isinstance(piece, Image | Video)
        if isinstance(piece, Region) and fits(piece):
            found.append(dataclasses.replace(piece, image=piece.image if piece.image >= 0 else max(pictures, 0)))
    if not found:
        raise BadDocument(document.key, 'no region to ask for')
    return pick(document, found)
