# SPDX-License-Identifier: Apache-2.0
"""SmolVLM: few tokens a picture for a small language model, by wide squares of features (Marafioti et al. 2025).

configs/smolvlm.py:256m | 2.2b            published sizes; the models are those of HuggingFaceTB/SmolVLM-*-Instruct
configs/smolvlm.py:256m,data=chat.jsonl   trains on a user's own chats
configs/smolvlm.py:debug                  tries all parts on a CPU

    <|im_start|>User:<fake_token_around_image><global-img> [64 places] <fake_token_around_image>
    words<end_of_utterance>\\nAssistant: words<end_of_utterance>

A picture is one tile, the overview; published checkpoints put tiles of larger pictures before it.
The training below is ours: it tunes the public weights.
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.weights import llama, smolvlm

# Tower, side of a tile, side of the squares, language model.
SIZES = {'256m': (vl_parts.SIGLIP_B, 512, 4, '135m'), '2.2b': (vl_parts.SIGLIP_SO, 384, 3, '1.7b')}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    tower, side, merge, words = SIZES[a.size]
    form = templates.smolvlm()
    model = Vlm.Config(
        encoder=vl_parts.siglip(tower, side),
        connector=connector.Linear.Config(bias=False, merge=merge),
        decoder=llama.config({**vl_parts.SMOLLM2[words], 'rms_norm_eps': 1e-5, 'vocab_size': 49_280}),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer(f'weights/smolvlm-{a.size}', form),
        max_tokens=8192,
        max_media=64,
        image=form.image,
        text=form.text,
        overlong='truncate',
    )
    chats = data.mix(
        a.data,
        data.part('data/the_cauldron/*.json?format=chat&images_first=true'),
        data.part('data/docmatix/*.json?format=chat&images_first=true', 0.4),
    )
    rate = Adamw(peak_lr=1e-4, warmup=250, schedule='linear', weight_decay=0.01, b2=0.999)
    tune = Stage('tune', chats, rows=128, steps=5_000, optimizer=rate)
    load = [Load(f'weights/smolvlm-{a.size}', table=smolvlm.table)]
    run = Run(model, layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=load)
    return shrink(run, chat=True) if a.debug else run
