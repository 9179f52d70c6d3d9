# SPDX-License-Identifier: Apache-2.0
"""Strings of letters drawn at random that are said again and again: what comes next has to be looked up.

    k3fx9ak3fx9ak3fx9ak3fx9a...      learnt from the second time on

A decoder learns here to find an earlier place that is like its own and to go on as it went on there (induction, Olsson
et al. 2022), which all few-shot learning stands on. Every letter teaches it; names of pictures, a few in a document,
would take many times as long.
"""

import dataclasses

import numpy as np

from mmjax.data.sources.source import DrawnSource
from mmjax.document import Document, Text


class Echo(DrawnSource):
    """A source of repeated strings; document i is a pure function of the config and i."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Strings of `shortest` to `longest` letters, repeated until a document is `length` letters long."""

        letters: str = 'abcdefghijklmnopqrstuvwxyz0123456789'
        shortest: int = 4
        longest: int = 24
        ordered: bool = True  # False: the letters said again stand in any order, a control: nothing can be looked up
        length: int = 140
        count: int = 1_000_000
        seed: int = 0

        def build(self) -> 'Echo':
            """Checks the numbers and returns the source."""
            if not self.letters or not 1 <= self.shortest <= self.longest < self.length:
                raise ValueError(
                    f'echo: strings of {self.shortest} to {self.longest} letters in documents of {self.length}, drawn '
                    f'from {self.letters!r}; letters and 1 <= shortest <= longest < length are needed'
                )
            return Echo(self)

    def __init__(self, config: Config):
        super().__init__('echo', config)

    def draw(self, index: int) -> Document:
        """See DrawnSource."""
        c = self.config
        rng = np.random.default_rng([c.seed, index])
        once = ''.join(rng.choice(list(c.letters), size=int(rng.integers(c.shortest, c.longest + 1))))
        again = (once * (c.length // len(once)))[: c.length - len(once)]
        again = again if c.ordered else ''.join(rng.permutation(list(again)))
        return Document([Text(once, weight=0.0), Text(again)], key=f'{self.name}:{c.seed}:{index}')
