# SPDX-License-Identifier: Apache-2.0
"""The layout of TextBind (SihengLi99/TextBind): the parts of a BLIP-2 before a LLaMA, under names of its own."""

from mmjax.models.qformer import Qformer
from mmjax.models.vlm import Vlm
from mmjax.weights import blip2, llama, qformer
from mmjax.weights.table import Table


def table(c: Vlm.Config) -> Table:
    """Returns the names of a checkpoint."""
    language = llama.table(c.decoder, 'language_model.model.', 'language_model.lm_head')
    return blip2.parts_table(c, qformer.HUB, 'qformer_projection') + language.under('decoder/', '')


def asking_table(c: Qformer.Config) -> Table:
    """Returns the names of the Q-Former alone, in a BLIP-2 before whichever language model."""
    others = (r'(vision_model|language_model|language_projection)\..*', 'of another part')
    asking = qformer.table(c, qformer.HUB)
    return Table(asking.entries, (*asking.ignored, others))
