# SPDX-License-Identifier: Apache-2.0
"""BLIP-2: queries learn to ask a frozen tower, then to speak to a frozen language model (Li et al. 2023).

configs/blip2.py:2.7b | 6.7b          published sizes, before OPT; the model is that of Salesforce/blip2-opt-*
configs/blip2.py:t5-xl | t5-xxl       before FLAN-T5, whose encoder reads the picture; Salesforce/blip2-flan-t5-*
configs/blip2.py:2.7b,data=pairs.tar  trains on a user's own captions
configs/blip2.py:debug                tries both stages on a CPU

    represent   [picture] beside [CLS] two cats [SEP]      contrast, verdict, caption: the Q-Former and its heads
    generate    [picture] </s>two cats\\n                   next token: the Q-Former and the map to the language model
                [picture] two</s> | <pad>cats</s>          before T5, captions are parted at some word

Numbers of the training are those of the paper (unverified). Its Q-Former starts from BERT; here it starts anew.
"""

import dataclasses

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Prefix
from mmjax.models.heads import Heads
from mmjax.models.vlm import Vlm
from mmjax.objectives.align import Align
from mmjax.weights import opt, t5

PAIRS = ('data/coco_captions/*.jsonl?text=caption', 'data/vg/*.jsonl?text=caption', 'data/cc3m_cc12m_sbu/*.tar')
LAION = 'data/laion_115m/*.tar'
REPRESENT = (r'connector/(?!out/).*',)
GENERATE = (r'connector/(?!heads/|words/|blocks/word_).*',)


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '2.7b', '6.7b', 't5-xl', 't5-xxl')
    kind, _, size = a.size.rpartition('-')
    form, language, prefix = templates.blip2(), parts.opt, None
    if kind:
        form, language, prefix = templates.t5(), parts.flan_t5, Prefix()
    model = Vlm.Config(encoder=parts.eva_g(), connector=parts.qformer(heads=Heads.Config()), decoder=language(size))
    weights = f'weights/flan-t5-{size}' if kind else f'weights/opt-{size}'
    layout = Layout.Config(
        tokenizer=parts.tokenizer(weights, form),
        max_tokens=64,  # one pair a row, so that rows are pairs
        max_media=1,
        image=form.image,
        text=form.text,
        beside=parts.beside(learnt=True),
        overlong='cut',
    )
    mix = lambda task=None: data.mix(
        a.data, *(data.part(path, task=task) for path in PAIRS), data.part(LAION, 5.0, task=task)
    )
    rate = dict(peak_lr=1e-4, weight_decay=0.05, b2=0.98)
    represent = Stage(
        'represent', mix(), rows=2320, steps=250_000, trainable=REPRESENT, objective=Align(),
        optimizer=Adamw(warmup=5000, end=0.1, **rate),
    )  # fmt: skip
    generate = Stage(
        'generate', mix(prefix), rows=1920, steps=80_000, trainable=GENERATE,
        optimizer=Adamw(warmup=2000, end=0.5, **rate),
    )  # fmt: skip
    table = t5.table if kind else opt.table
    loads = [parts.eva_g_weights(), Load(weights, ('decoder/.*',), table=table, part='decoder')]
    run = Run(
        model, layout, [represent, generate], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=('connector/.*',)
    )
    return small(shrink(run)) if a.debug else run


def small(run: Run) -> Run:
    """Pairs only, and nothing frozen in the second stage: neither tower nor language model has learnt anything yet."""
    run.layout.max_media, run.layout.max_tokens = 1, 48
    run.evals = [dataclasses.replace(e, metric='exact', max_new_tokens=8) for e in data.pair_evals()]
    run.stages = [dataclasses.replace(s, data=data.digit_pairs(), rows=32, steps=300) for s in run.stages]
    run.stages[0].trainable += ('encoder/.*',)
    run.stages[1].trainable += ('encoder/.*', 'decoder/.*')
    return run
