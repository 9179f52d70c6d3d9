# SPDX-License-Identifier: Apache-2.0
"""SigLIP: every picture and every text of a batch are a pair or not, each judged for itself (Zhai et al. 2023).

configs/siglip.py:b16 | l16-256 | so400m   published sizes; the models are those of google/siglip-*
configs/siglip.py:b16,data=pairs.tar       trains on a user's own pictures with words
configs/siglip.py:debug                    digits and their captions, on a CPU; judged by retrieval and by naming

Numbers of the training are those of the paper (unverified).
"""

from configs import data, parts
from configs.args import parse
from configs.debug import shrink_pair
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data.layout import Layout
from mmjax.data.templates import TextFormat
from mmjax.objectives.contrastive import Contrastive
from mmjax.weights import clip

PAIRS = 'data/webli/{00000..99999}.tar'
# Patch, picture, and the width, depth, heads and MLP that both towers share.
SIZES = {
    'b16': (16, 224, 768, 12, 12, 3072),
    'l16-256': (16, 256, 1024, 24, 16, 4096),
    'so400m': (14, 224, 1152, 27, 16, 4304),
}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    patch, side, width, depth, heads, mlp = SIZES[a.size]
    tower = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=mlp)
    model = clip.siglip(dict(vision_config={**tower, 'patch_size': patch, 'image_size': side}, text_config=tower))
    model.init_scale = 10.0
    # Words end with </s>, and all places behind it hold it too.
    form = TextFormat(end='</s>')
    model.read_pad = 1
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/siglip/spiece.model', form),
        max_tokens=64,
        max_media=1,
        text=form,
        fit='squash',
        overlong='cut',
    )
    # 9 billion pairs.
    stage = Stage(
        'pairs',
        data.mix(a.data, data.part(PAIRS)),
        rows=32_768,
        steps=274_658,
        optimizer=Adamw(peak_lr=1e-3, warmup=6_500, weight_decay=1e-4, b2=0.95),
        objective=Contrastive(loss='sigmoid'),
    )
    run = Run(model, layout, [stage], mesh=Mesh(-1, 8, 1), remat='block')
    return shrink_pair(run) if a.debug else run
