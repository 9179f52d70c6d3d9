# SPDX-License-Identifier: Apache-2.0
"""The first run: a small model that reads scenes of handwritten digits, on built-in data, in minutes on two CPU cores.

    mmjax train --config=configs/quickstart.py           the table of the README
    mmjax train --config=configs/quickstart.py:long      longer, until few-shot naming works too
    mmjax train --config=configs/quickstart.py:smoke     a few steps, to see that all of it runs

Two stages: scenes of one digit teach what digits look like; then one mixture of interleaved documents asks several
questions about scenes of up to three (which digits, from left to right; how many; where), and few-shot naming lets
scenes and made-up names alternate. Only answers are learnt. The scenes that are judged show digits that training never
saw.
"""

import dataclasses

from mmjax.config import Adamw, Checkpoints, Eval, Log, Run, Stage
from mmjax.data.coordinates import Numbers
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.templates import TextFormat
from mmjax.data.tokenizer import Bytes
from mmjax.models import connector
from mmjax.models.decoder import Decoder
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp

SIZES = {'': (1000, 1200), 'long': (2000, 12000), 'smoke': (10, 10)}  # steps of the two stages
RMS = Norm.Config(kind='rms')
SCENES = Digits.Config(height=24, width=24, smallest=8, largest=10, colour=0.3)
NAMING = dataclasses.replace(SCENES, task='few_shot', most=1, shots=2)
# 100 x 100 points, two digits each: a box is 11 characters.
PERCENT = Numbers(steps=100, last=99, digits=2, box='{x0},{y0},{x1},{y1}', join=';')


def get_config(arg: str = '') -> Run:
    """Returns the run; `arg` is '', 'long' or 'smoke'."""
    if arg not in SIZES:
        raise ValueError(f'quickstart has no size {arg!r}, known are {", ".join(filter(None, SIZES))}, or none')
    one, several = SIZES[arg]
    single = Part(source=dataclasses.replace(SCENES, task='caption', most=1))
    mixed = Part(source=dataclasses.replace(SCENES, task='mixed'), weight=6.0)
    return Run(
        model=model(),
        layout=Layout.Config(
            tokenizer=Bytes.Config(special=('<image>',)),
            max_tokens=192,
            max_media=6,
            text=TextFormat(end='\n'),
            coordinates=PERCENT,
        ),
        stages=[
            stage('one digit', [single], one, 'constant'),
            stage('all', [mixed, Part(source=NAMING, weight=1.0)], several, 'cosine'),
        ],
        compute_dtype='float32',  # CPUs have no fast bfloat16
        remat='none',
        evals=evals(16 if arg == 'smoke' else 256),
        checkpoint=Checkpoints(every_steps=500),
        log=Log(every_steps=20),
    )


def stage(name: str, parts: list[Part], steps: int, schedule: str) -> Stage:
    """Returns a stage of small batches: the steps count here, not the tokens."""
    optimizer = Adamw(peak_lr=7e-4, warmup=min(60, steps // 2), schedule=schedule, b2=0.95)
    return Stage(name, Mix.Config(parts=parts), rows=4, steps=steps, optimizer=optimizer)


def model() -> Vlm.Config:
    """Returns an encoder whose squares of four patches become one token, and a decoder: 0.9 million parameters."""
    block = lambda heads, width: Block.Config(
        attn=Attention.Config(heads=heads), mlp=Mlp.Config(width=4 * width, act='relu', bias=False), norm=RMS
    )
    mean, std = (0.2,) * 3, (0.25,) * 3  # of the scenes, about
    # ReLU, since XLA on CPUs computes other activations anew several times in the backward pass: half the step.
    return Vlm.Config(
        encoder=Vit.Config(
            size=(24, 24), patch=4, overlap=1, width=96, depth=3, block=block(4, 96), norm=RMS, mean=mean, std=std
        ),
        connector=connector.Linear.Config(merge=2),
        decoder=Decoder.Config(vocab=257, width=128, depth=2, block=block(4, 128), norm=RMS, tied=True),
    )


def evals(count: int) -> list[Eval]:
    """Returns the four measures, each on `count` scenes of digits that were held out."""
    held_out = lambda source, **changes: dataclasses.replace(source, split='test', **changes)
    return [
        Eval('caption', held_out(SCENES, task='caption'), count=count, max_new_tokens=8),
        Eval('count', held_out(SCENES, task='count'), count=count, max_new_tokens=4),
        Eval('box', held_out(SCENES, task='find'), metric='box_iou', count=count, max_new_tokens=14),
        Eval('few_shot', held_out(NAMING), count=count, max_new_tokens=8),
    ]
