# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import numpy as np
import pytest
import tiny
from test_step_vlm import SYSTEMS

from mmjax import sharding
from mmjax.checkpoint import CheckpointError
from mmjax.config import ConfigError, Load
from mmjax.params import flatten
from mmjax.start import initial, load_over
from mmjax.weights import WeightsError, clip, llama, save, to_public

LLAMA = llama.config(
    dict(hidden_size=16, num_attention_heads=4, num_hidden_layers=2, intermediate_size=32, vocab_size=128, head_dim=4)
)


@pytest.fixture
def run():
    run = tiny.get_config()
    run.model = dataclasses.replace(SYSTEMS['splice'], decoder=LLAMA)
    return run


@pytest.fixture
def public(run, tmp_path):
    """A decoder as others publish it, and its numbers."""
    params = flatten(sharding.init_sharded(LLAMA.build, jax.random.key(7), None))
    values = {p: np.asarray(w) + 1 for p, w in params.items()}
    save(tmp_path / 'llama', to_public(llama.table(LLAMA), values))
    return Load(str(tmp_path / 'llama'), table=llama.table, part='decoder'), values


def test_a_public_checkpoint_fills_a_part(run, public):
    load, values = public
    run.load, run.fresh = [load], ('encoder/.*', 'connector/.*')
    mesh = sharding.make_mesh(1, 2, 2)
    drawn, params = initial(dataclasses.replace(run, load=[], fresh=()), mesh), initial(run, mesh)
    for path, w in params.items():
        expected = values[path.removeprefix('decoder/')] if path.startswith('decoder/') else drawn[path]
        np.testing.assert_array_equal(np.asarray(w), np.asarray(expected), err_msg=path)
        assert w.sharding == drawn[path].sharding


def test_what_a_load_leaves_out_is_named(run, public):
    run.load = [public[0]]
    with pytest.raises(CheckpointError, match=r'neither loaded nor declared fresh: connector/down/bias'):
        initial(run, sharding.make_mesh())


@pytest.mark.parametrize(
    'change, error, message',
    [
        (dict(part='head'), ConfigError, "the model has no part 'head'"),
        (dict(table=clip.vision_table, part='encoder'), WeightsError, 'tensors that the checkpoint lacks'),
        (dict(path='nowhere'), FileNotFoundError, 'nowhere'),
        (dict(table=None), CheckpointError, 'no work directory of a run; for a public checkpoint set Load.table'),
        (dict(paths=('dekoder/.*',)), ValueError, r"'dekoder/\.\*' matches no parameter"),
    ],
)
def test_a_load_that_cannot_be(run, public, change, error, message):
    load = Load(**{**vars(public[0]), **change})
    run.load, run.fresh = [load], ('connector/.*',)
    params = flatten(sharding.init_sharded(run.model.build, jax.random.key(0), None))
    with pytest.raises(error, match=message):
        load_over(run, params)
