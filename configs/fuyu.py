# SPDX-License-Identifier: Apache-2.0
"""Fuyu-8B: no vision tower; patches of pixels, in pictures of any shape, are words of a decoder (Adept 2023).

configs/fuyu.py                  the published size; the model is that of adept/fuyu-8b
configs/fuyu.py:data=chat.jsonl  trains it on a user's own chats
configs/fuyu.py:debug            tries all parts on a CPU

    [|SPEAKER| for each patch, |NEWLINE| behind each row] <s>question<0x04> answer|ENDOFTEXT|

How it was trained is not known. The training below is ours: it tunes the public weights.
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Chat
from mmjax.models.patches import Patches
from mmjax.models.vlm import Vlm
from mmjax.weights import fuyu


def get_config(arg: str = '') -> Run:
    """Returns the run."""
    a = parse(arg, '8b')
    form, codec = templates.fuyu(), dialects.fuyu()
    model = Vlm.Config(
        encoder=Patches.Config(patch=30, grid=(36, 64)),  # pictures of up to 1080 x 1920 pixels
        decoder=parts.persimmon(),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/fuyu-8b', form, codec),
        max_tokens=4096,
        max_media=4,
        image=form.image,
        text=form.text,
        coordinates=codec,
        fit='inside',  # pictures keep their shape
        overlong='truncate',
    )
    mix = data.mix(
        a.data,
        data.part('data/llava_665k/llava_v1_5_mix665k.json?format=chat&images_first=true'),
        data.part('data/vqav2/*.jsonl?text=answer&prompt=question', 0.5, task=Chat()),
    )
    stage = Stage(
        'tune', mix, rows=128, steps=5000, optimizer=Adamw(peak_lr=1e-5, warmup=200, weight_decay=0.1, b2=0.95)
    )
    run = Run(
        model,
        layout,
        [stage],
        mesh=Mesh(1, -1, 1),
        remat='block',
        load=[Load('weights/fuyu-8b', table=fuyu.table)],
    )
    return shrink(run, chat=True) if a.debug else run
