# SPDX-License-Identifier: Apache-2.0
"""AnomalyGPT: maps of what is wrong with a picture, and a language model that is prompted by them (Gu et al. 2024).

configs/anomalygpt.py:7b                  published size: ImageBind-Huge before Vicuna
configs/anomalygpt.py:7b,data=right.jsonl trains on a user's own pictures of what is right; flaws are pasted in
configs/anomalygpt.py:debug               scenes of digits with pieces of others pasted in, on a CPU

    ### Human: <Img> [one token, 18 prompts] </Img> Is anything wrong with it?
    ### Assistant: yes, top left
    ###

Prompts stand beside the picture's token, in the public code behind </Img>. Flaws are pasted without the blending of
seams that the public data has. Numbers of the training are those of the public instructions, the mixture is ours.
"""

import dataclasses

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Eval, Load, Mesh, Run, Stage
from mmjax.data import templates
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.pasted import Pasted
from mmjax.data.states import States
from mmjax.data.tasks import Chat
from mmjax.data.tokenizer import HuggingFace
from mmjax.models.inspector import Inspector
from mmjax.models.vlm import Vlm
from mmjax.objectives.maps import MarksAndWords
from mmjax.weights import anomalygpt, imagebind

RIGHT = ('data/mvtec/right.jsonl', 'data/visa/right.jsonl')


def get_config(arg: str = '') -> Run:
    """Returns the run."""
    a = parse(arg, '7b')
    form, towers = templates.pandagpt(), imagebind.pair()
    states = States.Config(tokenizer=HuggingFace.Config(path='weights/clip/tokenizer.json'))
    model = Vlm.Config(
        encoder=dataclasses.replace(towers.vision, keep_cls=True, deep=(7, 15, 23, 31)),
        connector=Inspector.Config(text=towers.text, texts=states.texts),
        decoder=parts.vicuna(a.size, vocab=32_003),
    )
    layout = Layout.Config(
        tokenizer=parts.tokenizer('weights/vicuna/tokenizer.model', form),
        max_tokens=1024,
        max_media=4,
        image=form.image,
        text=form.text,
        beside=states,
        overlong='truncate',
    )
    mix = data.mix(a.data, *(data.part(path) for path in RIGHT))
    for part in mix.parts:
        part.source, part.task = Pasted.Config(source=part.source), Chat()
    stage = Stage(
        'flaws', mix, rows=16, steps=50_000, trainable=('connector/(decoder|prompts|out)/.*',),
        objective=MarksAndWords(), optimizer=Adamw(peak_lr=1e-3, warmup=100, b2=0.999),
    )  # fmt: skip
    loads = [
        Load('weights/imagebind_huge', ('encoder/.*', 'connector/(text|projection).*'), table=anomalygpt.towers_table),
        parts.vicuna_weights(a.size),
    ]
    run = Run(model, layout, [stage], mesh=Mesh(1, -1, 1), remat='block', load=loads, fresh=stage.trainable)
    return small(shrink(run, chat=True)) if a.debug else run


def small(run: Run) -> Run:
    """All is trained at once: no tower has learnt anything yet. Scenes are dark, pieces of tinted ones stand out."""
    dark = lambda split, **changes: Pasted.Config(
        source=Digits.Config(split=split, colour=0.2), pieces=Digits.Config(split=split), **changes
    )
    model, states = run.model, run.layout.beside
    run.layout.max_tokens, run.layout.max_media = 112, 1
    model.encoder = dataclasses.replace(model.encoder, patch=4, width=64, stem=(16,), overlap=1, position_std=0.5)
    model.connector.texts, model.connector.text.vocab, model.connector.text.depth = states.texts, 258, 1
    mix = Mix.Config(parts=[Part(source=dark('train'), task=Chat())])
    held = dict(source=dark('test'), task=Chat(), count=128)
    rate = Adamw(peak_lr=1e-3, warmup=20)
    run.stages = [dataclasses.replace(run.stages[0], data=mix, rows=16, steps=600, trainable=('.*',), optimizer=rate)]
    run.evals = [
        Eval('flaw', max_new_tokens=16, **held),
        Eval('marks', metric='maps', **held),
        Eval('memory', metric='maps', shots=16, shot_source=dark('train', chance=0.0, seed=1), **held),
    ]
    return run
