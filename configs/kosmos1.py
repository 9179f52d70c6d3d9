# SPDX-License-Identifier: Apache-2.0
"""KOSMOS-1: pictures stand among the words of a Magneto decoder that learns from nothing (Huang et al. 2023).

configs/kosmos1.py                  the published size
configs/kosmos1.py:small,data=PATH  trains about 5 million parameters on a user's pages
configs/kosmos1.py:debug            tries all parts on a CPU

Numbers of the training are (unverified): written from memory of the paper. Of its 10 % dropout there is none here.
"""

from configs import data, parts, small
from configs.args import Args, parse
from configs.debug import shrink
from mmjax.config import Adamw, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.models.connector import AttentionPool
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.positions import Rotary

XPOS = Rotary.Config(decay=512.0, interleaved=True)


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '1.6b', 'small', steps=True)
    run = small_run(a) if a.size == 'small' else published(a)
    return shrink(run) if a.debug else run


def published(a: Args) -> Run:
    """The published size."""
    form = templates.kosmos()
    attn = Attention.Config(heads=32, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    model = Vlm.Config(
        encoder=parts.clip_l(224, keep_cls=True),
        connector=AttentionPool.Config(attn=attn, queries=64, unit=True),
        # Its own vocabulary is not public; this is the one of KOSMOS-2, which goes on from here.
        decoder=parts.magneto(XPOS, vocab=65_037),
    )
    words = parts.tokenizer('weights/kosmos-2-patch14-224', form)
    layout = Layout.Config(tokenizer=words, max_tokens=2048, max_media=16, image=form.image, text=form.text)
    # A batch holds 0.2, 0.5 and 0.5 million tokens of the three kinds; here those are proportions of documents.
    mix = data.mix(
        a.data,
        data.part('data/interleaved/*.tar', 0.2),
        data.part('data/laion/*.tar', 0.5),
        data.part('data/pile/*.jsonl', 0.5),
    )
    optimizer = Adamw(peak_lr=2e-4, warmup=375, schedule='linear', weight_decay=0.01, b2=0.98)
    # The paper trains the tower's last block too. Blocks are one stack of parameters here, and all of it is frozen.
    trainable = ('connector/.*', 'decoder/.*')
    # 576 rows are 1.18 million tokens.
    stage = Stage('train', mix, rows=576, steps=a.steps or 300_000, trainable=trainable, optimizer=optimizer)
    loads = [parts.clip_l_weights(224)]
    return Run(model, layout, [stage], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=trainable)


def small_run(a: Args) -> Run:
    """Six blocks, which see pictures as words, all trained from nothing."""
    attn = Attention.Config(heads=small.HEADS)
    model = Vlm.Config(
        encoder=small.tower(),
        connector=AttentionPool.Config(attn=attn, queries=small.QUERIES),
        decoder=small.decoder(depth=6, position=Rotary.Config()),
    )
    return small.small(a, model, templates.kosmos())
