# SPDX-License-Identifier: Apache-2.0
"""Documents of several kinds of media: digits that are seen, heard, filmed and felt, and a question about one of them.

    [picture of 3] [sound of 7] audio? 7          in any order; of the kinds of the config any two

Each medium is made of one scene of `digits.Digits` with one digit:

    ''        the scene
    'video'   two frames, which show its upper and its lower half
    'audio'   a vector for each row of pixels, in order, as a spectrogram has one for each moment
    '3d'      one vector for the whole, as a tower for clouds of points gives one
"""

import dataclasses

import numpy as np

from mmjax.data.sources.digits import SPLITS, Digits
from mmjax.data.sources.source import DrawnSource
from mmjax.document import Document, Features, Image, Medium, Text, Video

KINDS = ('', 'video', 'audio', '3d')


class Senses(DrawnSource):
    """A source of such documents; document i is a pure function of the config and i."""

    @dataclasses.dataclass(kw_only=True)
    class Config:
        """Of which kinds media are; the sizes and colours of scenes are those of `scenes`."""

        kinds: tuple[str, ...] = KINDS
        each: int = 2  # media of a document, all of different kinds and digits
        digits: int = 10  # that there are, from 0 on
        split: str = 'train'
        count: int = 1_000_000
        seed: int = 0
        side: int = 16  # of a scene in pixels
        colour: float = 0.2

        def build(self) -> 'Senses':
            """Checks the numbers and returns the source."""
            if unknown := [kind for kind in self.kinds if kind not in KINDS]:
                raise ValueError(f'senses: kinds {unknown} are not known; known are {", ".join(map(repr, KINDS))}')
            if not 1 <= self.each <= len(self.kinds):
                raise ValueError(f'senses: {self.each} media of different kinds, and there are {len(self.kinds)} kinds')
            if not self.each <= self.digits <= 10:
                raise ValueError(
                    f'senses: {self.each} media of different digits, and there are {self.digits}, at most 10'
                )
            return Senses(self)

        @property
        def widths(self) -> dict[str, tuple[int, int]]:
            """(vectors, width) of the kinds that come as vectors."""
            return {'audio': (self.side, self.side), '3d': (1, self.side**2)}

    def __init__(self, config: Config):
        super().__init__(f'senses:{config.split}', config)
        size = dict(height=config.side, width=config.side, smallest=config.side - 4, largest=config.side)
        self._scenes = Digits.Config(**size, split=config.split, colour=config.colour).build()

    def draw(self, index: int) -> Document:
        """See DrawnSource."""
        c = self.config
        rng = np.random.default_rng([c.seed, SPLITS.index(c.split), index])
        kinds = [c.kinds[i] for i in rng.permutation(len(c.kinds))[: c.each]]
        labels = rng.permutation(c.digits)[: c.each]
        media = [
            shown(kind, self._scenes.scene(rng, [int(label)])[0]) for kind, label in zip(kinds, labels, strict=True)
        ]
        asked = int(rng.integers(c.each))
        question = Text(f'{kinds[asked] or "image"}? ', weight=0.0)
        return Document([*media, question, Text(str(labels[asked]))], key=f'{self.name}:{c.seed}:{index}')


def shown(kind: str, scene: np.ndarray) -> Medium:
    """Returns a scene, uint8 [side, side, 3], as a medium of this kind."""
    if not kind:
        return Image(scene)
    if kind == 'video':
        frames = (scene.copy(), scene.copy())
        frames[0][len(scene) // 2 :], frames[1][: len(scene) // 2] = 0, 0
        return Video(tuple(map(Image, frames)), (0.0, 1.0))
    grey = scene.mean(axis=2, dtype=np.float32) / 255
    return Features(grey if kind == 'audio' else grey.reshape(1, -1), kind=kind)
