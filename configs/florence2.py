# SPDX-License-Identifier: Apache-2.0
"""Florence-2: one encoder-decoder answers in words and places, whatever is asked of a picture (Xiao et al. 2023).

configs/florence2.py:base | large           published sizes; the model is that of florence-community/Florence-2-*
configs/florence2.py:base,data=coco.jsonl   trains on a user's own captions
configs/florence2.py:debug                  tries all parts on a CPU

    [577 places] <s>What does the image describe?</s>        | </s><s>Two cats on a sofa.</s>
    [577 places] <s>Locate a cat in the image.</s>           | </s><s>a cat<loc_52><loc_334><loc_932><loc_774></s>

It goes on from the public weights, at 768 pixels. Those come from three billion samples at 384 pixels, then half a
billion (base) or a tenth of one (large) at 768, of 126 million pictures whose annotations were never released; rates,
batches and sample counts are those of the paper (unverified), the sets here stand in for its own.
"""

import dataclasses

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Caption, Locate
from mmjax.weights import florence2

WORDS = 51_328  # BART's 50,265, 1,000 places, 24 signs, the picture's, and as many as make a multiple of 64
TOWER = {
    'base': {},
    'large': dict(embed_dim=(256, 512, 1024, 2048), num_heads=(8, 16, 32, 64), num_groups=(8, 16, 32, 64)),
}
# Width, layers of each stack, heads, width of MLPs.
STACKS = {'base': (768, 6, 12, 3072), 'large': (1024, 12, 16, 4096)}
SAMPLES, ROWS = {'base': 500_000_000, 'large': 100_000_000}, {'base': 2_048, 'large': 3_072}
DESCRIBE = {
    'coco_captions': 'What does the image describe?',
    'detailed': 'Describe in detail what is shown in the image.',
    'paragraphs': 'Describe with a paragraph what is shown in the image.',
}
REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'


def public(size: str) -> dict:
    """The config.json of a size, without what the public class takes anyway."""
    width, layers, heads, mlp = STACKS[size]
    sides = {f'{side}_{name}': n for side in ('encoder', 'decoder') for name, n in
             (('layers', layers), ('attention_heads', heads), ('ffn_dim', mlp))}  # fmt: skip
    return dict(vision_config=TOWER[size], text_config=dict(d_model=width, vocab_size=WORDS, **sides))


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *STACKS)
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
    run = Run(florence2.config(public(a.size)), layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=[load])
    return small(shrink(run)) if a.debug else run


def small(run: Run) -> Run:
    """Enough rows and steps to read digits and find them."""
    mix = data.digits(boxes=True)
    mix.parts = [part for part in mix.parts if part.source.task != 'few_shot']
    run.stages = [dataclasses.replace(run.stages[0], data=mix, rows=16, steps=400)]
    return run
