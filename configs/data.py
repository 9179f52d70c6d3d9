# SPDX-License-Identifier: Apache-2.0
"""Mixtures, and what is measured: published ones by the names of their sets, a user's own by their path.

Published sets are looked for below data/ in the current folder. No set is fetched: a missing one is an error that says
where it was looked for.
"""

import dataclasses

from mmjax.config import Eval
from mmjax.data.mix import Mix, Part
from mmjax.data.sources import SourceConfig, source_config
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.split import Split
from mmjax.data.tasks import Chat, Task


def part(source: str, weight: float = 1.0, *, task: Task | None = None, min_quality: float = 0.0) -> Part:
    """One set of a mixture; its documents are seen in proportion to `weight`."""
    return Part(source=source_config(source), weight=weight, task=task, min_quality=min_quality)


def mix(path: str, *published: Part) -> Mix.Config:
    """The published parts; or, where the user gives a path, that alone, read as the first part would be."""
    if path:
        published = (dataclasses.replace(published[0], source=source_config(path), weight=1.0),)
    return Mix.Config(parts=[*published])


def halves(path: str, every: int) -> tuple[Split.Config, Split.Config]:
    """The training and the validation part of the documents at a path; one in `every` is held out."""
    if not path:
        raise ValueError("data=PATH is missing: tars ('shards/x-{000..127}.tar'), a folder of pages, or a JSONL file")
    # Two configs of the source: an override of one is not one of the other.
    return tuple(Split.Config(source=source_config(path), part=part, every=every) for part in ('train', 'validation'))


def digits(*, chat: bool = False, boxes: bool = False) -> Mix.Config:
    """The digits that come with the package, asked in turns (`chat`) or in running text, also for boxes."""
    # Counting is learnt within a few hundred steps, whatever reads the pictures; the rest has its share of the formats.
    weights = {'count': 1.0, 'caption' if chat else 'few_shot': 0.25} | ({'find': 0.25} if boxes else {})
    return Mix.Config(
        parts=[Part(source=Digits.Config(task=task), weight=w, task=_turns(chat)) for task, w in weights.items()]
    )


def digit_pairs() -> Mix.Config:
    """Scenes of digits beside their captions: of one digit, whose captions are ten classes, and of up to three."""
    return Mix.Config(parts=[Part(source=_scenes(most=1)), Part(source=_scenes())])


def pair_evals() -> list[Eval]:
    """Measures whether pictures and words find each other, on digits that no training document shows."""
    pair = lambda name, **changes: Eval(name=name, source=_scenes(split='test', **changes), metric='retrieval')
    return [pair('naming', most=1), pair('retrieval', least=2)]


def picture_eval() -> Eval:
    """Measures the loss on scenes of digits that no training document shows."""
    return Eval(name='held_out', source=_scenes(split='test'), metric='loss', count=256, blind=False)


def _scenes(**changes) -> Digits.Config:
    return Digits.Config(height=24, width=24, smallest=10, largest=11, colour=0.2, **changes)


def digit_evals(*, chat: bool = False, boxes: bool = False) -> list[Eval]:
    """Measures on digits that no training document shows."""
    evals = [Eval(name='count', source=_test('count'), task=_turns(chat), max_new_tokens=4)]
    if boxes:
        find = _test('find')
        evals.append(Eval(name='find', source=find, task=_turns(chat), metric='box_iou', count=64, constrain=True))
    return evals


def _test(task: str) -> SourceConfig:
    return Digits.Config(task=task, split='test')


def _turns(chat: bool) -> Task | None:
    return Chat() if chat else None
