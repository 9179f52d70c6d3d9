# SPDX-License-Identifier: Apache-2.0
"""The first run: a small model that reads scenes of handwritten digits, on built-in data, in minutes on two CPU cores.

    mmjax train --config=configs/quickstart.py           the table of the README
    mmjax train --config=configs/quickstart.py:long      half an hour, and names are learnt too
    mmjax train --config=configs/quickstart.py:smoke     a few steps, to see that all of it runs

Three stages: scenes of one digit teach what digits look like, scenes of up to three to read from left to right; then
one mixture of interleaved documents asks about scenes (which digits; how many; where one stands), and few-shot naming
lets scenes and made-up names alternate. Names take a decoder of four layers and a stage of their own, so they are
learnt by the longer run only. Only answers are learnt. The scenes that are judged show digits that training never saw.
"""

import dataclasses

from mmjax.config import Adamw, Checkpoints, Eval, Log, Run, Stage
from mmjax.data.coordinates import Numbers
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.echo import Echo
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

# Steps of captions of one digit and of several, of the first stage that leads to names, of the mixture.
SIZES = {'': (450, 1100, 0, 1650), 'long': (450, 1100, 750, 3500), 'smoke': (5, 5, 0, 10)}
RMS = Norm.Config(kind='rms')
SCENES = Digits.Config(height=24, width=24, smallest=10, largest=11, colour=0.2)
# Ten points a side, one digit each: a box is x0 y0 x1 y1, four characters.
TENTHS = Numbers(steps=9, last=9, box='{x0}{y0}{x1}{y1}', join=' ')


def get_config(arg: str = '') -> Run:
    """Returns the run; `arg` is '', 'long' or 'smoke'."""
    if arg not in SIZES:
        raise ValueError(f'quickstart has no size {arg!r}, known are {", ".join(filter(None, SIZES))}, or none')
    one, several, naming, mixed = SIZES[arg]
    stages = [
        stage('one digit', [ask('caption', 1.0, most=1)], one),
        # Reading comes first: a decoder that knows which digits stand where learns within a thousand steps to find
        # the one that was asked for, and one that does not learns to box any.
        stage('several digits', [ask('caption', 1.0)], several),
        *(names(naming) if naming else ()),
        stage(
            'all',
            [
                ask('caption', 2.5),
                ask('find', 4.0, least=2),  # boxing the only digit would not need the label
                ask('count', 0.2),
                *([few_shot(0.3), few_shot(0.3, written=0.5)] if naming else [ask('few_shot', 0.1, most=1, shots=2)]),
            ],
            mixed,
            'cosine',
            1e-3,
        ),
    ]
    return Run(
        model=model(4 if naming else 2),
        layout=Layout.Config(
            tokenizer=Bytes.Config(special=('<image>',)),
            max_tokens=192,
            max_media=12 if naming else 8,
            text=TextFormat(end='\n'),
            coordinates=TENTHS,
        ),
        stages=stages,
        compute_dtype='float32',  # CPUs have no fast bfloat16
        remat='dots',
        evals=evals(16 if arg == 'smoke' else 256),
        checkpoint=Checkpoints(every_steps=500),
        log=Log(every_steps=20),
    )


def ask(task: str, weight: float, **changes) -> Part:
    """Returns one kind of documents in a mixture."""
    return Part(source=dataclasses.replace(SCENES, task=task, **changes), weight=weight)


def few_shot(weight: float, written: float = 0.0) -> Part:
    """Returns few-shot naming of two digits by four pictures each."""
    return ask('few_shot', weight, most=1, shots=4, written=written)


def names(steps: int) -> list[Stage]:
    """Returns the stages that lead to names: what was said before is looked up for letters, digits, then pictures."""
    echo, caption = lambda weight: Part(source=Echo.Config(), weight=weight), ask('caption', 0.3)
    return [
        stage('echo', [echo(1.0)], steps),
        stage('written', [echo(1.0), few_shot(1.0, written=1.0), caption], 2 * steps),
        stage('half written', [echo(0.3), few_shot(1.0, written=0.5), caption], 2 * steps),
        stage('names', [echo(0.2), few_shot(1.0), few_shot(1.0, written=0.5), caption], 2 * steps),
    ]


def stage(name: str, parts: list[Part], steps: int, schedule: str = 'constant', lr: float = 7e-4) -> Stage:
    """Returns a stage of small batches: the steps count here, not the tokens."""
    optimizer = Adamw(peak_lr=lr, warmup=min(60, steps // 2), schedule=schedule, b2=0.95)
    return Stage(name, Mix.Config(parts=parts), rows=4, steps=steps, optimizer=optimizer)


def model(depth: int) -> Vlm.Config:
    """Returns an encoder whose squares of four patches become one token, and a decoder of so many layers."""
    block = lambda heads, width: Block.Config(
        attn=Attention.Config(heads=heads), mlp=Mlp.Config(width=4 * width, act='relu', bias=False), norm=RMS
    )
    mean, std = (0.2,) * 3, (0.25,) * 3  # of the scenes, about
    # ReLU, since XLA on CPUs computes other activations anew several times in the backward pass: half the step.
    return Vlm.Config(
        encoder=Vit.Config(
            size=(24, 24),
            patch=4,
            stem=(16,),
            overlap=1,
            width=96,
            depth=2,
            block=block(4, 96),
            norm=RMS,
            mean=mean,
            std=std,
        ),
        connector=connector.Linear.Config(merge=2),
        # Adam moves an entry by the learning rate a step: a table of deviation 0.02 would be another one after 30. Tied
        # tables read sooner.
        decoder=Decoder.Config(
            vocab=257, width=128, depth=depth, block=block(4, 128), norm=RMS, tied=True, embed_std=0.1, embed_scale=5.0
        ),
    )


def evals(count: int) -> list[Eval]:
    """Returns the four measures, each on `count` scenes of digits that were held out."""
    held_out = lambda task, **changes: dataclasses.replace(SCENES, task=task, split='test', **changes)
    return [
        Eval('caption', held_out('caption'), count=count, max_new_tokens=8),
        Eval('count', held_out('count'), count=count, max_new_tokens=4),
        Eval('box', held_out('find'), metric='box_iou', count=count, max_new_tokens=8),
        Eval('few_shot', held_out('few_shot', most=1, shots=2), count=count, max_new_tokens=8),
    ]
