# SPDX-License-Identifier: Apache-2.0
"""InstructBLIP: the queries of BLIP-2 read the instruction beside the picture (Dai et al. 2023).

configs/instructblip.py:7b | 13b           published sizes, before Vicuna; Salesforce/instructblip-vicuna-*
configs/instructblip.py:t5-xl | t5-xxl     before FLAN-T5, whose encoder reads all but the answer
configs/instructblip.py:7b,data=asks.jsonl trains on a user's own questions
configs/instructblip.py:debug              tries all parts on a CPU

    [picture] beside [CLS] how many cats ? short answer : [SEP]
    [picture] <s>How many cats? Short answer: two</s>
    [picture] How many cats? Short answer: </s> | <pad>two</s>        before T5

Only the Q-Former and its map are trained, here from the public weights. Numbers of the training are those of the paper
(unverified), the weights of the sets are ours: the paper draws sets by the roots of their sizes.
"""

from configs import data, parts
from configs.args import parse
from configs.debug import in_place_of_loading, shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Ask, Caption
from mmjax.models.vlm import Vlm
from mmjax.weights import blip2

ROWS = {'t5-xl': 192, '7b': 128, 't5-xxl': 64, '13b': 64}
SHORT = ('{} Short answer: ', 'Question: {} Short answer: ', 'Given the image, answer: {} Answer: ')
DESCRIBE = ('A short image description: ', 'Write a short description for the image. ', 'Briefly describe the image. ')


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '7b', '13b', 't5-xl', 't5-xxl')
    if a.size.startswith('t5'):
        form, language, table = templates.t5(), parts.flan_t5(a.size.removeprefix('t5-')), blip2.t5_table
        name, words = f'flan-{a.size}', f'weights/flan-{a.size}'
    else:
        form, language, table = templates.blip2('<s>', '</s>'), parts.vicuna(a.size, vocab=32_001), blip2.vicuna_table
        name, words = f'vicuna-{a.size}', 'weights/vicuna/tokenizer.model'
    model = Vlm.Config(encoder=parts.eva_g(), connector=parts.qformer(instructed=True, most=128), decoder=language)
    layout = Layout.Config(
        tokenizer=parts.tokenizer(words, form),
        max_tokens=512,
        max_media=8,
        image=form.image,
        text=form.text,
        beside=parts.beside(learnt=False),
        overlong='cut' if form.text.output_start else 'truncate',
    )
    mix = data.mix(
        a.data,
        data.part('data/vqav2/*.jsonl?text=answer&prompt=question', 1.0, task=Ask(questions=SHORT)),
        data.part('data/coco_captions/*.jsonl?text=caption', 1.0, task=Caption(questions=DESCRIBE)),
        data.part('data/okvqa/*.jsonl?text=answer&prompt=question', 0.15, task=Ask(questions=SHORT)),
        data.part('data/ocrvqa/*.jsonl?text=answer&prompt=question', 1.4, task=Ask(questions=SHORT)),
    )
    tune = Stage(
        'tune', mix, rows=ROWS[a.size], steps=60_000, trainable=('connector/.*',),
        optimizer=Adamw(peak_lr=1e-5, warmup=1000, weight_decay=0.05, b2=0.999),
    )  # fmt: skip
    load = Load(f'weights/instructblip-{name}', table=table)
    run = Run(model, layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=[load])
    return in_place_of_loading(shrink(run)) if a.debug else run
