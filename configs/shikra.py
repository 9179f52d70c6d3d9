# SPDX-License-Identifier: Apache-2.0
"""Shikra: a chat model that reads and writes boxes as plain decimals (Chen et al. 2023).

configs/shikra.py:7b | 13b  published sizes
configs/shikra.py:debug     tries all parts on a CPU

    USER: <im_start> [256 places] <im_end> Where is the cat? ASSISTANT: [0.123,0.456,0.789,0.987]</s>

Numbers of the training are those of its public configs, unless they are marked (unverified).
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Caption, Locate, Name
from mmjax.models import connector
from mmjax.models.vlm import Vlm

WHERE = ('Where is {}?', 'Where is {}? answer in [x0,y0,x1,y1] format.')
REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '7b', '13b')
    form, codec = templates.shikra(), dialects.shikra()
    model = Vlm.Config(
        encoder=parts.clip_l(224, layer=-2, normed=False),
        connector=connector.Linear.Config(),
        decoder=parts.vicuna(a.size, vocab=32_003),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/vicuna/tokenizer.model', form, codec),
        max_tokens=2048,
        max_media=8,
        image=form.image,
        text=form.text,
        coordinates=codec,
        fit='pad',  # to a square, and boxes with it
        overlong='truncate',
    )
    # Weights of the parts are ours.
    regions = [
        data.part(REFERRING, task=Locate(questions=WHERE, chat=True)),
        data.part(REFERRING, task=Name(chat=True)),
        data.part('data/flickr30k_entities/*.jsonl', task=Caption(chat=True)),
    ]
    chats = data.part('data/llava_158k/*.json?format=chat&images_first=true')
    # 3 % of the steps are warmup. The paper's batches and steps (unverified).
    rate = dict(peak_lr=2e-5, schedule='cosine', b2=0.999)
    trainable = ('connector/.*', 'decoder/.*')
    learn = Stage(
        'learn',
        data.mix(a.data, *regions),
        rows=64,
        steps=100_000,
        trainable=trainable,
        optimizer=Adamw(warmup=3000, **rate),
    )
    tune = Stage(
        'tune',
        data.mix(a.data, chats, *regions),
        rows=64,
        steps=20_000,
        trainable=trainable,
        optimizer=Adamw(warmup=600, **rate),
    )
    loads = [parts.clip_l_weights(224), parts.vicuna_weights(a.size)]
    run = Run(model, layout, [learn, tune], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=('connector/.*',))
    return shrink(run, chat=True) if a.debug else run
