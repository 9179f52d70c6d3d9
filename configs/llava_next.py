# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT and OneVision: LLaVA that reads an overview and tiles of each picture (Liu et al. 2024, Li et al. 2024).

configs/llava_next.py:7b | 13b           CLIP and Vicuna; the model is that of llava-hf/llava-v1.6-vicuna-*-hf
configs/llava_next.py:ov-7b              SigLIP and Qwen2; the model is that of llava-hf/llava-onevision-qwen2-7b-ov-hf
configs/llava_next.py:7b,data=chat.jsonl trains on a user's own chats
configs/llava_next.py:debug              tries all parts on a CPU

    [576 places of the overview] [rows of all tiles, each with a learned token at its end]

Batches, rates and passes (unverified). OneVision's largest pictures, of 10 to 36 tiles, are given at most nine.
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.tiles import Tiles
from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.optim import Group

CAPTIONS = 'data/lcs_558k/blip_laion_cc_sbu_558k_meta.json?text=blip_caption'
CHATS = 'data/llava_next_760k/*.json?format=chat&images_first=true'
UP_TO_9 = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7) if rows * columns <= 9)


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '7b', '13b', 'ov-7b')
    one = a.size == 'ov-7b'
    form, tiles = templates.chatml() if one else templates.vicuna(), Tiles(grids=UP_TO_9, side=384) if one else Tiles()
    if one:
        form.image = templates.ImageFormat(after='\n')
        encoder, decoder = vl_parts.siglip(vl_parts.SIGLIP_SO_26, 384, layer=-1, features_normed=False), parts.qwen2()
    else:
        encoder, decoder = parts.clip_l(336, layer=-2, normed=False), parts.vicuna(a.size, vocab=32_064, eps=1e-5)
    model = Vlm.Config(
        encoder=encoder, connector=connector.Mlp.Config(), decoder=decoder, frames=1 + tiles.most, newline=True
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/qwen2-7b' if one else 'weights/vicuna/tokenizer.model', form),
        max_tokens=8192 if one else 4096,
        max_media=4,
        image=form.image,
        text=form.text,
        tiles=tiles,
        overlong='truncate',
    )
    align = Stage('align', data.mix(a.data, data.part(CAPTIONS)), rows=256, steps=2_180, trainable=('connector/.*',),
                  optimizer=Adamw(peak_lr=1e-3, warmup=66, b2=0.999))  # fmt: skip
    tower = Group(paths=('encoder/.*',), lr_scale=0.1)
    chat = Stage('chat', data.mix(a.data, data.part(CHATS)), rows=128, steps=5_940,
                 optimizer=Adamw(peak_lr=2e-5, warmup=178, b2=0.999, groups=[tower]))  # fmt: skip
    load = vl_parts.onevision_weights() if one else [parts.clip_l_weights(336), parts.vicuna_weights(a.size)]
    fresh = ('connector/.*', 'newline')
    run = Run(model, layout, [align, chat], mesh=Mesh(1, -1, 1), remat='block', load=load, fresh=fresh)
    return shrink(run, chat=True) if a.debug else run
