# SPDX-License-Identifier: Apache-2.0
"""KOSMOS-2.5: pages read at their own shape, as lines with boxes or as markdown (Lv et al. 2023).

configs/kosmos25.py                      the published size; the model is that of microsoft/kosmos-2.5
configs/kosmos25.py:1.3b,data=x.jsonl    trains on a user's own pages, as lines with boxes
configs/kosmos25.py:debug                finds digits, in minutes on a CPU; to name them takes it longer

    <s><image> [2048 places] </image><ocr><bbox><x_53><y_573><x_69><y_606></bbox>1
    <bbox><x_79><y_573><x_464><y_612></bbox>BLACK SAKURA</s>
    <s><image> [2048 places] </image><md># Heading</s>

A page is made as large as 4,096 patches of 16 x 16 pixels allow; its boxes are pixels of that size. The pages that the
published model was trained on are not public; numbers of the training are those of the paper (unverified).
"""

import dataclasses

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Eval, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.tasks import Chat
from mmjax.weights import kosmos25

LINES, MARKDOWN = Chat(speaker='ocr'), Chat(speaker='md')


def get_config(arg: str = '') -> Run:
    """Returns the run."""
    a = parse(arg, '1.3b')
    form, codec = templates.kosmos25(), dialects.kosmos_2_5()
    if a.debug:
        codec = dataclasses.replace(codec, last=47)
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/kosmos-2.5', form, codec),
        max_tokens=4096,
        max_media=1,
        image=form.image,
        text=form.text,
        coordinates=codec,
        fit='budget',
        overlong='cut',
    )
    lines = data.part('data/page_lines/*.jsonl', task=LINES)
    markdown = data.part('data/page_markdown/*.jsonl?text=markdown', task=MARKDOWN)
    rate = dict(peak_lr=2e-4, warmup=375, schedule='linear', weight_decay=0.01, b2=0.98)
    stages = [
        Stage('lines', data.mix(a.data, lines), rows=1024, steps=100_000, accumulate=8, optimizer=Adamw(**rate)),
        Stage(
            'both', data.mix(a.data, lines, markdown), rows=1024, steps=140_000, accumulate=8, optimizer=Adamw(**rate)
        ),
    ]
    run = Run(
        kosmos25.config(dict(text_config={}, vision_config={})), layout, stages, mesh=Mesh(1, -1, 1), remat='block'
    )
    return small(shrink(run)) if a.debug else run


def small(run: Run) -> Run:
    """Scenes of three shapes, as many patches each, first of one digit and then of up to two."""
    run.model.connector.queries, run.model.decoder.depth = 16, 2

    def stage(name: str, most: int, steps: int) -> Stage:
        scenes = [
            scene(*shape, task=task, most=most)
            for shape in ((24, 24), (16, 36), (36, 16))
            for task in ('read', 'caption')
        ]
        mix = Mix.Config(parts=[Part(source=s, task=LINES if s.task == 'read' else MARKDOWN) for s in scenes])
        return dataclasses.replace(run.stages[0], name=name, data=mix, rows=4, steps=steps)

    test = lambda task: scene(16, 36, task=task, most=1, split='test')
    run.stages = [stage('lines', 1, 800), stage('both', 2, 800)]
    run.evals = [
        Eval('lines', test('read'), LINES, metric='box_iou', count=128, max_new_tokens=10),
        Eval('markdown', test('caption'), MARKDOWN, count=128, max_new_tokens=4),
    ]
    return run


def scene(height: int, width: int, **changes) -> Digits.Config:
    """Digits on a quiet ground."""
    return Digits.Config(height=height, width=width, smallest=10, largest=11, colour=0.2, **changes)
