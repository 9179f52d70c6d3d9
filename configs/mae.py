# SPDX-License-Identifier: Apache-2.0
"""A masked autoencoder: three quarters of a picture's patches are hidden and painted (He et al. 2022).

configs/mae.py:b16 | l16 | h14        published sizes; the models are those of facebook/vit-mae-*
configs/mae.py:b16,data=pictures/     trains on a user's own pictures, whatever words stand beside them
configs/mae.py:debug                  scenes of digits, on a CPU

Numbers of the training are those of its public instructions. Pictures are cropped in the middle; the published runs
crop them at random and mirror half of them.
"""

from configs import data
from configs.args import parse
from configs.debug import shrink_pictures
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data.layout import Layout
from mmjax.objectives.pixels import MaskedPixels
from mmjax.weights import vit

IMAGENET = 'data/imagenet/train-{0000..1023}.tar'
# Patch, width, depth, heads.
SIZES = {'b16': (16, 768, 12, 12), 'l16': (16, 1024, 24, 16), 'h14': (14, 1280, 32, 16)}


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    patch, width, depth, heads = SIZES[a.size]
    model = vit.mae(
        dict(
            patch_size=patch,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
    )
    # 800 passes over 1.28 million pictures, 40 of them to warm up; a rate of 1.5e-4 for every 256 rows.
    stage = Stage(
        'paint',
        data.mix(a.data, data.part(IMAGENET)),
        rows=4096,
        steps=250_250,
        trainable=('(?!.*position/table).*',),  # sines and cosines stay
        optimizer=Adamw(peak_lr=2.4e-3, warmup=12_512, weight_decay=0.05, b2=0.95),
        objective=MaskedPixels(hidden=0.75, normed=True),
    )
    layout = Layout.Config(max_tokens=1, max_media=1, fit='crop')
    run = Run(model, layout, [stage], mesh=Mesh(-1, 1, 1), remat='block')
    return shrink_pictures(run) if a.debug else run
