# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL: features of several depths of the tower enter several layers of the decoder (Bai et al. 2025).

configs/qwen3_vl.py:8b | 4b           published sizes; the models are those of Qwen/Qwen3-VL-*-Instruct
configs/qwen3_vl.py:8b,data=x.jsonl   trains on a user's own chats
configs/qwen3_vl.py:debug             tries all parts on a CPU

    <|im_start|>user
    <|vision_start|> [a place for each square of 32 x 32 pixels] <|vision_end|>words<|im_end|>

Positions have three axes, which take turns in each head. Learned places are stretched over every picture.
A picture may have up to 1024 x 1024 pixels here, more are shrunk; frames of videos are pictures of their own.
The training below is ours: it tunes the public weights.
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.optim import Group
from mmjax.weights import qwen_native


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '8b', '4b')
    form = templates.qwen_native()
    model = vl_parts.qwen3_vl(a.size)
    layout = Layout.Config(
        tokenizer=parts.tokenizer(f'weights/qwen3-vl-{a.size}-instruct', form),
        max_tokens=8192,
        max_media=16,
        image=form.image,
        text=form.text,
        fit='whole',  # pictures keep their size, but for parts of a patch
        least=0 if a.debug else 64,  # small ones are enlarged to so many squares
        overlong='truncate',
    )
    chats = data.mix(
        a.data,
        data.part('data/llava_next_760k/*.json?format=chat&images_first=true'),
        data.part('data/vqav2/*.jsonl?text=answer&prompt=question', 0.2),
        data.part('data/docmatix/*.json?format=chat&images_first=true', 0.4),
    )
    # The tower learns more slowly than the words.
    rate = Adamw(
        peak_lr=1e-5,
        warmup=150,
        weight_decay=0.1,
        b2=0.95,
        groups=[Group(paths=('encoder/.*',), lr_scale=0.1)],
    )
    tune = Stage('tune', chats, rows=128, steps=5_000, accumulate=2, optimizer=rate)
    load = [Load(f'weights/qwen3-vl-{a.size}-instruct', table=qwen_native.table)]
    run = Run(model, layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=load)
    return shrink(run, chat=True) if a.debug else run
