# SPDX-License-Identifier: Apache-2.0
"""data2vec for pictures: predicts what a slow average of itself makes of hidden patches (Baevski et al. 2022).

configs/data2vec.py:b16 | l16           published sizes; the towers are those of facebook/data2vec-vision-*
configs/data2vec.py:b16,data=pictures/  trains on a user's own pictures, whatever words stand beside them
configs/data2vec.py:debug               scenes of digits, on a CPU

Numbers of the training are those of its public instructions, without drop path and dropout of attention. Pictures are
cropped in the middle; the published runs crop them at random, mirror half of them and change their colours.
"""

from configs import data
from configs.args import parse
from configs.debug import shrink_pictures
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data.layout import Layout
from mmjax.models.masked import Masked
from mmjax.objectives.latents import Latents
from mmjax.objectives.masking import Blocks
from mmjax.weights import vit

IMAGENET = 'data/imagenet/train-{0000..1023}.tar'
# Width, depth, heads, first scale of the branches; rows, peak rate, passes to warm up.
SIZES = {'b16': (768, 12, 12, 1e-4, 2048, 2e-3, 10), 'l16': (1024, 24, 16, 1e-5, 4096, 1e-3, 80)}
PICTURES, PASSES = 1_281_167, 800


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    width, depth, heads, scale, rows, rate, warmup = SIZES[a.size]
    tower = vit.data2vec(
        dict(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            layer_scale_init_value=scale,
            use_shared_relative_position_bias=True,
            use_mask_token=True,
            use_mean_pooling=False,
        )
    )
    stage = Stage(
        'predict',
        data.mix(a.data, data.part(IMAGENET)),
        rows=rows,
        steps=PASSES * PICTURES // rows,
        optimizer=Adamw(peak_lr=rate, warmup=warmup * PICTURES // rows, weight_decay=0.05, b2=0.98, clip=3.0),
        objective=Latents(mask=Blocks(count=120, least=16), last=6),
        ema=0.9998,
        ema_start=0.999,
    )
    layout = Layout.Config(max_tokens=1, max_media=1, fit='crop')
    run = Run(Masked.Config(encoder=tower), layout, [stage], mesh=Mesh(-1, 1, 1), remat='block')
    return shrink_pictures(run) if a.debug else run
