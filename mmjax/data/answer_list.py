# SPDX-License-Identifier: Apache-2.0
"""Lists of answers to choose from, and how right each is for a document.

A document's last piece is its answer; meta['answers'] are those of several people, where they were asked:

    list    no  red  two  yes        people  red red red no no no no no no yes      scores    1.0  0.9  0.0  0.3
"""

import dataclasses
import pathlib

import numpy as np

from mmjax.batch import MediaSpec
from mmjax.document import BadDocument, Document, Region, Text


class AnswerList:
    """Scores every answer of the list for a document, as VQA's accuracy does (Antol et al. 2015)."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        words: tuple[str, ...] = ()
        path: str = ''  # a file with an answer a line, instead of `words`

        def build(self, spec: MediaSpec) -> 'AnswerList':
            """Reads the list and checks its length against the model's."""
            return AnswerList(self, spec)

    def __init__(self, c: Config, spec: MediaSpec):
        if bool(c.words) == bool(c.path):
            raise ValueError('layout.answers: give either words or the path of a file with an answer a line')
        words = pathlib.Path(c.path).expanduser().read_text().splitlines() if c.path else c.words
        self.words = tuple(words)
        if len(self.words) != spec.answers:
            raise ValueError(
                f'layout.answers lists {len(self.words)} answers, the model scores {spec.answers}; set its `answers`'
            )
        self.number = {_plain(word): i for i, word in enumerate(self.words)}

    def __call__(self, document: Document) -> np.ndarray:
        """Returns how right each answer is, float32 [A]: 1 where three other people gave it, 0 where none did."""
        piece = document.pieces[-1]
        if not isinstance(piece, Text | Region):
            raise BadDocument(document.key, 'no answer', f'it ends with {type(piece).__name__}')
        people = [_plain(answer) for answer in document.meta.get('answers') or [piece.text]]
        scores = np.zeros(len(self.words), np.float32)
        for answer in {*people} & self.number.keys():
            same, others = people.count(answer), len(people) - 1
            # Each person is compared with all others; one who was asked alone is simply right.
            left_out = (same * min((same - 1) / 3, 1) + (others + 1 - same) * min(same / 3, 1)) / (others + 1)
            scores[self.number[answer]] = left_out if others else 1.0
        return scores


def _plain(answer: str) -> str:
    return answer.strip().lower()
