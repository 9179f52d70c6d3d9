# SPDX-License-Identifier: Apache-2.0
"""InternVL3: InternViT, squares of 2 x 2 features through an MLP, Qwen2.5 (Zhu et al. 2025).

configs/internvl.py                  the size of OpenGVLab/InternVL3-8B-hf
configs/internvl.py:data=chat.jsonl  trains on a user's own chats
configs/internvl.py:debug            tries all parts on a CPU

    <|im_start|>user
    <img> [256 places] </img>
    words<|im_end|>

A picture is one tile of 448 x 448 pixels; published checkpoints cut large pictures into up to twelve and an overview.
The training below is ours: it tunes the public weights.
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.nn.layers import Norm
from mmjax.weights import internvl


def get_config(arg: str = '') -> Run:
    """Returns the run."""
    a = parse(arg, '8b')
    form = templates.internvl()
    model = Vlm.Config(
        encoder=vl_parts.internvit_300m(),
        connector=connector.Mlp.Config(merge=2, norm=Norm.Config()),
        decoder=parts.qwen2(),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/internvl3-8b-hf', form),
        max_tokens=8192,
        max_media=24,
        image=form.image,
        text=form.text,
        overlong='truncate',
    )
    chats = data.mix(
        a.data,
        data.part('data/llava_665k/llava_v1_5_mix665k.json?format=chat&images_first=true'),
        data.part('data/llava_158k/*.json?format=chat&images_first=true', 0.5),
    )
    rate = dict(schedule='cosine', weight_decay=0.05, b2=0.999)
    align = Stage(
        'align',
        chats,
        rows=128,
        steps=1_000,
        trainable=('connector/.*',),
        optimizer=Adamw(peak_lr=2e-4, warmup=30, **rate),
    )
    tune = Stage('tune', chats, rows=128, steps=5_000, optimizer=Adamw(peak_lr=2e-5, warmup=150, **rate))
    load = [Load('weights/internvl3-8b-hf', table=internvl.table)]
    run = Run(model, layout, [align, tune], mesh=Mesh(1, -1, 1), remat='block', load=load)
    return shrink(run, chat=True) if a.debug else run
