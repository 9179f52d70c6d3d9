# SPDX-License-Identifier: Apache-2.0
"""Words beside pictures: what a connector reads, in a tokenizer of its own, while the language model reads all.

[picture] 'How many cats?' (read) '2' (learnt)      beside the picture    [CLS] how many cats ? [SEP]     instructions
[picture] 'two cats' (learnt)                       beside the picture    [CLS] two cats [SEP]            captions
"""

import dataclasses

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece, specials_in
from mmjax.document import Document, Region, Text


class Beside:
    """Writes the words of a document that stand beside each of its media."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        tokenizer: Bytes.Config | HuggingFace.Config | SentencePiece.Config
        before: str = '[CLS]'
        after: str = '[SEP]'
        learnt: bool = False  # the words that are learnt, captions; False: those that are only read, instructions

        def special_tokens(self) -> tuple[str, ...]:
            """Returns the special tokens that are written; the tokenizer must have them."""
            return specials_in(self.before, self.after)

        def build(self, spec: MediaSpec) -> 'Beside':
            """Checks the tokenizer against the model's connector and returns the writer."""
            return Beside(self, spec)

    def __init__(self, c: Config, spec: MediaSpec):
        self.tokenizer, self.learnt, self.most = c.tokenizer.build(), c.learnt, spec.beside
        if missing := [t for t in c.special_tokens() if not self.tokenizer.knows(t)]:
            raise ValueError(f'layout.beside writes what is not there: {self.tokenizer.missing(missing)}')
        if self.tokenizer.size > spec.beside_vocab:
            raise ValueError(
                f'layout.beside has a tokenizer of {self.tokenizer.size} tokens, the connector reads '
                f'{spec.beside_vocab}; set the vocab of its words to at least that'
            )
        self.before, self.after = (np.asarray(self.tokenizer.encode(text), np.int32) for text in (c.before, c.after))
        if len(self.before) + len(self.after) >= self.most:
            raise ValueError(
                f'layout.beside writes {len(self.before)} + {len(self.after)} signs around words, and the connector '
                f'reads {self.most} in all; raise what it reads'
            )

    def __call__(self, document: Document) -> np.ndarray:
        """Returns ids, at most as many as the connector reads: longer texts lose their end, not the signs."""
        pieces = [p for p in document.pieces if isinstance(p, Text | Region) and (p.weight > 0) == self.learnt]
        text = ' '.join(p.text.strip() for p in pieces if p.text.strip())
        words = np.asarray(self.tokenizer.encode(text, special=False), np.int32)
        room = self.most - len(self.before) - len(self.after)
        return np.concatenate([self.before, words[:room], self.after])
