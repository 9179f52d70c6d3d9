# SPDX-License-Identifier: Apache-2.0
"""The layout of the first LLaVA, of Shikra and of Ferret: a LLaMA's names, and a projector (and a sampler of regions)
among those of its body. The tower is not in these files; they are differences from LLaMA's or Vicuna's weights.

    Load('weights/shikra-7b-delta', ('connector/.*', 'decoder/.*'), shikra.table, delta_of='weights/llama-7b')
"""

from mmjax.models.vlm import Vlm
from mmjax.weights import ferret, llama
from mmjax.weights.parts import linear
from mmjax.weights.table import Table


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint, without the tower."""
    found = llama.table(c.decoder).under('decoder/', '') + Table(
        tuple(linear('connector/linear', 'model.mm_projector'))
    )
    if c.region_sampler:
        found += ferret.sampler_table(c.region_sampler).under('region_sampler/', 'model.region_geo_sampler.')
    return found
