# SPDX-License-Identifier: Apache-2.0
"""Flamingo: a frozen language model looks at resampled pictures through gated blocks (Alayrac et al. 2022).

configs/flamingo.py:3b | 9b | 80b   published sizes
configs/flamingo.py:small,data=PATH trains about 5 million parameters on a user's pages
configs/flamingo.py:debug           tries all parts on a CPU

Numbers of sizes and training are (unverified): written from memory of the paper.
"""

import dataclasses

from configs import data, parts, small
from configs.args import Args, parse
from configs.debug import in_place_of_loading, shrink
from mmjax.config import Adamw, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.tasks import SilentUntilPicture
from mmjax.models.fusion import CrossAttention
from mmjax.models.resampler import Resampler
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import GatedBlock
from mmjax.nn.positions import Rotary

LANGUAGE_MODEL = {'3b': '1.4b', '9b': '7b', '80b': '70b'}
EVERY = {'3b': 1, '9b': 4, '80b': 7}  # layers of the language model to a gated block


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, '3b', '9b', '80b', 'small', steps=True)
    run = small_run(a) if a.size == 'small' else published(a)
    return in_place_of_loading(counting(shrink(run))) if a.debug else run


def published(a: Args) -> Run:
    """A published size. Videos are 8 frames, pictures a single one."""
    language_model, form = LANGUAGE_MODEL[a.size], templates.flamingo()
    model = Vlm.Config(
        encoder=parts.wide_vit(),
        connector=Resampler.Config(attn=Attention.Config(heads=16, head_width=128), act='relu2'),
        fusion=CrossAttention.Config(block=parts.gated(language_model), every=EVERY[a.size], first=0),
        decoder=parts.chinchilla(language_model),
        frames=8,
    )
    words = parts.tokenizer('weights/chinchilla/tokenizer.model', form)
    # The paper draws whether a text looks at the picture before or behind it; here it is always the one before.
    layout = Layout.Config(tokenizer=words, max_tokens=256, max_media=5, image=form.image, text=form.text)
    # The paper weighs the losses of its sets, which take turns; here the weights are proportions of documents.
    mix = data.mix(
        a.data,
        data.part('data/m3w/*.tar', 1.0, task=SilentUntilPicture()),
        data.part('data/align/*.tar', 0.2),
        data.part('data/ltip/*.tar', 0.2),
        data.part('data/vtp/*.tar', 0.03),
    )
    optimizer = Adamw(peak_lr=1e-4, warmup=5000, schedule='constant', weight_decay=0.1, b2=0.999)
    trainable = ('connector/.*', 'decoder/xattn/.*')
    stage = Stage('train', mix, rows=2048, steps=a.steps or 500_000, trainable=trainable, optimizer=optimizer)
    # Neither part is public: runs of one's own, whose words include the special tokens, frozen with the rest.
    loads = [Load('runs/tower', ('encoder/.*',)), Load(f'runs/chinchilla_{language_model}', ('decoder/.*',))]
    return Run(model, layout, [stage], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=trainable)


def counting(run: Run) -> Run:
    """Counts are all that is asked: with names told by examples beside them, a debug run ends blind."""
    mix = run.stages[0].data
    run.stages[0].data = dataclasses.replace(mix, parts=mix.parts[:1])
    return run


def small_run(a: Args) -> Run:
    """Two gated blocks beside four of a language model, all trained from nothing."""
    attn = Attention.Config(heads=small.HEADS)
    gated = GatedBlock.Config(attn=attn, mlp=small.block(small.WIDTH).mlp, norm=small.NORM)
    model = Vlm.Config(
        encoder=small.tower(),
        connector=Resampler.Config(attn=attn, queries=small.QUERIES, depth=2, norm=small.NORM),
        fusion=CrossAttention.Config(block=gated, every=2),
        decoder=small.decoder(depth=4, position=Rotary.Config()),
    )
    return small.small(a, model, templates.flamingo())
