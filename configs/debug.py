# SPDX-License-Identifier: Apache-2.0
"""The `:debug` size of any run: the same parts, stages and formats, few of everything, built-in data.

It computes in minutes on a CPU what the published size computes in months on a pod, so a new system is tried here. No
weights are loaded: a tower that stays frozen is a random one, which counting digits can do with, while a language model
that stays frozen needs the first stage of `in_place_of_loading`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from configs import data
from mmjax.config import Checkpoints, Log, Mesh, Run, Stage
from mmjax.data.beside import Beside
from mmjax.data.states import States
from mmjax.data.tiles import Tiles
from mmjax.data.tokenizer import Bytes
from mmjax.models.budget import BudgetVit
from mmjax.models.connector import AttentionPool, Linear
from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.davit import Davit
from mmjax.models.decoder import Decoder
from mmjax.models.deepstack import DeepStack
from mmjax.models.fusion import CrossAttention
from mmjax.models.gated import GatedConnector
from mmjax.models.grid_resampler import GridResampler
from mmjax.models.inspector import Inspector, PromptLearner
from mmjax.models.mae import Mae
from mmjax.models.native import NativeVit
from mmjax.models.patches import Patches
from mmjax.models.qformer import Qformer, Words
from mmjax.models.region_sampler import RegionSampler
from mmjax.models.resampler import Resampler
from mmjax.models.trunk import Trunk
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import GatedBlock
from mmjax.nn.mlp import Mlp
from mmjax.nn.positions import Rotary
from mmjax.objectives.latents import Latents
from mmjax.objectives.masking import Blocks

WIDTH, HEADS = 64, 4
# What changes in each class of config, wherever it stands in the model.
FEWER: dict[type, Callable[[Any], dict[str, Any]]] = {
    Trunk.Config: lambda c: dict(depth=2),
    Vlm.Config: lambda c: dict(frames=min(c.frames, 2)),
    Vit.Config: lambda c: dict(
        size=(32, 32), patch=8, width=32, depth=2, position_grid=c.position_grid and (2, 2), deep=c.deep and (0, 1)
    ),
    Davit.Config: lambda c: dict(
        size=(32, 32), widths=(64,), depths=(1,), heads=(4,), groups=(4,), strides=(4,), window=4, ratio=2
    ),
    Inspector.Config: lambda c: dict(depths=2, space=32, size=(32, 32), sharpness=10.0),
    PromptLearner.Config: lambda c: dict(channels=(8, 16, 16), last=2),
    BudgetVit.Config: lambda c: dict(
        width=WIDTH, depth=2, patch=4, grid=(12, 12), budget=36, places=13, position_std=0.5
    ),
    Patches.Config: lambda c: dict(patch=8, grid=(4, 4)),
    GatedConnector.Config: lambda c: dict(hidden=2 * WIDTH),
    GridResampler.Config: lambda c: dict(queries=(2, 2)),
    NativeVit.Config: lambda c: dict(
        patch=8,
        grid=(4, 4),
        width=32,
        depth=2,
        window=c.window and 1,
        full=c.full and (1,),
        deep=c.deep and (0,),
        table=c.table and (2, 2),
    ),
    DeepStack.Config: lambda c: dict(levels=1),
    MlpConnector.Config: lambda c: dict(hidden=c.hidden and 2 * WIDTH),
    # Eight pairs: what a head of this width turns.
    Rotary.Config: lambda c: dict(sections=c.sections and (2, 3, 3)),
    Linear.Config: lambda c: dict(merge=min(c.merge, 2)),
    RegionSampler.Config: lambda c: dict(points=32, anchors=(8, 4), neighbours=(6, 4)),
    Resampler.Config: lambda c: dict(queries=4, depth=2),
    Qformer.Config: lambda c: dict(width=WIDTH, depth=2, queries=8),
    Words.Config: lambda c: dict(vocab=256 + 3, begin=256 + 2),  # bytes, and the signs of `_beside`
    # Beside queries of deviation 1, features of length 1 are too quiet to be heard within some hundred steps.
    AttentionPool.Config: lambda c: dict(queries=4, unit=False),
    Blocks: lambda c: dict(count=22, least=4),
    Latents: lambda c: dict(last=2),
    Mae.Config: lambda c: dict(width=WIDTH, depth=2),
    # Gates that begin closed let no picture through before such a run ends.
    GatedBlock.Config: lambda c: dict(gate_init=1.0),
    CrossAttention.Config: lambda c: dict(every=min(c.every, 2)),
    Attention.Config: lambda c: dict(heads=HEADS, kv_heads=c.kv_heads and math.gcd(c.kv_heads, HEADS), head_width=None),
    Mlp.Config: lambda c: dict(width=2 * WIDTH),
    # Scales that follow the width, its root or the inverse of that, go on to do so.
    Decoder.Config: lambda c: dict(
        width=WIDTH,
        depth=4,
        embed_scale=c.embed_scale if c.embed_scale == 1 else c.embed_scale * math.sqrt(WIDTH / c.width),
        input_scale=c.input_scale if c.input_scale == 1 else c.input_scale * math.sqrt(WIDTH / c.width),
        logit_scale=c.logit_scale if c.logit_scale == 1 else c.logit_scale * math.sqrt(c.width / WIDTH),
    ),
}


def shrink(run: Run, *, chat: bool = False, steps: int = 300) -> Run:
    """Returns the run at a size for a laptop; `chat`: its documents are turns of user and assistant.

    The last stage takes so many steps, others 50.
    """
    special, boxes = run.layout.special_tokens(), run.layout.coordinates is not None
    layout = dataclasses.replace(
        run.layout,
        beside=_beside(run.layout.beside),
        tokenizer=Bytes.Config(special=special),
        text=dataclasses.replace(run.layout.text, system=''),  # longer than the rest of a document
        max_tokens=256,
        max_media=8,
    )
    model = fewer(run.model)
    if layout.tiles:
        layout.tiles, model.frames = Tiles(grids=((1, 2), (2, 1))), 3
    # Of an encoder-decoder, the decoder embeds for both.
    getattr(model.decoder, 'decoder', model.decoder).vocab = 256 + len(special)
    return dataclasses.replace(
        run,
        model=model,
        layout=layout,
        stages=[_short(stage, steps if stage is run.stages[-1] else 50, chat, boxes) for stage in run.stages],
        mesh=Mesh(),
        compute_dtype='float32',
        remat='none',
        load=[],
        fresh=(),
        evals=data.digit_evals(chat=chat, boxes=boxes),
        checkpoint=Checkpoints(every_steps=100),
        log=Log(every_steps=10),
    )


def in_place_of_loading(run: Run) -> Run:
    """Returns a shrunk run with a first stage that trains everything, for recipes that keep the language model frozen.

    What they would load has learnt its language elsewhere; here it learns beside the rest, from the last stage's data.
    """
    first = dataclasses.replace(run.stages[-1], name='in place of loading', trainable=('.*',))
    return dataclasses.replace(run, stages=[first, *run.stages])


def shrink_pair(run: Run) -> Run:
    """Returns the run of a pair of towers at a size for a laptop: scenes of digits beside what stands on them."""
    special = run.layout.special_tokens()
    vision = dataclasses.replace(fewer(run.model.vision), size=(24, 24), patch=4, stem=(16,), overlap=1, width=64)
    text = dataclasses.replace(fewer(run.model.text), vocab=256 + len(special), depth=2, embed_std=0.1)
    model = dataclasses.replace(run.model, vision=vision, text=text, width=WIDTH, pool_id=256 + len(special) - 1)
    if model.read_pad is not None:
        model.read_pad = 256
    tokenizer = Bytes.Config(special=special)
    return dataclasses.replace(
        run,
        model=model,
        layout=dataclasses.replace(run.layout, tokenizer=tokenizer, max_tokens=16),
        stages=[_short_pair(stage) for stage in run.stages],
        mesh=Mesh(),
        compute_dtype='float32',
        remat='none',
        evals=data.pair_evals(),
        checkpoint=Checkpoints(every_steps=500),
        log=Log(every_steps=20),
    )


def shrink_pictures(run: Run) -> Run:
    """Returns the run of a model of pictures alone at a size for a laptop, on scenes of digits."""
    model = fewer(run.model)
    tower = dataclasses.replace(model.encoder, size=(24, 24), patch=4, width=WIDTH)
    optimizer = lambda stage: dataclasses.replace(stage.optimizer, peak_lr=2e-3, warmup=20)
    short = lambda stage: dataclasses.replace(
        stage,
        data=data.digit_pairs(),
        rows=32,
        steps=400,
        accumulate=1,
        optimizer=optimizer(stage),
        objective=fewer(stage.objective),
        ema=min(stage.ema, 0.99),
        ema_start=min(stage.ema_start, 0.9),
    )
    return dataclasses.replace(
        run,
        model=dataclasses.replace(model, encoder=tower),
        stages=[short(stage) for stage in run.stages],
        mesh=Mesh(),
        compute_dtype='float32',
        remat='none',
        evals=[data.picture_eval()],
        checkpoint=Checkpoints(every_steps=500),
        log=Log(every_steps=20),
    )


def _short_pair(stage: Stage) -> Stage:
    optimizer = dataclasses.replace(stage.optimizer, peak_lr=1e-3, warmup=40)
    return dataclasses.replace(stage, data=data.digit_pairs(), rows=64, steps=600, optimizer=optimizer)


def fewer(c: Any) -> Any:
    """Returns a config, and all configs inside of it, with few of everything."""
    parts = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    parts = {name: fewer(part) for name, part in parts.items() if dataclasses.is_dataclass(part)}
    changes = FEWER[type(c)](c) if type(c) in FEWER else {}
    return dataclasses.replace(c, **parts, **changes)


def _beside(c: Beside.Config | States.Config | None) -> Beside.Config | States.Config | None:
    if isinstance(c, States.Config):
        words = Bytes.Config(special=c.special_tokens())
        return dataclasses.replace(c, tokenizer=words, right=c.right[:2], wrong=c.wrong[:2], templates=('a {}.',))
    return c and dataclasses.replace(c, tokenizer=Bytes.Config(special=(*c.special_tokens(), '[DEC]')))


def _short(stage: Stage, steps: int, chat: bool, boxes: bool) -> Stage:
    # Rates that are right for billions of parameters teach a few thousand nothing in some hundred steps.
    optimizer = dataclasses.replace(stage.optimizer, peak_lr=2e-3, warmup=20)
    mix = data.digits(chat=chat, boxes=boxes)
    return dataclasses.replace(stage, data=mix, rows=8, steps=steps, accumulate=1, optimizer=optimizer)
