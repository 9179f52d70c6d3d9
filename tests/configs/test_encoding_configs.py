# SPDX-License-Identifier: Apache-2.0
"""Config files whose language model has an encoder: their data is that of one, and what begins an answer is trained."""

import pathlib

import pytest

from configs import args
from mmjax.config import check, load_config
from mmjax.data.check import check as check_batch
from mmjax.data.pipeline import Pipeline

FOLDER = pathlib.Path(args.__file__).parent


@pytest.mark.parametrize('spec', ['blip2.py:t5-xl,debug', 'instructblip.py:t5-xxl,debug'])
def test_documents_become_inputs_and_outputs(spec):
    run = load_config(f'{FOLDER}/{spec}')
    check(run)
    layout = run.layout.build(run.model.media_spec())
    batch, info = next(Pipeline(run.stages[-1].data, layout, 2, run.seed))
    check_batch(batch, run.model.vocab, layout.spec, info.keys)
    looks = batch.media_span[..., 0] < batch.media_span[..., 1]
    starts = batch.tokens == layout.tokenizer.id('<pad>')
    assert (batch.weight[starts & looks] == 1).all() and not batch.weight[~looks].any()
    assert (batch.slot >= 0).any() and not (batch.slot >= 0)[looks].any()
    # One answer a document, and it is what the decoder writes from there on.
    assert [int((row & at).sum()) for row, at in zip(starts, looks, strict=True)] == [len(keys) for keys in info.keys]
