# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are differences from others: what is added to what, and which bases are refused."""

import json

import jax
import numpy as np
import pytest
import test_cli
from flax import nnx
from safetensors.numpy import save_file
from test_public import SPECIAL, TEXT, words

from mmjax import sharding
from mmjax.config import Load, Run
from mmjax.data.layout import Layout
from mmjax.models import connector
from mmjax.models.region_sampler import RegionSampler
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp
from mmjax.params import flatten
from mmjax.start import load_over
from mmjax.weights import llama, shapes, shikra, to_public
from mmjax.weights.table import WeightsError
from mmjax.workdir import restore

GROWN = llama.config({**TEXT, 'vocab_size': 303})
SMALL = llama.config(TEXT)
EMBED, HEAD, NORM = 'model.embed_tokens.weight', 'lm_head.weight', 'model.norm.weight'
MAP = 'model.mm_projector.weight'


def drawn(build, table, seed, dtype):
    rng = np.random.default_rng(seed)
    return dict(to_public(table, {p: rng.standard_normal(s).astype(dtype) for p, s in shapes(build).items()}))


def write(folder, tensors, **config):
    folder.mkdir()
    save_file({k: np.ascontiguousarray(t) for k, t in tensors.items()}, folder / 'model.safetensors')
    if config:
        (folder / 'config.json').write_text(json.dumps(config))
        words(folder, (*SPECIAL, '<image>'))
    return folder


@pytest.fixture
def pair(tmp_path):
    """A base of 300 words and a delta of 303, in half precision; and the sum."""
    base = drawn(SMALL.build, llama.table(SMALL), 0, np.float16)
    delta = drawn(GROWN.build, llama.table(GROWN), 1, np.float16)
    total = {k: t.astype(np.float32) for k, t in delta.items()}
    for k, t in base.items():
        total[k][: len(t)] += t.astype(np.float32)
    # As old checkpoints have it, which neither side need share.
    frequencies = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(2, np.float32)}
    folders = write(tmp_path / 'base', {**base, **frequencies}), tmp_path / 'delta'
    write(folders[1], delta, architectures=['LlamaForCausalLM'], torch_dtype='float16', **{**TEXT, 'vocab_size': 303})
    return *folders, base, delta, total


def run(delta, base, out, *more):
    return test_cli.run('import', delta, f'--out={out}', f'--delta-of={base}', *more)


def test_sums_are_imported(pair, tmp_path):
    base, delta, *_, total = pair
    assert run(delta, base, tmp_path / 'out') == 0
    _, model, _ = restore(tmp_path / 'out', dtype='float32')
    params = {p.removeprefix('decoder/'): np.asarray(w) for p, w in flatten(model).items()}
    for key, tensor in to_public(llama.table(GROWN), params):
        # One rounding, of the sum in float32.
        np.testing.assert_array_equal(tensor, total[key].astype(np.float16), err_msg=key)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: t.pop(HEAD), f'the base lacks 1 tensors: {HEAD}; give --delta-of the checkpoint'),
        (lambda t: t.update(x=np.ones(3, np.float16)), 'the base has 1 tensors: x, which the delta lacks'),
        (lambda t: t.update({EMBED: t[EMBED][:, :-1]}), rf'{EMBED} is (303, 16) in model.safetensors and (300, 15)'),
        (lambda t: t.update({EMBED: np.ones((304, 16), np.float16)}), 'and (304, 16)'),
        (lambda t: t.update({NORM: np.ones(15, np.float16)}), f'{NORM} is (16,)'),
        (lambda t: t[NORM].__setitem__(4, np.nan), f'{NORM} (16,) is nan at (4,)'),
    ],
)
def test_bases_that_do_not_fit(pair, tmp_path, capsys, change, message):
    _, delta, base, *_ = pair
    change(base)
    assert run(delta, write(tmp_path / 'other', base), tmp_path / 'out') == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_a_base_that_is_not_there(pair, tmp_path, capsys):
    assert run(pair[1], tmp_path / 'nowhere', tmp_path / 'out') == 2
    assert 'nowhere: no such folder; give that of a checkpoint' in capsys.readouterr().err


def test_shikra_and_ferret_are_loaded_over_a_llama(pair, tmp_path):
    """The projector and the sampler are the delta's alone; the tower comes from elsewhere."""
    base, _, tensors, *_ = pair
    block = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=8))
    sampler = RegionSampler.Config(points=8, anchors=(4, 2), neighbours=(3, 3))
    model = Vlm.Config(
        encoder=Vit.Config(size=(8, 8), patch=4, width=12, depth=1, block=block),
        connector=connector.Linear.Config(), decoder=GROWN, region_sampler=sampler,
    )  # fmt: skip
    build = jax.eval_shape(lambda: model.build(rngs=nnx.Rngs(0)))
    like = {p: s for p, s in flatten(build).items() if not p.startswith('encoder/')}
    rng = np.random.default_rng(2)
    delta = dict(
        to_public(shikra.table(model), {p: rng.standard_normal(s.shape).astype('f4') for p, s in like.items()})
    )
    folder = write(tmp_path / 'shikra', delta)
    assert {MAP, 'model.region_geo_sampler.dim_projector.weight'} <= delta.keys()
    paths = ('connector/.*', 'decoder/.*', 'region_sampler/.*')
    load = Load(str(folder), paths, shikra.table, delta_of=str(base))
    made = Run(model, Layout.Config(), [], load=[load], fresh=('encoder/.*',))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with sharding.use(sharding.make_mesh()):
        blank = {p: jax.device_put(np.zeros(s.shape, 'f4'), here) for p, s in flatten(build).items()}
        found = {p: np.asarray(w) for p, w in load_over(made, blank).items() if not p.startswith('encoder/')}
    for key, tensor in to_public(shikra.table(model), found):
        expected = delta[key].copy()
        if key in tensors:
            expected[: len(tensors[key])] += tensors[key].astype(np.float32)
        np.testing.assert_array_equal(tensor, expected, err_msg=key)
    save_file({k: t for k, t in tensors.items() if k != HEAD}, base / 'model.safetensors')
    with pytest.raises(WeightsError, match=r'the base lacks 1 tensors: lm_head\.weight'):
        load_over(made, blank)
