# SPDX-License-Identifier: Apache-2.0
"""PaliGemma: SigLIP, one affine map and Gemma-2B; picture and question see each other both ways (Beyer et al. 2024).

configs/paligemma.py:224 | 448 | 896  published picture sizes; the model is that of google/paligemma-3b-pt-*
configs/paligemma.py:224,data=x.jsonl trains on a user's own pairs of question and answer
configs/paligemma.py:debug            tries all parts on a CPU

    [256 places] <bos>detect cat
    <loc0123><loc0456><loc0789><loc0987> cat<eos>

A stage shows a billion examples at 224 pixels, 50 million at 448 and 10 million at 896; batches and rates (unverified).
"""

from configs import data, parts, vl_parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import dialects, templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import Locate
from mmjax.models import connector
from mmjax.models.vlm import Vlm
from mmjax.weights import clip

REFERRING = 'data/refcoco/*.jsonl?text=sentence&boxes=bbox&box.unit=pixels'
WORDS = 257_216  # Gemma's, 1,024 places, 128 shapes, and as many again as make 64
# Rows, steps, tokens a row, by the side of the picture.
STAGES = {'224': (8_192, 122_070, 512), '448': (4_096, 12_207, 1_536), '896': (2_048, 4_883, 4_608)}


def get_config(arg: str = '') -> Run:
    """Returns the run of a picture size."""
    a = parse(arg, *STAGES)
    rows, steps, tokens = STAGES[a.size]
    form, codec = templates.paligemma(), dialects.paligemma()
    model = Vlm.Config(
        encoder=vl_parts.siglip(vl_parts.SIGLIP_SO, int(a.size)),
        connector=connector.Linear.Config(),
        decoder=vl_parts.gemma_2b(WORDS),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/paligemma', form, codec),
        max_tokens=tokens,
        max_media=2,
        image=form.image,
        text=form.text,
        coordinates=codec,
        two_way_prompt=True,
        overlong='truncate',
    )
    # Weights of the parts are ours.
    mix = data.mix(
        a.data,
        data.part('data/webli/*.tar'),
        data.part('data/vqav2/*.jsonl?text=answer&prompt=question', 0.2),
        data.part(REFERRING, 0.2, task=Locate(questions=('detect {}\n',))),
    )
    rate = Adamw(peak_lr=1e-5, warmup=steps // 20, weight_decay=1e-4, b2=0.95)
    load = [Load('runs/paligemma_' + ('224' if a.size == '448' else '448'))]
    if a.size == '224':
        load = [
            Load('weights/siglip-so400m', ('encoder/.*',), clip.siglip_vision_table, 'encoder', 'vision_model.'),
            Load('weights/gemma-2b', ('decoder/.*',), vl_parts.gemma_2b_table, 'decoder'),
        ]
    # A new size brings a new table of places.
    fresh = ('connector/.*',) if a.size == '224' else ('encoder/position/.*',)
    stage = Stage('pretrain', mix, rows=rows, steps=steps, accumulate=4, optimizer=rate)
    run = Run(model, layout, [stage], mesh=Mesh(1, -1, 1), remat='block', load=load, fresh=fresh)
    return shrink(run, chat=True) if a.debug else run
