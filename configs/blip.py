# SPDX-License-Identifier: Apache-2.0
"""BLIP, the captioner: a text decoder that looks at the picture within every block (Li et al. 2022).

configs/blip.py:base | large          published sizes; the model is that of Salesforce/blip-image-captioning-*
configs/blip.py:base,data=pairs.jsonl trains on a user's own captions
configs/blip.py:debug                 tries all parts on a CPU

    [DEC]a picture of two cats[SEP]

It tunes public weights on captions, as the public scripts do. The two other losses of the pretraining, contrast with
slow towers and verdicts on pairs, are in mmjax/objectives/momentum.py and models/pair.py.
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Caption
from mmjax.data.tokenizer import HuggingFace
from mmjax.objectives.next_token import NextToken
from mmjax.weights import blip

COCO = 'data/coco_captions/*.jsonl?text=caption'
RATE = {'base': 1e-5, 'large': 2e-6}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, 'base', 'large')
    form = templates.blip()
    layout = Layout.Config(
        tokenizer=HuggingFace.Config(path='weights/bert-base-uncased', special=('[DEC]', '[ENC]')),
        max_tokens=512,
        max_media=16,
        image=form.image,
        text=form.text,
        overlong='truncate',
    )
    mix = data.mix(a.data, data.part(COCO, task=Caption(questions=('a picture of ',))))
    # Five passes over 567 thousand captions, some sixteen of which share a row.
    tune = Stage(
        'tune',
        mix,
        rows=16,
        steps=11_000,
        objective=NextToken(label_smoothing=0.1),
        optimizer=Adamw(peak_lr=RATE[a.size], weight_decay=0.05, b2=0.999),
    )
    run = Run(
        parts.blip_captioner(a.size),
        layout,
        [tune],
        mesh=Mesh(1, -1, 1),
        remat='block',
        load=[Load(f'weights/blip-image-captioning-{a.size}', table=blip.captioner_table)],
    )
    return shrink(run) if a.debug else run
