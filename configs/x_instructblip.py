# SPDX-License-Identifier: Apache-2.0
"""X-InstructBLIP: pictures, videos, sounds and shapes, each through queries of its own (Panagopoulou et al. 2023).

configs/x_instructblip.py:7b | 13b           published sizes
configs/x_instructblip.py:7b,data=asks.jsonl trains on a user's own, with {"features": "a.npy", "kind": "audio"}
configs/x_instructblip.py:debug              questions about digits that are seen, filmed, heard and felt, on a CPU

    <s>USER: image: [32 tokens] audio: [2 x 32 tokens] Which is louder?\\nASSISTANT: ...

Sounds are what BEATs gives (2 stretches of 256 vectors), shapes what ULIP-2's PointBERT gives (one vector): .npy files.
Videos (5 frames) are read by the pictures' tower, and here share its last norm. Kinds are trained one after the other;
numbers are those of the public files, the weights of sets rounded. Published, all queries begin as BLIP-2's and a
video's as the trained picture's; here both as InstructBLIP's.
"""

import dataclasses
import functools
import re

from configs import data, parts
from configs.args import parse
from configs.debug import fewer, shrink
from mmjax.config import Adamw, Eval, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.senses import Senses
from mmjax.data.tasks import Ask, Caption, Chat
from mmjax.models.regions import Regions
from mmjax.models.sense import Sense
from mmjax.models.vlm import Vlm
from mmjax.nn.layers import Norm
from mmjax.weights import blip2

# Rows, steps, and sets with their weights: captions ? questions.
STAGES = {
    'image': (64, 65_000, 'capfilt 29 cc12m 19 sbu 7 vg 7 coco 6 ? vg_vqa 9 ocrvqa 8 vqav2 6 llava 5 aokvqa 1 okvqa 1'),
    'audio': (64, 65_000, 'wavcaps 54 audiocaps 19 audioset 12 ? audiocaps_qa 15'),
    '3d': (128, 65_000, 'objaverse 62 ? objaverse_qa 38'),
    'video': (32, 15_000, 'msrvtt 100 webvid2m 65 ? msrvtt_qa 18'),
}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '7b', '13b')
    form, asking = templates.x_instructblip(), parts.qformer(instructed=True, most=24 if a.debug else 128)
    each, vectors = dataclasses.replace(asking, per_frame=True), functools.partial(Regions.Config, norm=Norm.Config())
    senses = {
        'video': Sense.Config(connector=each, frames=5),
        'audio': Sense.Config(encoder=vectors(width=768, most=512), connector=each, frames=2),
        '3d': Sense.Config(encoder=vectors(width=512, most=1), connector=asking),
    }
    model = Vlm.Config(encoder=parts.eva_g(), connector=asking, decoder=parts.vicuna(a.size, 32_001), senses=senses)
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/vicuna/tokenizer.model', form), max_tokens=512, max_media=1, max_senses=1,
        senses={kind: dataclasses.replace(form.image, before=f'{kind}: ') for kind in senses},
        image=form.image, text=form.text, beside=parts.beside(learnt=False), overlong='truncate',
    )  # fmt: skip
    weights, own = f'weights/instructblip-vicuna-{a.size}', ('encoder/.*', 'connector/.*', 'decoder/.*')
    video = Load(weights, ('senses/video/.*',), table=blip2.asking_table, part='senses/video')
    run = Run(model, layout, [stage(kind, a.data) for kind in STAGES], mesh=Mesh(1, -1, 1), remat='block',
              load=[Load(weights, own, table=blip2.vicuna_table), video], fresh=('senses/(audio|3d)/.*',))  # fmt: skip
    return small(shrink(run, chat=True)) if a.debug else run


def stage(kind: str, path: str) -> Stage:
    """The training of one kind: its queries, their map, and the norm before them."""
    (rows, steps, sets), found = STAGES[kind], []
    for task, some in zip((Caption(chat=True), Ask(questions=('{}',), chat=True)), sets.split(' ? '), strict=True):
        for name, weight in re.findall(r'(\w+) (\d+)', some):
            found.append(data.part(f'data/{name}/*.jsonl', int(weight) / 100, task=task))
    trainable = ('connector/.*', 'encoder/norm/.*') if kind == 'image' else (f'senses/{kind}/.*',)
    return Stage(kind, data.mix(path, *found), rows=rows, steps=steps, trainable=trainable,
                 optimizer=Adamw(peak_lr=1e-5, warmup=1000, weight_decay=0.05, b2=0.999))  # fmt: skip


def small(run: Run) -> Run:
    """Questions about one or two media, all parts trained at once."""
    scenes = lambda split, each=2: Senses.Config(split=split, each=each, digits=4)
    senses = run.model.senses = {kind: fewer(sense) for kind, sense in run.model.senses.items()}
    for kind, (most, width) in scenes('test').widths.items():
        senses[kind].encoder.width, senses[kind].encoder.most, senses[kind].frames = width, most, 1
    senses['video'].frames, run.model.decoder.depth = 2, 2
    run.model.encoder = dataclasses.replace(run.model.encoder, size=(16, 16), patch=4, width=64, position_std=0.5)
    run.layout.max_tokens, run.layout.max_media = 96, 1
    mix = Mix.Config(parts=[Part(source=scenes('train', each), task=Chat()) for each in (1, 2)])
    run.stages = [Stage('together', mix, rows=32, steps=800, optimizer=run.stages[0].optimizer)]
    run.evals = [Eval(name='senses', source=scenes('test'), task=Chat(), count=256, max_new_tokens=2)]
    return run
