# SPDX-License-Identifier: Apache-2.0
"""Which parts of a vision-language model do not go together, and what to choose instead."""

from typing import Any

from mmjax.models.budget import BudgetVit
from mmjax.models.fusion import CrossAttention
from mmjax.models.patches import Patches
from mmjax.models.resampler import Resampler
from mmjax.models.seq2seq import Seq2seq
from mmjax.models.vision import Vit


def refuse(c: Any) -> None:
    """Raises ValueError for a Vlm.Config whose parts contradict each other."""
    crossing, encodes = isinstance(c.fusion, CrossAttention.Config), isinstance(c.decoder, Seq2seq.Config)
    if c.varying and c.frames > 1 and isinstance(c.encoder, Patches.Config | BudgetVit.Config):
        raise ValueError(
            f'frames={c.frames} with pictures of varying size: set Patches.Config.varying=False for videos, or use '
            'another encoder than BudgetVit'
        )
    if c.varying and getattr(c.connector, 'merge', 1) != c.squares:
        raise ValueError(
            f'pictures of varying size give squares of side {c.squares}, which a connector with merge '
            f'{getattr(c.connector, "merge", 1)} cannot merge: set merge to it, or use an encoder of fixed size'
        )
    if isinstance(c.connector, Resampler.Config) and c.connector.order:
        raise ValueError(
            "Resampler.Config.order numbers a document's media, which packed rows do not carry: set it to 0"
        )
    if encodes and crossing:
        raise ValueError(
            'the decoder of a Seq2seq looks at its encoder, not at media: set Vlm.Config.fusion to Splice, and '
            'media stand among the words of the input'
        )
    kinds = getattr(c.decoder, 'kinds', 0)
    if kinds not in (0, 2) or (kinds and crossing):
        raise ValueError(
            f'a decoder with {kinds} kinds of tokens: here the second kind are media among the words, so '
            'there are two and Vlm.Config.fusion is Splice; or set kinds to 0'
        )
    if c.newline and crossing:
        raise ValueError(
            'Vlm.Config.newline ends rows of tiles among the words: set fusion to Splice, or newline to False'
        )
    if c.decoder.block.expert and crossing:
        raise ValueError(
            'Block.Config.expert reads media that stand among the words, and cross-attention puts none there: '
            'set Vlm.Config.fusion to Splice or expert to None'
        )
    if getattr(c.connector, 'levels', 0) and (c.state or c.newline or encodes):
        raise ValueError('DeepStack with states, Vlm.Config.newline or a Seq2seq: those enter at one depth only')
    if c.region_sampler and (crossing or not isinstance(c.encoder, Vit.Config)):
        raise ValueError(
            'Vlm.Config.region_sampler reads the features of pictures of one size, for tokens among the words: '
            'use a Vit and Splice, or set it to None'
        )
