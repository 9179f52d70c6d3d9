# SPDX-License-Identifier: Apache-2.0
"""What one run is: the model, how documents become batches, the stages of training and what is measured.

A config file builds a `Run`; `--config=configs/x.py:arg --config.stages[0].steps=10` reads and changes it.
Checks stand in `check`, not in __post_init__: an override sets a field long after the dataclass was made.
"""

import dataclasses
from typing import Any

from mmjax.config_io import ConfigError, load_config
from mmjax.objectives.next_token import NextToken
from mmjax.optim import Adamw

__all__ = [
    *('Adamw', 'Checkpoints', 'ConfigError', 'Eval', 'Group', 'Load', 'Log', 'Lora', 'Mesh', 'Run', 'Stage'),
    'load_config',
]


@dataclasses.dataclass
class Mesh:
    """How many devices lie along each axis; one axis may be -1: all devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tp: int = 1

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """Returns (data, fsdp, tp) for so many devices."""
        axes = [self.data, self.fsdp, self.tp]
        known = 1
        for size in axes:
            known *= size if size > 0 else 1
        if axes.count(-1) > 1 or any(a < 1 and a != -1 for a in axes):
            raise ConfigError(
                f'mesh {axes} (data, fsdp, tp): sizes are at least 1, and one of them may be -1 (the rest)'
            )
        if -1 in axes:
            if devices % known:
                raise ConfigError(f'mesh {axes} (data, fsdp, tp): {devices} devices cannot be shared out by {known}')
            axes[axes.index(-1)] = devices // known
        elif known > devices:
            raise ConfigError(f'mesh {axes} (data, fsdp, tp) needs {known} devices, there are {devices}')
        return axes[0], axes[1], axes[2]


@dataclasses.dataclass
class Load:
    """Weights to start from: a work directory of ours (its last checkpoint), or a public checkpoint.

    A public one is read by the `table` of its layout in mmjax.weights, a function of the config of the model's `part`:
    Load('vicuna-7b', table=llama.table, part='decoder').
    """

    path: str
    paths: tuple[str, ...] = ('.*',)  # patterns of the parameters taken from there
    table: Any = None  # of a public checkpoint
    part: str = ''  # encoder, decoder, senses/audio ...; '': the whole model
    prefix: str = ''  # public names that begin otherwise are another part's, e.g. vision_model. of a CLIPModel
    delta_of: str = ''  # the public checkpoint from which this one is a difference (Shikra, Ferret: from LLaMA)


@dataclasses.dataclass
class Lora:
    """Low-rank additions to Linears (nn/lora.py). They change nothing until a stage trains `.*/lora/[ab]`."""

    paths: tuple[str, ...]  # patterns of Linears, e.g. decoder/blocks/attn/[qkvo]
    rank: int = 16
    alpha: float = 16.0  # the addition is scaled by alpha / rank


@dataclasses.dataclass
class Stage:
    """A stretch of training: one mixture, one set of trainable parameters. Its weights go on to the next stage."""

    name: str
    data: Any  # mmjax.data.pipeline.Mix.Config
    rows: int  # of the global batch
    steps: int
    accumulate: int = 1  # microbatches a step; the loss is the same, the activations' memory is a share
    trainable: tuple[str, ...] = ('.*',)
    optimizer: Adamw = dataclasses.field(default_factory=Adamw)
    objective: Any = dataclasses.field(default_factory=NextToken)  # one of mmjax.objectives
    ema: float = 0.0  # decay of the averaged weights kept beside the trained ones; 0: none
    ema_start: float = 0.0  # the decay at the first step, from where it rises evenly to `ema`; 0: `ema` throughout

    def decay(self, step: Any) -> Any:
        """Returns the decay of the averaged weights at a step."""
        return self.ema if not self.ema_start else self.ema_start + (self.ema - self.ema_start) * step / self.steps


@dataclasses.dataclass
class Eval:
    """A measure: a metric over the answers that the model gives to a source's documents, and the loss on them.

    A document's last piece is the answer, all before it the question.
    """

    name: str
    source: Any  # a source's config
    task: Any = None  # a function Document -> Document, as in the parts of a mixture
    # 'exact', 'vqa', 'box_iou', 'caption', 'anls'; 'retrieval' of a pair of towers; 'loss': nothing is asked; 'maps':
    # what marks pictures is compared with their marks, `shots` of which are pictures known to be right
    metric: str = 'exact'
    count: int = 256  # documents; 0: all of them
    max_new_tokens: int = 32
    beams: int = 1
    length_penalty: float = 1.0
    constrain: bool = False  # answers can only be one valid box of the layout's dialect
    shots: int = 0  # solved examples before each question
    shot_source: Any = None  # where the examples come from; None: `source` itself, other documents
    shots_by: str = 'random'  # 'random', or 'similar': those whose pictures' features are nearest
    separator: str = '\n'  # words between one example and the next
    blind: bool = True  # measure again with each question's pictures replaced by another's
    seed: int = 0  # of the choice of examples and of the exchanged pictures
    every_steps: int = 0  # during training; 0: at the end of the run only


@dataclasses.dataclass
class Checkpoints:
    """When checkpoints are written and which stay. The last step of every stage is always written."""

    every_steps: int = 1000
    keep_last: int = 2
    keep_every: int = 0  # steps; checkpoints at multiples of it stay for good; 0: none


@dataclasses.dataclass
class Log:
    """How often a line of metrics is written, and where."""

    every_steps: int = 10
    tensorboard: bool = True
    max_skipped: int = 50  # steps in a row without a finite loss or gradient before the run gives up
    hang_seconds: float = 1800.0  # without a step, after which stacks-N.txt says where process N stands; 0: never


@dataclasses.dataclass
class Run:
    """Everything that decides what a run computes, and where it is kept."""

    model: Any  # mmjax.models.vlm.Vlm.Config
    layout: Any  # mmjax.data.layout.Layout.Config
    stages: list[Stage]
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    compute_dtype: str = 'bfloat16'  # parameters, loss and optimiser stay float32
    remat: str = (
        ''  # what going back computes again, in every part of the model: none, block, dots; '': as each part says
    )
    lora: Lora | None = None
    load: list[Load] = dataclasses.field(default_factory=list)
    fresh: tuple[str, ...] = ()  # with `load`: patterns of the parameters that start from their initial values
    evals: list[Eval] = dataclasses.field(default_factory=list)
    checkpoint: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    log: Log = dataclasses.field(default_factory=Log)


# What may change between two starts of one run: where it computes and what it keeps, never what it computes.
MAY_CHANGE = ('mesh', 'remat', 'evals', 'checkpoint', 'log')


def check(run: Run) -> None:
    """Raises ConfigError for numbers that contradict each other; each message names the field and the way out."""
    if not run.stages:
        raise ConfigError('run.stages is empty; a run has at least one stage')
    names = [s.name for s in run.stages]
    if len(set(names)) < len(names):
        raise ConfigError(f'stages are named {names}; each needs its own name')
    if run.compute_dtype not in ('bfloat16', 'float32'):
        raise ConfigError(f'run.compute_dtype is {run.compute_dtype!r}; it is bfloat16 or float32')
    if run.remat not in ('', 'none', 'block', 'dots'):
        raise ConfigError(f'run.remat is {run.remat!r}; it is none, block, dots, or empty (as each part says)')
    if run.fresh and not run.load:
        raise ConfigError(f'run.fresh is {run.fresh}, but run.load is empty: every parameter is fresh then')
    for at, least in (('checkpoint.every_steps', 1), ('checkpoint.keep_last', 1), ('log.every_steps', 1)):
        section, field = at.split('.')
        if (value := getattr(getattr(run, section), field)) < least:
            raise ConfigError(f'run.{at} is {value}; it is at least {least}')
    for i, stage in enumerate(run.stages):
        for field in ('rows', 'steps', 'accumulate'):
            if getattr(stage, field) < 1:
                raise ConfigError(f'stages[{i}].{field} is {getattr(stage, field)}; it is at least 1')
        if stage.rows % stage.accumulate:
            raise ConfigError(
                f'stages[{i}]: {stage.rows} rows cannot be split into accumulate={stage.accumulate} parts'
            )
        if stage.accumulate > 1 and stage.objective.whole:
            raise ConfigError(
                f'stages[{i}]: {type(stage.objective).__name__} compares all rows of a batch with each other, which '
                f'accumulate={stage.accumulate} microbatches would keep apart; set accumulate to 1, and remat to save '
                'memory'
            )
        if not 0 <= stage.ema < 1:
            raise ConfigError(f'stages[{i}].ema is {stage.ema}; it lies in 0 .. 1')
        if not 0 <= stage.ema_start <= stage.ema:
            raise ConfigError(f'stages[{i}].ema_start is {stage.ema_start}; it lies in 0 .. ema, {stage.ema}')


def check_rows(run: Run, sizes: tuple[int, int, int]) -> None:
    """Raises ConfigError where a stage's microbatch cannot be laid out over the mesh."""
    shards = sizes[0] * sizes[1]
    for i, stage in enumerate(run.stages):
        if (stage.rows // stage.accumulate) % shards:
            rows = f'{stage.rows} rows / accumulate {stage.accumulate} = {stage.rows // stage.accumulate}'
            raise ConfigError(
                f'stages[{i}]: {rows} cannot be shared out to data {sizes[0]} x fsdp {sizes[1]} = {shards} devices; '
                'change rows, accumulate or mesh'
            )
