# SPDX-License-Identifier: Apache-2.0
"""What a source holds: counts, lengths, pictures a document, what is dropped and why, and how full its rows get."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.data.pack import efficiency, pack
from mmjax.data.sources.source import Source
from mmjax.data.templates import Format, plain
from mmjax.data.tokenizer import Bytes
from mmjax.document import BadDocument, Document, Medium, Region, Text

QUANTILES = (5, 50, 95, 100)


def assumed_layout(max_tokens: int = 1024, max_media: int = 8, per_picture: int = 64, side: int = 64) -> Layout:
    """Returns a layout for looking at data without a model: bytes, and pictures of so many tokens among the text."""
    f: Format = plain()
    spec = MediaSpec(
        height=side, width=side, patch=side, tokens=per_picture, grid=lambda frames, rows, columns: (1, per_picture)
    )
    tokenizer = Bytes.Config(special=f.special_tokens())
    return Layout.Config(
        tokenizer=tokenizer, max_tokens=max_tokens, max_media=max_media, image=f.image, text=f.text
    ).build(spec)


@dataclasses.dataclass
class Inspection:
    """What was found. Lists hold one number a document."""

    name: str
    total: int  # documents of the source
    looked_at: int = 0
    pieces: Counter = dataclasses.field(default_factory=Counter)
    pictures: list[int] = dataclasses.field(default_factory=list)
    characters: list[int] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    learnt: int = 0  # tokens with a loss weight
    dropped: Counter = dataclasses.field(default_factory=Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    undecodable: int | None = None  # pictures; None: not tried
    rows: int = 0
    media: int = 0
    efficiency: float = 0.0
    shape: str = ''
    most_media: int = 0  # a row
    partly: list[str] = dataclasses.field(default_factory=list)

    def drop(self, error: BadDocument) -> None:
        """Counts a document that cannot be used."""
        self.dropped[error.reason] += 1
        self.examples.setdefault(error.reason, str(error))

    @property
    def full_of_media(self) -> bool:
        """Whether rows stay empty because they hold no more pictures."""
        return self.efficiency < 0.95 and self.media > 0.9 * self.rows * self.most_media

    def __str__(self) -> str:
        kinds = ', '.join(f'{count:,} {kind}' for kind, count in self.pieces.most_common())
        lines = [
            ('source', f'{self.name}: {self.total:,} documents, {self.looked_at:,} looked at'),
            ('pieces', kinds or 'none'),
            ('pictures', f'{_quantiles(self.pictures)} a document; {_shares(self.pictures)}'),
            ('characters', f'{_quantiles(self.characters)} a document'),
            ('tokens', f'{_quantiles(self.tokens)} a document; {_percent(self.learnt, sum(self.tokens))} are learnt'),
            ('packing', f'{self.efficiency:.1%} of token places filled in {self.rows:,} rows of {self.shape}; '
                        f'{self.media / max(1, self.rows):.2f} pictures a row'),
        ]  # fmt: skip
        if self.undecodable is not None:
            lines.append(('decoding', f'{self.undecodable:,} of {sum(self.pictures):,} pictures cannot be decoded'))
        lines.append(('dropped', f'{sum(self.dropped.values()):,} documents'))
        lines += [('', f'{count:,} x {self.examples[reason]}') for reason, count in self.dropped.most_common()]
        if self.full_of_media:
            lines.append(('hint', 'pictures fill the rows before tokens do: raise layout.max_media'))
        if self.partly:
            lines += [('partly' if not i else '', line) for i, line in enumerate(self.partly)]
        return '\n'.join(f'{name:<11} {text}' for name, text in lines)


def inspect(
    source: Source, layout: Layout, limit: int | None = 2000, window: int = 64, decode: bool = False
) -> Inspection:
    """Reads up to `limit` documents, evenly spaced, lays them out and packs windows of them; `decode`: pictures too."""
    found = Inspection(source.name, len(source), shape=_row(layout), most_media=layout.shape.media)
    packed, rows_used = [], 0.0
    for documents in _windows(source, limit, window, found):
        laid: list[Laid] = []
        for document in documents:
            _count(document, found)
            try:
                parts = layout(document)
                if decode:
                    _decode(document, layout, found)
            except BadDocument as error:
                found.drop(error)
                continue
            laid += parts
            found.tokens.append(sum(len(part.tokens) for part in parts))
            found.learnt += sum(int((part.weight > 0).sum()) for part in parts)
        packed = pack(laid, layout.shape)
        found.rows += len(packed)
        found.media += sum(len(part.media) for part in laid)
        rows_used += efficiency(packed, layout.shape) * len(packed)
    found.efficiency = rows_used / max(1, found.rows)
    found.partly = layout.problems.lines()
    # What a source drops from documents that it keeps: a missing picture of a page, a box without area.
    problems = getattr(source, 'problems', None)
    found.partly += [line for line in problems.lines() if not any(r in line for r in found.dropped)] if problems else []
    return found


def _windows(source: Source, limit: int | None, window: int, found: Inspection) -> Iterator[list[Document]]:
    """Yields the documents that can be read, `window` at a time, in an order without neighbours."""
    count = len(source) if limit is None else min(limit, len(source))
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int) if count else []
    chosen = np.random.default_rng(0).permutation(chosen)
    for start in range(0, count, window):
        documents = []
        for index in chosen[start : start + window]:
            found.looked_at += 1
            try:
                documents.append(source[int(index)])
            except BadDocument as error:
                found.drop(error)
        yield documents


def _count(document: Document, found: Inspection) -> None:
    found.pieces.update(type(piece).__name__.lower() for piece in document.pieces)
    found.pictures.append(sum(isinstance(piece, Medium) for piece in document.pieces))
    found.characters.append(sum(len(piece.text) for piece in document.pieces if isinstance(piece, Text | Region)))


def _decode(document: Document, layout: Layout, found: Inspection) -> None:
    """Decodes all pictures of a document; raises what the first that fails raises."""
    found.undecodable = found.undecodable or 0
    failed = None
    for piece in document.pieces:
        if isinstance(piece, Medium):
            try:
                layout.decode(piece)
            except BadDocument as error:
                found.undecodable += 1
                failed = failed or BadDocument(document.key, error.reason, str(error))
    if failed:
        raise failed


def _row(layout: Layout) -> str:
    row = layout.shape
    text = f'{row.tokens:,} tokens'
    if row.media:
        where = 'among the text' if layout.spec.in_sequence else 'beside the text'
        text += f' and {row.media} pictures of {layout.spec.tokens} tokens {where}'
    text += f', {row.states} states' * bool(row.states) + f', {row.regions} regions' * bool(row.regions)
    return text + f', {row.senses} of {" and ".join(layout.spec.senses)} each' * bool(row.senses)


def _quantiles(numbers: Sequence[int]) -> str:
    if not numbers:
        return '0'
    values = np.percentile(numbers, QUANTILES).round().astype(int)
    shown = ' | '.join(f'{value:,}' for value in values)
    return f'{sum(numbers):,} in all: {shown} (5 %, half, 95 %, most)'


def _shares(numbers: Sequence[int]) -> str:
    counts = Counter(min(n, 4) for n in numbers)
    return ', '.join(f'{n}{"+" if n == 4 else ""} in {_percent(counts[n], len(numbers))}' for n in sorted(counts))


def _percent(part: int, whole: int) -> str:
    return f'{part / max(1, whole):.0%}'
