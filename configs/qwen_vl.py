# SPDX-License-Identifier: Apache-2.0
"""Qwen-VL: a grid of 256 queries reads each picture for a language model (Bai et al. 2023).

configs/qwen_vl.py                  448 pixels: learns seven tasks, then chats; the model is that of Qwen/Qwen-VL-Chat
configs/qwen_vl.py:224              224 pixels: learns captions while the language model rests; comes first
configs/qwen_vl.py:data=chat.jsonl  trains on a user's own chats
configs/qwen_vl.py:debug            tries all parts on a CPU

    Picture 1: <img> [256 places] </img>
    Where is <ref>the cat</ref>? <box>(123,456),(789,987)</box>

Steps, batches and rates are the paper's, the last two as seen in excerpts (unverified).
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Locate
from mmjax.models.grid_resampler import GridResampler
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.weights import qwen_vl

REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'


def get_config(arg: str = '') -> Run:
    """Returns the run of a picture size."""
    a = parse(arg, '448', '224')
    form, codec = templates.chatml(), dialects.qwen_vl()
    heads = Attention.Config(heads=32, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    model = Vlm.Config(
        encoder=vl_parts.bigg(int(a.size)),
        connector=GridResampler.Config(attn=heads, norm=qwen_vl.NORM),
        decoder=vl_parts.qwen1(),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/qwen-vl', form, codec),
        max_tokens=2048,
        max_media=6,
        image=form.image,
        text=form.text,
        coordinates=codec,
        overlong='truncate',
    )
    pairs = data.mix(a.data, data.part('data/laion/*.tar'), data.part('data/coyo/*.tar'))
    tasks = data.mix(
        a.data,
        data.part('data/laion/*.tar'),
        data.part('data/vqav2/*.jsonl?text=answer&prompt=question', 0.5),
        data.part(REFERRING, 0.5, task=Locate()),
        data.part('data/pile/*.jsonl', 0.2),
    )
    chats = data.mix(a.data, data.part('data/qwen_vl_chats/*.json?format=chat&images_first=true'))
    rate = dict(schedule='cosine', weight_decay=0.05, b2=0.98, eps=1e-6)
    # The table of places is a constant of the published model.
    words, rest = ('decoder/.*',), ('encoder/.*', 'connector/(?!position).*')
    align = Stage('align', pairs, rows=30_720, steps=50_000, accumulate=16, trainable=rest,
                  optimizer=Adamw(peak_lr=2e-4, warmup=500, **rate))  # fmt: skip
    learn = Stage('learn', tasks, rows=4_096, steps=19_000, accumulate=4, trainable=rest + words,
                  optimizer=Adamw(peak_lr=5e-5, warmup=400, **rate))  # fmt: skip
    chat = Stage('chat', chats, rows=128, steps=8_000, trainable=words + rest[1:],
                 optimizer=Adamw(peak_lr=1e-5, warmup=3_000, **{**rate, 'weight_decay': 0.1, 'b2': 0.95}))  # fmt: skip
    if a.size == '224':
        load = [Load('weights/qwen-7b', paths=words, table=qwen_vl.decoder_table, part='decoder'),
                Load('weights/vit-bigg', paths=rest[:1], table=qwen_vl.vision_table, part='encoder')]  # fmt: skip
        return Run(model, layout, [align], mesh=Mesh(1, -1, 1), remat='block', load=load, fresh=('connector/.*',))
    # The tables of places belong to no picture size, so the weights of 224 pixels fit.
    load = [Load('runs/qwen_vl_224')]
    run = Run(model, layout, [learn, chat], mesh=Mesh(1, -1, 1), remat='block', load=load)
    return shrink(run, chat=True) if a.debug else run
