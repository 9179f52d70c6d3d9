# SPDX-License-Identifier: Apache-2.0
"""Texts of what a picture of an object may be like, right or wrong, which a connector reads beside the picture.

    object 'cable', template 'a photo of a {}.'     right '{}' 'flawless {}'       wrong 'damaged {}' '{} with flaw'
    [a photo of a cable.] [a photo of a flawless cable.] [a photo of a damaged cable.] [a photo of a cable with flaw.]

The states are those of WinCLIP (Jeong et al. 2023), as AnomalyGPT takes them. Each text has the same room.
"""

import dataclasses

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.data.tokenizer import Bytes, HuggingFace, SentencePiece, specials_in
from mmjax.document import Document


class States:
    """Writes the texts for the object that a document is about: meta['object'], or a name for any."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        tokenizer: Bytes.Config | HuggingFace.Config | SentencePiece.Config
        right: tuple[str, ...] = (
            '{}', 'flawless {}', 'perfect {}', 'unblemished {}', '{} without flaw', '{} without defect',
            '{} without damage',
        )  # fmt: skip
        wrong: tuple[str, ...] = ('damaged {}', 'broken {}', '{} with flaw', '{} with defect', '{} with damage')
        templates: tuple[str, ...] = ('a photo of a {}.', 'a photo of the {}.')
        before: str = '<|startoftext|>'
        after: str = '<|endoftext|>'
        name: str = 'object'  # where a document does not say

        @property
        def texts(self) -> tuple[int, int]:
            """The number of texts of right and of wrong pictures."""
            return len(self.right) * len(self.templates), len(self.wrong) * len(self.templates)

        def special_tokens(self) -> tuple[str, ...]:
            """Returns the special tokens that are written; the tokenizer must have them."""
            return specials_in(self.before, self.after)

        def build(self, spec: MediaSpec) -> 'States':
            """Checks the tokenizer against the model's connector and returns the writer."""
            return States(self, spec)

    def __init__(self, c: Config, spec: MediaSpec):
        self.config, self.tokenizer, self.count = c, c.tokenizer.build(), sum(c.texts)
        self.longest = spec.beside // self.count
        if missing := [t for t in c.special_tokens() if not self.tokenizer.knows(t)]:
            raise ValueError(f'layout.beside writes what is not there: {self.tokenizer.missing(missing)}')
        if self.tokenizer.size > spec.beside_vocab or spec.beside % self.count:
            raise ValueError(
                f'layout.beside writes {self.count} texts in {self.tokenizer.size} kinds of tokens, the connector '
                f'reads {spec.beside} words, of a vocabulary of {spec.beside_vocab}; set its `texts` to {c.texts} and '
                "its vocab to at least the tokenizer's"
            )
        self.before, self.after = (np.asarray(self.tokenizer.encode(text), np.int32) for text in (c.before, c.after))

    def __call__(self, document: Document) -> np.ndarray:
        """Returns the ids of all texts, each filled up with -1; longer texts lose words in front of their end."""
        c, name = self.config, str(document.meta.get('object', self.config.name))
        states = [state.replace('{}', name) for state in (*c.right, *c.wrong)]
        texts = [template.replace('{}', state) for state in states for template in c.templates]
        room = self.longest - len(self.before) - len(self.after)
        found = np.full((self.count, self.longest), -1, np.int32)
        for row, text in zip(found, texts, strict=True):
            words = np.asarray(self.tokenizer.encode(text, special=False), np.int32)[:room]
            ids = np.concatenate([self.before, words, self.after])
            row[: len(ids)] = ids
        return found.ravel()
