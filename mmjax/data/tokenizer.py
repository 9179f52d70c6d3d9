# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: text to ids and back, with special tokens that only format strings can write.

A special token is one id with a name, e.g. `<image>`. `encode(text, special=True)` is for format strings: names become
ids. `encode(text, special=False)` is for the words of documents: a user who writes `<image>` gets ordinary tokens.
Each Config takes `special`, names that must exist; those that the vocabulary lacks grow it, in the order given.
"""

import abc
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import sentencepiece
import tokenizers

# What format strings may write: <name>, <|name|>, |NAME| and [NAME]. They cannot mean such text literally, but for
# [INST], which Llama 2 spells in ordinary tokens.
SPECIAL = re.compile(r'<[^<>\s]+>|\|[A-Z_]+\||\[(?!INST\])[A-Z]+\]')
BYTE = re.compile(r'<0x([0-9A-F]{2})>')


def specials_in(*formats: str) -> tuple[str, ...]:
    """Returns the special tokens that format strings name, each once, in the order of their first place."""
    return tuple(dict.fromkeys(name for text in formats for name in SPECIAL.findall(text)))


class Tokenizer(abc.ABC):
    """What the three tokenizers share: the special tokens and the runs of words between them."""

    # Whether words after a special token begin as words at the start of a text do, with a space put before them.
    prefix_every = False

    def __init__(self, name: str, size: int, special: Sequence[str], known: dict[str, int]):
        """`size` counts the vocabulary before it grows; `known` are special tokens that it holds already."""
        self.name, self.special = name, dict(known)
        for token in special:
            found = self._find(token)
            if token not in self.special:
                self.special[token] = size if found is None else found
                size += found is None
        self.size = size
        self._names = {index: token for token, index in self.special.items()}
        longest_first = sorted(self.special, key=len, reverse=True)
        self._split = re.compile('(' + '|'.join(map(re.escape, longest_first)) + ')') if self.special else None

    @abc.abstractmethod
    def _find(self, token: str) -> int | None:
        """Returns the id of a token of the original vocabulary."""

    @abc.abstractmethod
    def _words(self, text: str, first: bool) -> list[int]:
        """Encodes words; `first`: they begin a text, where some tokenizers put a space."""

    @abc.abstractmethod
    def _spell(self, ids: list[int], first: bool) -> str:
        """Decodes ids that are no special tokens."""

    @abc.abstractmethod
    def _bytes(self, index: int) -> bytes | None:
        """Returns what one token of the original vocabulary writes inside a text, None if nothing."""

    def encode(self, text: str, special: bool = True, first: bool = True) -> list[int]:
        """Returns the ids of `text`.

        `special`: whether names of special tokens become their ids; never for words that a user wrote.
        `first`: whether the text begins a document; False where it continues one.
        """
        if not special or self._split is None:
            return self._words(text, first) if text else []
        ids = []
        for part in self._split.split(text):
            if part in self.special:
                ids.append(self.special[part])
                first = self.prefix_every
            elif part:
                ids += self._words(part, first)
                first = False
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray, special: bool = True) -> str:
        """Returns the text of `ids`; `special`: whether the names of special tokens are written."""
        text, run, first = [], [], True
        for index in [*map(int, ids), None]:
            if index is not None and index not in self._names:
                run.append(index)
                continue
            if run:
                text.append(self._spell(run, first))
                run, first = [], self.prefix_every
            if index is not None and special:
                text.append(self._names[index])
        return ''.join(text)

    def id(self, token: str) -> int:
        """Returns the id of a special token; raises ValueError when there is none."""
        found = self.special.get(token)
        found = self._find(token) if found is None else found
        if found is None:
            raise ValueError(self.missing([token]))
        return found

    def knows(self, token: str) -> bool:
        """Says whether there is an id for a token."""
        return token in self.special or self._find(token) is not None

    def missing(self, tokens: Sequence[str]) -> str:
        """Returns what to tell a user whose vocabulary lacks `tokens`."""
        return (
            f'tokenizer {self.name} ({self.size} tokens) has no special token {", ".join(map(repr, tokens))}; '
            f'add special={(*tokens,)!r} to its Config, which grows the vocabulary by {len(tokens)} to '
            f'{self.size + len(tokens)} (the decoder must be built as wide)'
        )

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of the special tokens."""
        return frozenset(self._names)

    @functools.cached_property
    def spelling(self) -> list[bytes | None]:
        """The bytes that each token writes None where there are none; special tokens write their name."""
        return [self._names[i].encode() if i in self._names else self._bytes(i) for i in range(self.size)]


class Bytes(Tokenizer):
    """Bytes of UTF-8, ids 0..255, then the special tokens. Needs no file."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        special: tuple[str, ...] = ()

        def build(self) -> 'Bytes':
            return Bytes('Bytes', 256, self.special, {})

    def _find(self, token: str) -> int | None:
        return None

    def _words(self, text: str, first: bool) -> list[int]:
        return list(text.encode())

    def _spell(self, ids: list[int], first: bool) -> str:
        return bytes(i for i in ids if 0 <= i < 256).decode(errors='replace')

    def _bytes(self, index: int) -> bytes | None:
        return bytes([index])


class HuggingFace(Tokenizer):
    """A `tokenizer.json` of the Hugging Face tokenizers library; `path` names the file or its folder."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        path: str
        special: tuple[str, ...] = ()

        def build(self) -> 'HuggingFace':
            path = pathlib.Path(self.path).expanduser()
            path = path / 'tokenizer.json' if path.is_dir() else path
            if not path.is_file():
                raise FileNotFoundError(
                    f'{path}: no tokenizer file; tokenizer.path must name a tokenizer.json or its folder'
                )
            try:
                return HuggingFace(self, path.read_text())
            except ValueError as e:
                if not isinstance(e, json.JSONDecodeError):
                    raise
                raise ValueError(f'{path} is no JSON: {e}; download it again') from e
            except Exception as e:  # the library raises its own kind, which has no name
                reason = f'{type(e).__name__}: {e}'.splitlines()[0][:200]
                raise ValueError(f'{path} is no whole tokenizer ({reason}); download it again') from e

    def __init__(self, c: Config, text: str):
        spec = json.loads(text)
        spec.update(truncation=None, padding=None, post_processor=None)
        for token in spec['added_tokens']:
            # Only tokens marked special can be kept from being recognised in users' words.
            token['special'] |= token['content'] in c.special
        rest = json.loads(json.dumps(spec))
        self.prefix_every = _drop_prefix(rest)
        self._first, self._rest = (tokenizers.Tokenizer.from_str(json.dumps(s)) for s in (spec, rest))
        self._first.encode_special_tokens = self._rest.encode_special_tokens = True
        self._byte_level = 'ByteLevel' in json.dumps(spec.get('decoder')) or 'ByteLevel' in json.dumps(
            spec['pre_tokenizer']
        )
        size = max(self._first.get_vocab(with_added_tokens=True).values()) + 1
        known = {token['content']: token['id'] for token in spec['added_tokens'] if token['special']}
        super().__init__(f'HuggingFace({c.path})', size, c.special, known)

    def _find(self, token: str) -> int | None:
        return self._first.token_to_id(token)

    def _words(self, text: str, first: bool) -> list[int]:
        return (self._first if first else self._rest).encode(text, add_special_tokens=False).ids

    def _spell(self, ids: list[int], first: bool) -> str:
        return (self._first if first else self._rest).decode(ids, skip_special_tokens=False)

    def _bytes(self, index: int) -> bytes | None:
        token = self._first.id_to_token(index)
        if token is None:
            return None
        if self._byte_level:
            table = _byte_characters()
            return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
        if byte := BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        return token.replace('▁', ' ').encode()


def _drop_prefix(spec: dict) -> bool:
    """Takes out of `spec` what puts a space before words; returns whether it did so after special tokens too."""
    every = False

    def visit(part):
        nonlocal every
        if part is None:
            return None
        for key in ('normalizers', 'pretokenizers', 'decoders'):
            if key in part:
                part[key] = [kept for inner in part[key] if (kept := visit(inner)) is not None]
        if part['type'] == 'Prepend':
            every = True
            return None
        if part['type'] == 'Strip' and part.get('start'):
            return None  # a decoder that takes the space away again
        if part['type'] == 'Metaspace':
            every |= part.get('prepend_scheme') == 'always'
            part['prepend_scheme'] = 'never'
        if part['type'] == 'ByteLevel':
            every |= part.get('add_prefix_space', False)
            part['add_prefix_space'] = False
        return part

    for key in ('normalizer', 'pre_tokenizer'):
        spec[key] = visit(spec.get(key))
    decides, every = every, False
    spec['decoder'] = visit(spec.get('decoder'))  # says nothing of how text is encoded
    return decides


@functools.cache
def _byte_characters() -> dict[str, int]:
    """Returns the byte behind each character of a byte-level vocabulary: printable bytes are themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class SentencePiece(Tokenizer):
    """A SentencePiece `.model` file. `prefix_every`: a space before words after special tokens, as LLaMA 1 has it."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        path: str
        special: tuple[str, ...] = ()
        prefix_every: bool = False

        def build(self) -> 'SentencePiece':
            path = pathlib.Path(self.path).expanduser()
            if not path.is_file():
                raise FileNotFoundError(f'{path}: no SentencePiece model; tokenizer.path must name a .model file')
            return SentencePiece(self, path.read_bytes())

    def __init__(self, c: Config, model: bytes):
        self.prefix_every = c.prefix_every
        self._first = sentencepiece.SentencePieceProcessor(model_proto=model)
        # Serialised messages that follow each other merge: these bytes say normalizer_spec.add_dummy_prefix = false.
        self._rest = sentencepiece.SentencePieceProcessor(model_proto=model + b'\x1a\x02\x18\x00')
        self._strips = self._first.encode('  a') == self._first.encode('a')
        size = self._first.get_piece_size()
        known = {self._first.id_to_piece(i): i for i in range(size) if self._first.is_control(i)}
        # Names that the model itself recognises in any text; words are cut inside them.
        literal = [name for name in c.special if name not in known and self._find(name) is not None]
        self._literal = re.compile('|'.join(map(re.escape, literal))) if literal else None
        super().__init__(f'SentencePiece({c.path})', size, c.special, known)

    def _find(self, token: str) -> int | None:
        found = self._first.piece_to_id(token)
        return None if self._first.is_unknown(found) and self._first.id_to_piece(found) != token else found

    def _words(self, text: str, first: bool) -> list[int]:
        cuts = [m.start() + 1 for m in self._literal.finditer(text)] if self._literal else []
        ids = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            part = text[start:end]
            # A model that strips leading spaces writes the one before a word only as its own prefix.
            prefix = first or (self._strips and part.startswith(' '))
            ids += (self._first if prefix else self._rest).encode(part)
            first = False
        return ids

    def _spell(self, ids: list[int], first: bool) -> str:
        return (self._first if first else self._rest).decode(ids)

    def _bytes(self, index: int) -> bytes | None:
        piece = self._first.id_to_piece(index)
        if self._first.is_unknown(index):
            return None
        if self._first.is_byte(index):
            return bytes([int(piece[3:5], 16)])
        return piece.replace('▁', ' ').encode()
