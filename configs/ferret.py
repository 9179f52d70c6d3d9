# SPDX-License-Identifier: Apache-2.0
"""Ferret: regions of any shape are referred to by their coordinates and a token of their own (You et al. 2023).

configs/ferret.py:7b | 13b          published sizes
configs/ferret.py:7b,data=x.jsonl   trains on a user's own regions
configs/ferret.py:debug             tries all parts on a CPU, on digits that are pointed at

    USER: [576 places]
    What is in [123, 456, 789, 987] <region_fea>? ASSISTANT: a cat [101, 203, 405, 607].</s>

512 points inside of a region read the tower's features; 128 of them gather what lies around each, 32 of those again.
Only regions that are read have a token; those that are learnt are coordinates alone. The map to words starts from
LLaVA's first stage where there is one.
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
from mmjax.data.tasks import Caption, Locate, Name
from mmjax.models import connector
from mmjax.models.region_sampler import RegionSampler
from mmjax.models.vlm import Vlm

SYSTEM = (
    'A chat between a human and an AI that understands visuals. In images, [x, y] denotes points: top-left [0, 0], '
    'bottom-right [width-1, height-1]. Increasing x moves right; y moves down. Bounding box: [x1, y1, x2, y2]. '
    'Image size: 1000x1000. Follow instructions. '
)
WHERE = ('What is the location of {} in the image?',)
REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '7b', '13b')
    form, codec = templates.vicuna(), dialects.ferret()
    form.text.system = SYSTEM
    model = Vlm.Config(
        encoder=parts.clip_l(336, layer=-2, normed=False),
        connector=connector.Linear.Config(),
        region_sampler=RegionSampler.Config(),
        decoder=parts.vicuna(a.size, vocab=32_002),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/vicuna/tokenizer.model', form, codec),
        max_tokens=2048,
        max_media=2,
        max_regions=16,
        image=form.image,
        text=form.text,
        coordinates=codec,
        overlong='truncate',
    )
    layout.tokenizer.special += (layout.region,)
    # GRIT is not public as a whole; weights of the parts are ours. 1.1 million documents, three times.
    grit = data.mix(
        a.data,
        data.part(REFERRING, task=Name(chat=True)),
        data.part(REFERRING, task=Locate(questions=WHERE, chat=True)),
        data.part('data/flickr30k_entities/*.jsonl', task=Caption(chat=True)),
        data.part('data/llava_158k/*.json?format=chat&images_first=true'),
    )
    rate = Adamw(peak_lr=2e-5, warmup=775, schedule='cosine', b2=0.999)
    trained = ('connector/.*', 'region_sampler/.*', 'decoder/.*')
    tune = Stage('tune', grit, rows=128, steps=25_800, trainable=trained, optimizer=rate)
    loads = [parts.clip_l_weights(336), parts.vicuna_weights(a.size)]
    fresh = ('connector/.*', 'region_sampler/.*')
    run = Run(model, layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=fresh)
    return small(shrink(run, chat=True)) if a.debug else run


def small(run: Run) -> Run:
    """Scenes of two and three digits, each of which may be asked for; nothing is frozen."""
    scenes = Digits.Config(task='read', height=24, width=24, smallest=10, largest=11, colour=0.2, least=2)
    asked = Name(questions=('What is in {}?',), chat=True)
    tower = dict(size=(24, 24), patch=4, width=64, stem=(16,), overlap=1)
    run.layout.text.system, run.model.connector.merge = '', 2
    run.model.encoder = dataclasses.replace(run.model.encoder, **tower)
    mix = Mix.Config(parts=[Part(source=scenes, task=asked)])
    run.stages = [dataclasses.replace(run.stages[0], data=mix, trainable=('.*',))]
    test = dataclasses.replace(scenes, split='test')
    run.evals = [Eval('name', test, asked, count=128, max_new_tokens=4)]
    return run
