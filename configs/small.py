# SPDX-License-Identifier: Apache-2.0
"""The `:small` runs: systems of equal size, data and training, which differ in how pictures reach the text.

About 5 million parameters, bytes, rows of 1,024 tokens, pictures of 64 pixels. Only words and the end of a document are
learnt, so the losses of two such runs are means over the same bytes. One document in `every` (20) is held out.
"""

import dataclasses

from configs import data
from configs.args import Args
from mmjax.config import Adamw, Checkpoints, Eval, Log, Run, Stage
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.exchanged import Exchanged
from mmjax.data.templates import Format
from mmjax.data.tokenizer import Bytes
from mmjax.models.decoder import Decoder
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.layers import Norm
from mmjax.nn.mlp import Mlp

WIDTH, TOWER_WIDTH, HEADS = 256, 128, 4
QUERIES = 16  # tokens that a picture gives, whichever part asks for them
NORM = Norm.Config(kind='rms')


def tower() -> Vit.Config:
    """A ViT-2/8 for pictures of 64 x 64 pixels."""
    return Vit.Config(
        size=(64, 64), patch=8, width=TOWER_WIDTH, depth=2, block=block(TOWER_WIDTH), norm=NORM, remat='none'
    )


def decoder(depth: int, position) -> Decoder.Config:
    """A decoder over bytes and a few special tokens."""
    return Decoder.Config(
        vocab=256 + 128, width=WIDTH, depth=depth, block=block(WIDTH), norm=NORM, position=position, tied=True
    )


def block(width: int) -> Block.Config:
    """The block of both."""
    mlp = Mlp.Config(width=4 * width, act='gelu_tanh', bias=False)
    return Block.Config(attn=Attention.Config(heads=HEADS), mlp=mlp, norm=NORM)


def small(a: Args, model: Vlm.Config, form: Format) -> Run:
    """The run of a small model; `form` says what stands around pictures and documents."""
    train, validation = data.halves(a.data, a.every)
    # Signs that only one of the systems writes: a chunk's end would be learnt, a start would give the first byte a
    # prediction.
    text = dataclasses.replace(form.text, start='', chunk_end='', end='</s>')
    form = Format(image=form.image, text=text)
    layout = Layout.Config(
        tokenizer=Bytes.Config(special=form.special_tokens()),
        max_tokens=1024,
        max_media=8,
        image=form.image,
        text=form.text,
    )
    optimizer = Adamw(peak_lr=1e-3, warmup=100, weight_decay=0.1, b2=0.98, end=0.1)
    stage = Stage(
        name='train',
        data=Mix.Config(parts=[Part(source=train)]),
        rows=8,
        steps=a.steps or 1000,
        optimizer=optimizer,
    )
    return Run(
        model=model,
        layout=layout,
        stages=[stage],
        compute_dtype='float32',
        remat='none',
        # The same words twice: with their own pictures, and with those of other documents.
        evals=[
            Eval(name='held_out', source=validation, metric='loss', count=0, blind=False),
            Eval(name='exchanged', source=Exchanged.Config(source=validation), metric='loss', count=0, blind=False),
        ],
        checkpoint=Checkpoints(every_steps=500),
        log=Log(every_steps=10),
    )
