# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5: an MLP maps the features of a frozen tower into a chat model (Liu et al. 2023).

configs/llava.py:7b | 13b           published sizes; the model is that of llava-hf/llava-1.5-*-hf
configs/llava.py:7b,data=chat.jsonl trains on a user's own chats
configs/llava.py:debug              tries all parts on a CPU

Numbers of the training are those of its public scripts.
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.models import connector
from mmjax.models.vlm import Vlm

CAPTIONS = 'data/lcs_558k/blip_laion_cc_sbu_558k_meta.json?text=blip_caption'
CHATS = 'data/llava_665k/llava_v1_5_mix665k.json?format=chat&images_first=true'


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '7b', '13b')
    form, codec = templates.vicuna(), dialects.llava()
    model = Vlm.Config(
        encoder=parts.clip_l(336, layer=-2, normed=False),
        connector=connector.Mlp.Config(),
        decoder=parts.vicuna(a.size, vocab=32_064, eps=1e-5),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/vicuna/tokenizer.model', form, codec),
        max_tokens=2048,
        max_media=8,
        image=form.image,
        text=form.text,
        coordinates=codec,
        fit='pad',  # to a square, in the mean colour
        overlong='truncate',
    )
    # One pass over 558 thousand captions, without questions; warmup is 3 % of the steps.
    align = Stage(
        'align',
        data.mix(a.data, data.part(CAPTIONS)),
        rows=256,
        steps=2180,
        trainable=('connector/.*',),
        optimizer=Adamw(peak_lr=1e-3, warmup=66, b2=0.999),
    )
    # One pass over 665 thousand chats.
    chat = Stage(
        'chat',
        data.mix(a.data, data.part(CHATS)),
        rows=128,
        steps=5197,
        trainable=('connector/.*', 'decoder/.*'),
        optimizer=Adamw(peak_lr=2e-5, warmup=156, b2=0.999),
    )
    run = Run(
        model,
        layout,
        [align, chat],
        mesh=Mesh(1, -1, 1),
        remat='block',
        load=[parts.clip_l_weights(336), parts.vicuna_weights(a.size)],
        fresh=('connector/.*',),
    )
    return shrink(run, chat=True) if a.debug else run
