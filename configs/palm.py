# SPDX-License-Identifier: Apache-2.0
"""PaLM: attention and MLP stand side by side, all queries have one key head (Chowdhery et al. 2022).

configs/palm.py:8b | 62b | 540b      published sizes
configs/palm.py:8b,data=texts.jsonl  trains on a user's own text ({"text": ...} a line)
configs/palm.py:debug                repeated strings, on a CPU: what was said before is looked up

    x + attention(norm x) + mlp(norm x)      SwiGLU, rotary positions, no biases, words tied, logits / sqrt(width)

Neither code nor weights are public; CohereForCausalLM has this block, so weights/cohere.py writes what servers read.
Sizes, mixture, batches and the mesh of 540b are those of the paper (unverified). It trains by Adafactor; the rates of
AdamW here are ours, and fall on a line in the place of 1 / sqrt(step) once batches have grown.
"""

import dataclasses
import itertools

from configs import data, parts
from configs.args import parse
from configs.debug import shrink
from mmjax.config import Adamw, Eval, Mesh, Run, Stage
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.echo import Echo
from mmjax.data.templates import TextFormat
from mmjax.models.vlm import Vlm
from mmjax.objectives.next_token import NextToken

# Peak rate, devices that share one copy of each layer.
SIZES = {'8b': (3e-4, 1), '62b': (2e-4, 4), '540b': (1e-4, 12)}
# Shares of the 780 billion tokens.
MIXTURE = {'conversations': 0.50, 'web': 0.27, 'books': 0.13, 'code': 0.05, 'wikipedia': 0.04, 'news': 0.01}
WARMUP = 10_000
# Steps at which batches become 512, 1024 and 2048 rows of 2,048 tokens, and the end.
GROWS = (0, 50_000, 115_000, 255_000)


def get_config(arg: str = '') -> Run:
    """Returns the run of a size."""
    a = parse(arg, *SIZES)
    rate, tp = SIZES[a.size]
    model = Vlm.Config(decoder=parts.palm(a.size))
    model.decoder.vocab_multiple = 128 * tp
    form = TextFormat(end='</s>')
    layout = Layout.Config(tokenizer=parts.tokenizer('weights/palm/tokenizer.model', form), max_tokens=2048, text=form)
    mix = lambda: data.mix(a.data, *(data.part(f'data/palm/{n}/*.jsonl?text=text', w) for n, w in MIXTURE.items()))
    at = lambda step: rate * (WARMUP / max(step, WARMUP)) ** 0.5
    stages = []
    for number, (start, end) in enumerate(itertools.pairwise(GROWS)):
        optimizer = Adamw(peak_lr=at(start), end=at(end) / at(start), schedule='linear', b2=0.99, weight_decay=0.01)
        if not number:
            optimizer = dataclasses.replace(optimizer, schedule='inverse_sqrt', warmup=WARMUP)
        rows = 512 * 2**number
        objective = NextToken(z_loss=1e-4)
        stages.append(Stage(f'rows {rows}', mix(), rows, end - start, optimizer=optimizer, objective=objective))
    run = Run(model, layout, stages, mesh=Mesh(1 if tp < 12 else 2, -1, tp), remat='block')
    return small(shrink(run)) if a.debug else run


def small(run: Run) -> Run:
    """One stage of repeated strings, judged on strings that were never seen, and on the same ones in disorder."""
    mix, rate = Mix.Config(parts=[Part(source=Echo.Config())]), Adamw(peak_lr=2e-3, warmup=50, schedule='linear')
    stage = dataclasses.replace(run.stages[0], data=mix, steps=1500, optimizer=rate)
    run.layout.max_tokens = 160
    run.stages = [stage]
    heard = dict(echo=Echo.Config(seed=1), disordered=Echo.Config(seed=1, ordered=False))
    run.evals = [Eval(name, source, metric='loss', count=64, blind=False) for name, source in heard.items()]
    return run
