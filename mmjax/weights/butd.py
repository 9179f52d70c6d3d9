# SPDX-License-Identifier: Apache-2.0
"""The layout of hengyuan-hu/bottom-up-attention-vqa: top-down attention with relu and weights of learned length.

There is no config.json: `config` reads the sizes off the shapes of the tensors. Its questions are filled up in front by
the last word of the table.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.models.regions import Regions
from mmjax.models.topdown import TopDown
from mmjax.nn.gated_layer import Layer
from mmjax.weights.parts import words
from mmjax.weights.rules import Matrix, Vector
from mmjax.weights.table import Entry, Table


def config(tensors: Mapping[str, Any], *, most: int = 36) -> TopDown.Config:
    """Returns our config of a checkpoint, for pictures of `most` regions."""
    vocab, word_width = tensors['w_emb.emb.weight'].shape
    width, regions = tensors['v_net.main.0.weight_v'].shape
    answers, hidden = tensors['classifier.main.3.weight_v'].shape
    return TopDown.Config(
        encoder=Regions.Config(width=regions, most=most),
        vocab=vocab,
        answers=answers,
        word_width=word_width,
        width=width,
        hidden=hidden,
        layer=Layer.Config(normed=True),
        joint='product',
        pad=vocab - 1,
    )


def table(c: TopDown.Config) -> Table:
    """Returns the names of a checkpoint."""
    entries = [
        *words('words/table', 'w_emb.emb', (c.vocab,)),
        *(
            entry
            for ours, public in (('input', 'ih'), ('state', 'hh'))
            for entry in (
                Entry(f'reader/{ours}/kernel', f'q_emb.rnn.weight_{public}_l0', Matrix()),
                Entry(f'reader/{ours}/bias', f'q_emb.rnn.bias_{public}_l0', Vector()),
            )
        ),
        *_affine('score_region/map', 'v_att.v_proj.main.0'),
        *_affine('score_question/map', 'v_att.q_proj.main.0'),
        *_affine('score', 'v_att.linear'),
        *_affine('region/map', 'v_net.main.0'),
        *_affine('question/map', 'q_net.main.0'),
        *_affine('joined/map', 'classifier.main.0'),
        *_affine('answer', 'classifier.main.3'),
    ]
    return Table(tuple(entries))


def _affine(ours: str, public: str) -> list[Entry]:
    return [
        Entry(f'{ours}/kernel', f'{public}.weight_v', Matrix()),
        Entry(f'{ours}/bias', f'{public}.bias', Vector()),
        Entry(f'{ours}/length', f'{public}.weight_g', Vector(())),
    ]
