# SPDX-License-Identifier: Apache-2.0
"""An evaluation leaves figures that can be found again, beside a control; any mesh gives the same answers."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from mmjax import evaluate, sharding
from mmjax.config import Adamw, ConfigError, Eval, Run, Stage
from mmjax.data.coordinates import Numbers
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix, Part
from mmjax.data.sources.digits import Digits
from mmjax.data.templates import ImageFormat, TextFormat
from mmjax.data.tokenizer import Bytes
from mmjax.models import connector
from mmjax.models.decoder import Decoder
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block
from mmjax.nn.mlp import Mlp
from mmjax.objectives.next_token import NextToken

CODEC = Numbers(bins=True, steps=16, last=15, box='<loc_{x0}><loc_{y0}><loc_{x1}><loc_{y1}>')
SPECIAL = ('<image>', '</s>', *CODEC.special_tokens())
VOCAB = 256 + len(SPECIAL)
EVALS = [
    Eval('caption', Digits.Config(task='caption', split='test', count=6), max_new_tokens=3, count=4, shots=1),
    Eval('box', Digits.Config(task='find', split='test'), metric='box_iou', constrain=True, count=5, max_new_tokens=4),
]


def config() -> Run:
    block = Block.Config(attn=Attention.Config(heads=2), mlp=Mlp.Config(width=16))
    vit = Vit.Config(size=(32, 32), patch=8, width=16, depth=1, block=block)
    decoder = Decoder.Config(vocab=VOCAB, width=16, depth=1, block=block)
    layout = Layout.Config(
        tokenizer=Bytes.Config(special=SPECIAL),
        max_tokens=96,
        max_media=2,
        text=TextFormat(end='</s>'),
        image=ImageFormat(),
        coordinates=CODEC,
    )
    stage = Stage('all', Mix.Config(parts=[Part(source=Digits.Config())]), rows=8, steps=1, optimizer=Adamw())
    model = Vlm.Config(encoder=vit, connector=connector.Linear.Config(), decoder=decoder)
    return Run(model, layout, [stage], compute_dtype='float32', evals=EVALS)


def build(run: Run, mesh=None):
    return sharding.init_sharded(run.model.build, jax.random.key(0), mesh)


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    workdir, run = tmp_path_factory.mktemp('run'), config()
    lines = [{'step': 10, 'loss': 3, 'lr': 0.1}, {'step': 20, 'loss': 2.0, 'lr': 0.1}]
    (workdir / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return workdir, evaluate.run(run, build(run), workdir, step=7)


def test_results(measured):
    workdir, results = measured
    assert json.loads((workdir / 'results.json').read_text()) == json.loads(json.dumps(results))
    for name in ('caption_exact', 'caption_loss', 'caption_perplexity', 'box_iou50', 'box_iou', 'box_loss'):
        assert isinstance(results[name], float) and isinstance(results[f'blind_{name}'], float)
    assert results['caption_perplexity'] == pytest.approx(math.exp(results['caption_loss']))
    detail = results['detail']
    assert detail['step'] == 7 and detail['versions']['jax'] == jax.__version__ and detail['config']['evals']
    assert detail['evals']['caption']['decoding']['max_new_tokens'] == 3
    assert detail['evals']['caption']['prompt'].count('<image>x16') == 2


def test_predictions(measured):
    lines = [json.loads(line) for line in (measured[0] / 'predictions.jsonl').read_text().splitlines()]
    captions, boxes = lines[:4], lines[4:]
    assert {p['eval'] for p in captions} == {'caption'} and {p['eval'] for p in boxes} == {'box'} and len(boxes) == 5
    for p in captions:
        assert len(p['examples']) == 1 and p['examples'][0] != p['key'] and len(p['images']) == 2
        assert p['blind_pictures_of'] != p['key']
        assert p['blind_images'][0] == p['images'][0] and p['blind_images'][1] != p['images'][1]
    seen = {p['images'][1] for p in captions}
    assert {p['blind_images'][1] for p in captions} == seen
    for p in boxes:
        assert len(p['found_boxes']) == len(p['true_boxes']) == 1 and p['scores']['iou'] >= 0
        assert len(CODEC.decode(p['blind_answer'])) == 1


def test_report(measured):
    page = (measured[0] / 'report.html').read_text()
    assert 'http' not in page and page.count('src="data:image/') == 9 and '<polyline' in page
    assert {p.name for p in (measured[0] / 'report').glob('*.png')} == {
        'loss.png',
        'lr.png',
        'answers.png',
        'boxes.png',
    }


def test_mesh_gives_the_same(measured):
    run, mesh = config(), sharding.make_mesh(2, 2, 2)
    with sharding.use(mesh):
        found = evaluate.measure(run, build(run, mesh), EVALS[1:])[0]
    assert found.figures == pytest.approx(
        {k: v for k, v in measured[1].items() if k in found.figures}, rel=1e-5, abs=1e-4
    )


def test_loss_of_a_model_that_knows_nothing():
    run = config()
    model = jax.tree.map(jnp.zeros_like, build(run))
    layout = run.layout.build(run.model.media_spec())
    documents = evaluate.read(EVALS[0].source, None, 4, evaluate.Counter())
    found = evaluate.losses('x', documents, layout, model, NextToken())
    assert found['x_loss'] == pytest.approx(math.log(VOCAB), rel=1e-5) and found['x_perplexity'] == pytest.approx(
        VOCAB, rel=1e-4
    )


def test_similar_examples():
    run = config()
    layout, model = run.layout.build(run.model.media_spec()), build(run)
    ev = Eval('x', EVALS[0].source, shots=2, shots_by='similar')
    documents = evaluate.read(ev.source, None, 5, evaluate.Counter())
    documents[4].pieces[0] = documents[0].pieces[0]
    chosen = evaluate.choose_examples(ev, documents, layout, model, evaluate.Counter())
    assert [d.key for d in chosen[0]][-1] == documents[4].key and documents[0].key not in [d.key for d in chosen[0]]


@pytest.mark.parametrize('wrong, message', [({'metric': 'bleu'}, 'bleu'), ({'shots': 1, 'shots_by': 'luck'}, 'luck')])
def test_refuses(wrong, message):
    run = config()
    with pytest.raises(ConfigError, match=message):
        evaluate.measure(run, build(run), [Eval('x', EVALS[0].source, count=2, **wrong)])
