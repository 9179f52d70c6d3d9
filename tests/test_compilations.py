# SPDX-License-Identifier: Apache-2.0
"""Pictures of many sizes share one program: nothing is compiled beyond what the config's shapes declare.

Towers for pictures of any shape fill frames of one size; a row of the batch is as long as layout.max_tokens, and a
prompt as the next multiple of answer.STEP tokens.
"""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from jax._src import monitoring
from PIL import Image as pillow

from mmjax import answer, ask, optim
from mmjax.answer import Answerer, room
from mmjax.ask import Request
from mmjax.config import Adamw, Run
from mmjax.data.layout import Layout
from mmjax.data.pipeline import finite
from mmjax.data.templates import TextFormat
from mmjax.data.tokenizer import Bytes
from mmjax.decode.sampling import Decoding
from mmjax.document import Document, Image, Text
from mmjax.models.budget import BudgetVit
from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.decoder import Decoder
from mmjax.models.native import NativeVit
from mmjax.models.patches import Patches
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp
from mmjax.objectives.next_token import NextToken
from mmjax.params import Skeleton, flatten
from mmjax.sharding import init_sharded
from mmjax.step import build_update, compile_update, init_state

BLOCK = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=8))
NATIVE = NativeVit.Config(width=8, depth=1, block=BLOCK, patch=4, grid=(8, 8), budget=32, window=1)
MODEL = Vlm.Config(
    encoder=NATIVE,
    connector=MlpConnector.Config(merge=2),
    decoder=Decoder.Config(vocab=258, width=16, depth=1, block=BLOCK),
)
LAYOUT = Layout.Config(
    tokenizer=Bytes.Config(special=('<image>', '</s>')), text=TextFormat(end='</s>'), max_tokens=48, max_media=2,
    fit='whole',
)  # fmt: skip
SIZES = [(8, 8), (32, 32), (9, 30), (31, 10), (64, 20), (100, 300), (3, 40), (17, 23), (64, 32)]


@contextlib.contextmanager
def compilations():
    """Gives a list that grows by a name with every program that XLA compiles."""
    found = []
    listen = lambda name, seconds, **more: found.append(name) if name.endswith('backend_compile_duration') else None
    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(listen)


def picture(size):
    return Image(np.full((size[1], size[0], 3), sum(size) % 255, np.uint8))


def batches(layout):
    """One batch for each size, of a row."""
    laid = [layout(Document([picture(size), Text('ab')], key=str(size)))[0] for size in SIZES]
    return [(batch, one.slot.max() + 1) for one in laid for batch, _ in finite([one], layout, 1)]


def test_one_train_step_for_pictures_of_all_sizes():
    layout, model = LAYOUT.build(MODEL.media_spec()), init_sharded(MODEL.build, jax.random.key(0), None)
    made = batches(layout)
    assert len({count for _, count in made}) >= 4 and max(count for _, count in made) == 8  # squares of the budget
    train, frozen = optim.split(flatten(model), ('.*',))
    optimizer = Adamw(peak_lr=1e-3).build(train, 10)
    state = init_state(optimizer, train, 0.0)
    update = build_update(Skeleton(model), optimizer, NextToken(), compute_dtype='float32')
    step, _ = compile_update(update, state, frozen, jax.tree.map(jax.numpy.asarray, made[0][0]))
    with compilations() as found:
        for batch, _ in made:
            state, metrics = step(state, frozen, jax.tree.map(jax.numpy.asarray, batch))
        assert np.isfinite(float(metrics['loss'])) and not found
    other = made[0][0]._replace(pixels=made[0][0].pixels[..., :16, :, :])
    with pytest.raises(
        ValueError, match=r'pixels: .*\(1, 2, 1, 16, 32, 3\).*layout\.max_media.*grid of model\.encoder'
    ):
        step(state, frozen, other)


def test_prompts_compile_once_for_each_multiple(monkeypatch, tmp_path):
    run = Run(MODEL, LAYOUT, [], compute_dtype='float32')
    model = init_sharded(run.model.build, jax.random.key(0), None)
    monkeypatch.setattr(answer, 'STEP', 16)
    monkeypatch.setattr(ask, 'read_run', lambda workdir: run)
    monkeypatch.setattr(ask, 'restore', lambda workdir, mesh, **which: (run, model, 0))
    monkeypatch.setattr(ask, 'mesh_for', lambda run: None)

    def sample(size, prompt='what?'):
        path = tmp_path / 'a.png'
        pillow.new('RGB', size).save(path)
        how = Decoding(max_new_tokens=2)
        ask.answer(Request(checkpoint=tmp_path, prompts=[prompt], pictures=[path], how=how))

    sample((8, 8))
    with compilations() as found:
        for size in SIZES:
            sample(size)
        assert not found
        sample((8, 8), prompt='a' * 20)  # the next multiple of 16 tokens
        assert found
        found.clear()
        sample((17, 23), prompt='a' * 16)
        assert not found


def test_prompts_that_need_more_are_refused():
    layout = LAYOUT.build(MODEL.media_spec())
    prompts = [layout.prompt(Document([picture((32, 32)), Text('a' * n, 0.0)], key=f'{n} words')) for n in (2, 30)]
    asked = Answerer(None, layout, room(prompts[:1]), 1, Decoding(max_new_tokens=2))
    with pytest.raises(
        ValueError, match=r"'30 words' needs Shape\(tokens=3\d.*tokens=32.*too many tokens.*layout\.max_tokens"
    ):
        asked(prompts)


@pytest.mark.parametrize('tower', [NATIVE, BudgetVit.Config(width=8, depth=1, block=BLOCK, grid=(2, 2), budget=4),
                                   Patches.Config(grid=(2, 2), width=8)])  # fmt: skip
def test_towers_refuse_frames_of_another_size(tower):
    model = jax.eval_shape(lambda: init_sharded(lambda rngs: tower.build(rngs=rngs), jax.random.key(0), None))
    pixels = jax.ShapeDtypeStruct((1, 1, 1, 16, 8, 3), 'uint8')
    with pytest.raises(ValueError, match='pictures'):
        jax.eval_shape(lambda m, p, s: m(p, s), model, pixels, jax.ShapeDtypeStruct((1, 1, 3), 'int32'))


def test_more_squares_than_the_budget_never_leave():
    spec = dataclasses.replace(MODEL, frames=3).media_spec()
    assert (spec.tokens, spec.budget) == (2 * 32 // 4, 32)
