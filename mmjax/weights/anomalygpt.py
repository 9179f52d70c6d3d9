# SPDX-License-Identifier: Apache-2.0
"""The layout of AnomalyGPT's own parts (CASIA-IVA-Lab/AnomalyGPT): the decoder of maps and the prompt learner.

The public checkpoint, a delta, holds them beside the names of a PandaGPT; towers and language model are read by their
own tables.
"""

import re
from collections.abc import Mapping
from typing import Any

from mmjax.models.inspector import PromptLearner
from mmjax.weights.rules import Kernel, Matrix, Same, Vector
from mmjax.weights.table import Entry, Table

_LEARNER = 'prompt_learner'


def learner(tensors: Mapping[str, Any]) -> PromptLearner.Config:
    """Returns the config of a checkpoint's prompt learner, by the shapes of its tensors."""
    places = sorted(int(m[1]) for name in tensors if (m := re.fullmatch(r'.*meta_net\.(\d+)\.weight', name)))
    shapes = [tensors[f'{_LEARNER}.meta_net.{place}.weight'].shape for place in places]
    return PromptLearner.Config(
        channels=tuple(shape[0] for shape in shapes[:-1]),
        last=shapes[-1][2],
        learned=tensors[f'{_LEARNER}.base_prompts'].shape[0],
    )


def table(c: PromptLearner.Config, depths: int) -> Table:
    """Returns the names of the parts `maps`, a MapDecoder of so many depths, and `prompts`, a PromptLearner."""
    # A convolution, an activation, a pool; the last convolution stands alone.
    names = [*(f'prompts/halve/{i}' for i in range(len(c.channels))), 'prompts/last']
    pyramid = [
        Entry(f'{ours}/{mine}', f'{_LEARNER}.meta_net.{3 * i}.{theirs}', rule)
        for i, ours in enumerate(names)
        for mine, theirs, rule in (('kernel', 'weight', Kernel()), ('bias', 'bias', Vector()))
    ]
    layers = range(depths)
    entries = (
        Entry('maps/linear/kernel', 'image_decoder.fc.{layer}.weight', Matrix(), layers),
        Entry('maps/linear/bias', 'image_decoder.fc.{layer}.bias', Vector(), layers),
        Entry('prompts/base', f'{_LEARNER}.base_prompts', Same()),
        *pyramid,
    )
    return Table(entries)
