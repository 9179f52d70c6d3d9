# SPDX-License-Identifier: Apache-2.0
"""The layout of AnomalyGPT's own parts (CASIA-IVA-Lab/AnomalyGPT), and where ImageBind's towers stand in it.

The public checkpoint, a delta, holds the decoder of maps and the prompt learner beside the names of a PandaGPT.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mmjax.models.inspector import PromptLearner
from mmjax.models.pair import Pair
from mmjax.models.vlm import Vlm
from mmjax.weights import imagebind
from mmjax.weights.rules import Kernel, Matrix, Same, Vector
from mmjax.weights.table import Entry, Table

_LEARNER = 'prompt_learner'
# Where the parts of a pair of towers stand.
_STANDS = {
    'vision': 'encoder',
    'image_projection': 'connector/projection',
    'text': 'connector/text',
    'text_projection': 'connector/text_projection',
}


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
    """Returns the names of an Inspector's `decoder` of so many depths, and of its `prompts`."""
    # A convolution, an activation, a pool; the last convolution stands alone.
    names = [*(f'prompts/halve/{i}' for i in range(len(c.channels))), 'prompts/last']
    pyramid = [
        Entry(f'{ours}/{mine}', f'{_LEARNER}.meta_net.{3 * i}.{theirs}', rule)
        for i, ours in enumerate(names)
        for mine, theirs, rule in (('kernel', 'weight', Kernel()), ('bias', 'bias', Vector()))
    ]
    layers = range(depths)
    entries = (
        Entry('decoder/linear/kernel', 'image_decoder.fc.{layer}.weight', Matrix(), layers),
        Entry('decoder/linear/bias', 'image_decoder.fc.{layer}.bias', Vector(), layers),
        Entry('prompts/base', f'{_LEARNER}.base_prompts', Same()),
        *pyramid,
    )
    return Table(entries)


def towers_table(c: Vlm.Config) -> Table:
    """Returns the names of ImageBind's two towers for a model whose connector is an Inspector."""
    pair = Pair.Config(vision=c.encoder, text=c.connector.text, width=c.connector.space, project_image=True)
    theirs = imagebind.table(pair)
    moved = lambda path: f'{_STANDS[path.partition("/")[0]]}/{path.partition("/")[2]}'
    entries = tuple(
        dataclasses.replace(entry, ours=tuple(map(moved, entry.paths)))
        for entry in theirs.entries
        if entry.paths[0].partition('/')[0] in _STANDS
    )
    scale = (r'modality_postprocessors\.text\.1\.log_logit_scale', 'vectors of length 1 are compared')
    return Table(entries, (*theirs.ignored, scale))
