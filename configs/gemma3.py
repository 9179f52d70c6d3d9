# SPDX-License-Identifier: Apache-2.0
"""Gemma 3: SigLIP, 256 means of its features, and a decoder whose layers mostly see a window (Gemma Team 2025).

configs/gemma3.py:4b | 12b | 27b        published sizes; the models are those of google/gemma-3-*-it
configs/gemma3.py:4b,data=chat.jsonl    trains on a user's own chats
configs/gemma3.py:debug                 tries all parts on a CPU

    <bos><start_of_turn>user
    \\n\\n<start_of_image> [256 places] <end_of_image>\\n\\nwords<end_of_turn>
    <start_of_turn>model
    words<end_of_turn>

The places of a picture see each other, also in layers with a window, which is longer than they are. The published
preprocessor may add squares cut from a long picture, as pictures of their own ("pan and scan").
The training below is ours: it tunes the public weights.
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.weights import gemma3


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '4b', '12b', '27b')
    form = templates.gemma3()
    model = gemma3.config(
        dict(text_config=parts.gemma3_text(a.size), vision_config={**vl_parts.SIGLIP_SO, 'image_size': 896})
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer(f'weights/gemma-3-{a.size}-it', form),
        max_tokens=8192,
        max_media=16,
        image=form.image,
        text=form.text,
        overlong='truncate',
    )
    chats = data.mix(
        a.data,
        data.part('data/llava_next_760k/*.json?format=chat&images_first=true'),
        data.part('data/the_cauldron/*.json?format=chat&images_first=true'),
        data.part('data/docmatix/*.json?format=chat&images_first=true', 0.4),
    )
    # The tower stays as it is, as in the published training.
    rate = Adamw(peak_lr=1e-5, warmup=150, weight_decay=0.1, b2=0.95)
    tune = Stage(
        'tune',
        chats,
        rows=128,
        steps=5_000,
        accumulate=2,
        trainable=('connector/.*', 'decoder/.*'),
        optimizer=rate,
    )
    load = [Load(f'weights/gemma-3-{a.size}-it', table=gemma3.table)]
    run = Run(model, layout, [tune], mesh=Mesh(1, -1, 1), remat='block', load=load)
    if not a.debug:
        return run
    run = shrink(run, chat=True, steps=600)  # after 300 it counts no better than without its pictures
    run.stages[0].trainable += ('encoder/.*',)
    return run
