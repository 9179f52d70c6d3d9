# SPDX-License-Identifier: Apache-2.0
"""KOSMOS-2: KOSMOS-1 that writes places of its pictures as words (Peng et al. 2023).

configs/kosmos2.py                  the published size; the model is that of microsoft/kosmos-2-patch14-224
configs/kosmos2.py:debug            tries all parts on a CPU

    <s><image> [64 places] </image><grounding> An image of<phrase> a snowman</phrase>
    <object><patch_index_0044><patch_index_0863></object></s>

Numbers of the training are those of its public script, unless they are marked (unverified).
"""

import dataclasses
import math

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Locate
from mmjax.models.connector import AttentionPool
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.positions import Sinusoidal

# Fields of GRIT: phrases with boxes, and how well words and picture agree.
GRIT = '?text=caption&boxes=ref_exps&quality=clip_similarity_vitb32'


def get_config(arg: str = '') -> Run:
    """Returns the run."""
    a = parse(arg, '1.7b')
    form, codec = templates.kosmos(), dialects.kosmos_2()
    image = dataclasses.replace(form.image, after=form.image.after + '<grounding>')
    attn = Attention.Config(heads=32, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    model = Vlm.Config(
        encoder=parts.clip_l(224, keep_cls=True),
        connector=AttentionPool.Config(attn=attn, queries=64, unit=True),
        # Positions begin behind the padding's id, 1.
        decoder=parts.magneto(Sinusoidal.Config(offset=2), vocab=65_037, input_scale=math.sqrt(2048)),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/kosmos-2-patch14-224', form, image, codec),
        max_tokens=2048,
        max_media=16,
        image=image,
        text=form.text,
        coordinates=codec,
    )
    # The script also leaves out boxes whose own score is below 0.65, which documents do not carry.
    grounded = data.mix(
        a.data,
        data.part(f'data/grit/*.tar{GRIT}'),
        data.part('data/laion/*.tar'),
        data.part('data/interleaved/*.tar', 0.4),
        data.part('data/pile/*.jsonl'),
    )
    asked = data.mix(a.data, data.part(f'data/grit/*.tar{GRIT}', task=Locate()), data.part('data/llava_158k/*.json'))
    rate = dict(peak_lr=2e-4, warmup=375, schedule='linear', weight_decay=0.01, b2=0.98, eps=1e-6, clip=2.0)
    # 208 rows are 426 thousand tokens, the paper says 419 (unverified), and 10,000 steps of instructions (unverified).
    stages = [
        Stage('ground', grounded, rows=208, steps=60_000, optimizer=Adamw(**rate)),
        Stage('instruct', asked, rows=208, steps=10_000, optimizer=Adamw(**{**rate, 'peak_lr': 1e-5})),  # rate: ours
    ]
    # It goes on from a run of configs/kosmos1.py (unverified).
    run = Run(model, layout, stages, mesh=Mesh(1, -1, 1), remat='block', load=[Load('runs/kosmos1')])
    return shrink(run, steps=600) if a.debug else run
