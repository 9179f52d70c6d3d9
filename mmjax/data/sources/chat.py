# SPDX-License-Identifier: Apache-2.0
"""Records of conversations about pictures, as LLaVA keeps them."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from mmjax.data.sources.records import Record
from mmjax.document import Document, Image, Piece, Text

ROLES = {'human': 'user', 'user': 'user', 'gpt': 'assistant', 'assistant': 'assistant', 'system': 'system'}


@dataclasses.dataclass(kw_only=True)
class Chat:
    """Turns of human and gpt, `<image>` where a picture stands; what the assistant says is learnt, the rest is read.

    meta['roles'] holds a role for each piece: 'user', 'assistant' or 'system'; a change of role is a new turn. The
    text is as written, markers taken out. `images_first` puts a turn's pictures on a line of their own before its
    words, as LLaVA's own trainer does.
    """

    turns: str = 'conversations'
    image: str = 'image'
    marker: str = '<image>'
    images_first: bool = False

    def document(self, record: Record, quality: str) -> Document:
        """Returns the document of a record; raises BadDocument."""
        names = record.get(self.image)
        names = [] if names is None else names if isinstance(names, list) else [names]
        turns = merged([_turn(record, told) for told in self._told(record)])
        markers = sum(text.count(self.marker) for _, text in turns)
        if names and not markers:
            record.drop('image without a marker, put first', '')
            place = next((i for i, (role, _) in enumerate(turns) if role == 'user'), 0)
            role, text = turns[place]
            turns[place] = (role, f'{self.marker}\n' * len(names) + text)
        elif markers != len(names):
            raise record.bad('markers and images differ in number', f'{markers} {self.marker}, {len(names)} images')
        pictures = iter([record.need_image(name) for name in names])
        pieces: list[Piece] = []
        roles: list[str] = []
        for role, text in turns:
            said = self._pieces(role, text, pictures)
            pieces += said
            roles += [role] * len(said)
        if not any(piece.weight for piece in pieces):
            raise record.bad('nothing to learn', 'the assistant says nothing')
        return record.document(pieces, quality, format='chat', roles=roles)

    def _told(self, record: Record) -> list[Any]:
        told = record.get(self.turns)
        if not isinstance(told, list) or not told:
            raise record.bad('no conversation', f'field {self.turns!r} holds {type(told).__name__}, expected turns')
        return told

    def _pieces(self, role: str, text: str, pictures: Iterator[Image]) -> list[Piece]:
        """Cuts a turn at its markers."""
        weight = float(role == 'assistant')
        if self.images_first and self.marker in text:
            words = text.replace(self.marker, '').strip()
            text = (self.marker * text.count(self.marker) + '\n' + words).strip()
        said: list[Piece] = []
        for part in re.split(f'({re.escape(self.marker)})', text):
            if part == self.marker:
                said.append(next(pictures))
            elif part:
                said.append(Text(part, weight=weight))
        return said


def _turn(record: Record, told: Any) -> tuple[str, str]:
    """Returns (role, text) of one turn."""
    told = told if isinstance(told, dict) else {}
    role, text = told.get('from', told.get('role')), told.get('value', told.get('content'))
    if not isinstance(role, str) or role not in ROLES or not isinstance(text, str):
        raise record.bad('not a turn', f'{told!r}'[:200] + f'; expected from: {" | ".join(ROLES)}, value: text')
    return ROLES[role], text.strip()


def merged(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Joins neighbouring turns of one role, so that a change of role is a new turn; empty turns vanish."""
    result: list[tuple[str, str]] = []
    for role, text in turns:
        if not text:
            continue
        if result and result[-1][0] == role:
            result[-1] = (role, f'{result[-1][1]}\n{text}')
        else:
            result.append((role, text))
    return result
