# SPDX-License-Identifier: Apache-2.0
"""Florence-2: one encoder-decoder answers in words and places, whatever is asked of a picture (Xiao et al. 2023).

configs/florence2.py:base | large           published sizes; the model is that of florence-community/Florence-2-*
configs/florence2.py:base,data=coco.jsonl   trains on a user's own captions
configs/florence2.py:debug                  tries all parts on a CPU, and learns there to find digits in 600 steps

    [577 places] <s>What does the image describe?</s>        | </s><s>Two cats on a sofa.</s>
    [577 places] <s>Locate a cat in the image.</s>           | </s><s>a cat<loc_52><loc_334><loc_932><loc_774></s>

It goes on from the public weights, at 768 pixels. Those come from three billion samples at 384 pixels, then half a
billion (base) or a tenth of one (large) at 768, of 126 million pictures whose annotations were never released; rates,
batches and sample counts are those of the paper (unverified), the sets here stand in for its own.
"""

import dataclasses

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Caption, Locate
from mmjax.weights import florence2

SAMPLES, ROWS = {'base': 500_000_000, 'large': 100_000_000}, {'base': 2_048, 'large': 3_072}
DESCRIBE = {
    'coco_captions': 'What does the image describe?',
    'paragraphs': 'Describe with a paragraph what is shown in the image.',
}
REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *ROWS)
    form, codec, weights = templates.bart(), dialects.florence_2(), f'weights/florence-2-{a.size}'
    layout = Layout.Config(
        tokenizer=parts.tokenizer(weights, form, codec),
        max_tokens=1024,  # as many as there are positions
        max_media=1,
        image=form.image,
        text=form.text,
        coordinates=codec,
        overlong='cut',
    )
    told = [
        data.part(f'data/{name}/*.jsonl?text=caption', task=Caption(questions=(q,))) for name, q in DESCRIBE.items()
    ]
    located = data.part(REFERRING, task=Locate(questions=('Locate {} in the image.',), named=True))
    rows = ROWS[a.size]
    optimizer = Adamw(peak_lr=1e-4, warmup=5_000, weight_decay=0.05, b2=0.999)
    tune = Stage(
        'tune', data.mix(a.data, *told, located), rows, SAMPLES[a.size] // rows, accumulate=4, optimizer=optimizer
    )
    load = Load(weights, table=florence2.table)
    run = Run(vl_parts.florence2(a.size), layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=[load])
    return small(shrink(run)) if a.debug else run


def small(run: Run) -> Run:
    """Scenes of digits, one a row, to read and to find."""
    run.model.encoder.size = (24, 24)
    words = run.model.decoder.decoder
    # A narrow tied table names words sooner when it begins wide.
    run.model.decoder.encoder.depth, words.depth, words.embed_std = 1, 2, 0.1
    run.layout.max_tokens, run.layout.max_media = 80, 1
    mix, (find,) = data.digit_pairs(), data.digit_pairs().parts[:1]
    find.source.task, mix.parts[0].weight = 'find', 3.0
    mix.parts.append(find)
    rate = Adamw(peak_lr=1.5e-3, warmup=60, b2=0.95)
    run.stages = [dataclasses.replace(run.stages[0], data=mix, rows=32, steps=600, optimizer=rate)]
    evals = [dataclasses.replace(e, metric='exact', max_new_tokens=8) for e in data.pair_evals()]
    held_out = dataclasses.replace(evals[0].source, task='find')
    run.evals = [*evals, dataclasses.replace(evals[0], name='find', source=held_out, metric='box_iou', constrain=True)]
    return run
