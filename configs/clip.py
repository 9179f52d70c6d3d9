# SPDX-License-Identifier: Apache-2.0
"""CLIP: a picture and its words find each other among all of a batch, by a softmax over it (Radford et al. 2021).

configs/clip.py:b32 | b16 | l14 | l14-336   published sizes; the models are those of openai/clip-vit-*
configs/clip.py:b32,data=pairs.tar          trains on a user's own pictures with words
configs/clip.py:debug                       digits and their captions, on a CPU; judged by retrieval and by naming

Numbers of the training are those of the paper's tables (unverified).
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink_pair
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data.layout import Layout
from mmjax.data.templates import TextFormat
from mmjax.objectives.contrastive import Contrastive
from mmjax.weights import clip

PAIRS = 'data/wit/{00000..99999}.tar'
# Patch, picture, the numbers of both towers, the common width, the peak rate.
B, L = (768, 12, 12, 512, 8), (1024, 24, 16, 768, 12)
SIZES = {
    'b32': (32, 224, *B, 5e-4),
    'b16': (16, 224, *B, 5e-4),
    'l14': (14, 224, *L, 4e-4),
    'l14-336': (14, 336, *L, 2e-5),
}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    patch, side, width, depth, heads, text, text_heads, rate = SIZES[a.size]
    vision = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width)
    words = dict(hidden_size=text, num_attention_heads=text_heads, intermediate_size=4 * text)
    model = clip.clip(
        dict(vision_config={**vision, 'patch_size': patch, 'image_size': side}, text_config=words, projection_dim=text)
    )
    model.max_scale = 100.0
    form = TextFormat(start='<|startoftext|>', end='<|endoftext|>')
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/clip/tokenizer.json', form),
        max_tokens=77,
        max_media=1,
        text=form,
        fit='crop',
        overlong='cut',
    )
    # 32 passes over 400 million pairs; the larger pictures get one pass more.
    steps = 12_207 if a.size == 'l14-336' else 390_625
    optimizer = Adamw(peak_lr=rate, warmup=2000, weight_decay=0.2, b2=0.98, eps=1e-6)
    stage = Stage(
        'pairs',
        data.mix(a.data, data.part(PAIRS)),
        rows=32_768,
        steps=steps,
        optimizer=optimizer,
        objective=Contrastive(loss='softmax'),
    )
    run = Run(model, layout, [stage], mesh=Mesh(-1, 8, 1), remat='block')
    return shrink_pair(run) if a.debug else run
