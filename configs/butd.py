# SPDX-License-Identifier: Apache-2.0
"""Bottom-up and top-down attention: a question looks at what a detector found (Anderson et al. 2018).

configs/butd.py:relu | tanh       the public re-implementation (1,024 wide, relu); the paper's head (512, gated tanh)
configs/butd.py:relu,data=x.jsonl trains on a user's own questions: {"pieces": [{"features": "a.npy"},
                                  {"text": "Is it red?", "weight": 0}, {"text": "yes"}], "answers": ["yes", "no", ...]}
configs/butd.py:debug             questions about digits, each cut from its scene as a detector would, on a CPU

    [36 vectors of a Faster R-CNN] beside   is it red ?      scores of 3,129 answers

Features are those of the detector's public files: boxes as vectors of 2,048 numbers. Words start anew, not from GloVe,
and without dropout, which the public code has. Numbers of its training are those of its instructions; the batches of
the paper's are (unverified).
"""

import dataclasses

from configs import data, parts
from configs.args import parse
from mmjax.config import Adamw, Checkpoints, Eval, Log, Mesh, Run, Stage
from mmjax.data.answer_list import AnswerList
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.cut import Cut, width
from mmjax.data.sources.digits import LIST, Digits
from mmjax.data.templates import TextFormat
from mmjax.data.tokenizer import Bytes
from mmjax.models.regions import Regions
from mmjax.models.topdown import TopDown
from mmjax.nn.gated_layer import Layer
from mmjax.objectives.answers import Answers

QUESTIONS = 443_757  # of VQA v2's training part
# Width, width before the answers, what joins region and question, the layers; rows.
SIZES = {
    'relu': (1024, 2048, 'product', Layer.Config(normed=True), 512),
    'tanh': (512, 512, 'concat', Layer.Config(gated=True, normed=True), 384),
}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    wide, hidden, joint, layer, rows = SIZES[a.size]
    model = TopDown.Config(
        encoder=Regions.Config(), vocab=19_902, answers=3129, width=wide, hidden=hidden, layer=layer, joint=joint,
    )  # fmt: skip
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/vqa_words'),
        max_tokens=14,
        max_media=1,
        answers=AnswerList.Config(path='data/vqa2/answers.txt'),
        overlong='cut',
    )
    stage = Stage(
        'questions', data.mix(a.data, data.part('data/vqa2/train.jsonl')), rows=rows, steps=30 * QUESTIONS // rows,
        optimizer=Adamw(peak_lr=2e-3, warmup=0, weight_decay=0.0, clip=0.25, schedule='constant'), objective=Answers(),
    )  # fmt: skip
    run = Run(model, layout, [stage], mesh=Mesh(-1, 1, 1))
    return small(run) if a.debug else run


def small(run: Run) -> Run:
    """Questions of bytes about digits, twelve answers; the control sees another scene with as many digits."""
    scenes = lambda split: Cut.Config(source=Digits.Config(task='ask', split=split, least=2, colour=0.2))
    encoder = Regions.Config(width=width(8), most=3)
    run.model = dataclasses.replace(
        run.model, encoder=encoder, vocab=256, answers=len(LIST), word_width=32, width=64, hidden=64
    )
    run.layout = Layout.Config(
        tokenizer=Bytes.Config(), max_tokens=16, max_media=1, text=TextFormat(), answers=AnswerList.Config(words=LIST)
    )
    optimizer = Adamw(peak_lr=3e-3, warmup=20)
    mix = Mix.Config(parts=[Part(source=scenes('train'))])
    run.stages = [dataclasses.replace(run.stages[0], data=mix, rows=32, steps=1500, optimizer=optimizer)]
    run.evals = [Eval(name='ask', source=scenes('test'), count=256)]
    return dataclasses.replace(
        run, compute_dtype='float32', checkpoint=Checkpoints(every_steps=500), log=Log(every_steps=50)
    )
