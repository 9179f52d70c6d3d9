# SPDX-License-Identifier: Apache-2.0
"""Prompts from the command line become documents; answers come back with boxes on the picture as it was given."""

import pathlib

import jax
import numpy as np
import pytest
from PIL import Image as pillow
from test_evaluate import build, config

from mmjax import ask
from mmjax.ask import Request, answer, compose, describe
from mmjax.config import ConfigError, load_config
from mmjax.data.sources.digits import LIST
from mmjax.data.templates import vicuna
from mmjax.decode.sampling import Decoding
from mmjax.document import BadDocument, Image
from mmjax.nn.positions import Learned

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
A, B = pathlib.Path('a.png'), pathlib.Path('b.png')


def drawn(document):
    return ' '.join(p.name if isinstance(p, Image) else repr(p.text) for p in document.pieces)


@pytest.mark.parametrize(
    'prompts, pictures, expected',
    [
        (['what?'], [], "'what?'"),
        (['what?'], [A, B], "a.png b.png 'what?'"),
        (['<image>is a, <image>?'], [A, B], "a.png 'is a, ' b.png '?'"),
        (['<image>what?', 'a cat', 'and <image>'], [A, B], "a.png 'what?' 'a cat' 'and ' b.png"),
    ],
)
def test_compose(prompts, pictures, expected):
    document = compose(prompts, pictures, chat=False)
    assert drawn(document) == expected and 'roles' not in document.meta
    assert all(piece.weight == 0 for piece in document.pieces)


def test_turns():
    document = compose(['<image>what?', 'a cat', 'and here? <image>'], [A, B], chat=True)
    assert document.meta['roles'] == ['user', 'user', 'assistant', 'user', 'user', 'assistant']


@pytest.mark.parametrize('prompt, pictures', [('<image><image>', [A]), ('<image>', [A, B])])
def test_markers_must_match(prompt, pictures):
    with pytest.raises(ConfigError, match='markers'):
        compose([prompt], pictures, chat=False)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """A work directory, as if a model had been trained in it, and a picture of 64 x 48."""
    run = config()
    monkeypatch.setattr(ask, 'read_run', lambda workdir: run)
    monkeypatch.setattr(ask, 'restore', lambda workdir, mesh, **which: (run, build(run, mesh), 0))
    path = tmp_path / 'picture.png'
    pillow.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return run, tmp_path, path


def test_answers_and_boxes(trained):
    _, folder, path = trained
    how, out = Decoding(max_new_tokens=4, temperature=5.0), folder / 'o.png'
    asked = {'prompts': ['where? '], 'pictures': [path], 'samples': 2, 'box': True, 'draw': out}
    request = Request(checkpoint=folder, how=how, **asked)
    answers, boxes = answer(request)
    assert [len(found) for found in boxes] == [1, 1] and answers[0].text != answers[1].text
    lines = describe(request, answers, boxes).splitlines()
    assert len(lines) == 4 and lines[1].startswith('  box ')
    x0, y0, x1, y1 = map(float, lines[1].split()[1:])
    assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48
    picture = np.asarray(pillow.open(out))
    assert picture.shape == (288, 384, 3) and (picture == (249, 115, 22)).all(-1).any()


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'draw': pathlib.Path('o.png'), 'pictures': []}, '--image'),
        ({'pictures': [pathlib.Path('absent.png')]}, 'absent.png'),
        ({'how': Decoding(top_p=2.0)}, 'top_p'),
        ({'prompts': []}, '--prompt'),
        ({'prompts': ['x' * 200]}, 'too long'),
    ],
)
def test_refuses(trained, changes, message):
    _, folder, path = trained
    with pytest.raises(Exception, match=message):
        answer(Request(**{'checkpoint': folder, 'prompts': ['a'], 'pictures': [path], **changes}))


def test_refuses_turns_that_do_not_end_with_the_user(trained):
    run, folder, path = trained
    run.layout.text = vicuna().text
    run.layout.tokenizer.special = (*run.layout.tokenizer.special, '<s>')
    with pytest.raises(ConfigError, match='odd'):
        answer(Request(checkpoint=folder, prompts=['a', 'b'], pictures=[path]))


def test_refuses_answers_beyond_learned_positions(trained):
    run, folder, path = trained
    run.model.decoder.position = Learned.Config(length=40)
    with pytest.raises(ValueError, match='learned 40 positions; lower max_new_tokens to 17'):
        answer(Request(checkpoint=folder, prompts=['where? '], pictures=[path]))


def test_mesh_without_replicas():
    run = config()
    run.mesh.data, run.mesh.fsdp, run.mesh.tp = -1, 2, 2
    assert dict(ask.mesh_for(run).shape) == {'data': 1, 'fsdp': 2, 'tp': 2}
    run.mesh.tp = 2 * jax.device_count()
    assert ask.mesh_for(run).size == 1


@pytest.mark.parametrize(
    'spec, message',
    [
        ('clip.py', 'a Pair, compares pictures with words and writes no answers; .* `mmjax evaluate --checkpoint='),
        ('mae.py', 'a Mae, reads pictures alone and writes no answers'),
        ('butd.py', 'a TopDown, reads pictures as vectors of a detector, 196 numbers each: give them by --features'),
    ],
)
def test_models_that_cannot_be_asked_like_this(monkeypatch, tmp_path, spec, message):
    run = load_config(f'{CONFIGS}/{spec}:debug')
    monkeypatch.setattr(ask, 'read_run', lambda workdir: run)
    with pytest.raises(ConfigError, match=message):
        answer(Request(checkpoint=tmp_path, prompts=['what?']))


def test_answers_are_chosen_from_a_list(monkeypatch, tmp_path):
    run = load_config(f'{CONFIGS}/butd.py:debug')
    monkeypatch.setattr(ask, 'read_run', lambda workdir: run)
    monkeypatch.setattr(ask, 'restore', lambda workdir, mesh, **which: (run, build(run, mesh), 0))
    np.save(tmp_path / 'a.npy', np.zeros((2, 196), np.float32))
    answers, boxes = answer(Request(checkpoint=tmp_path, prompts=['a 7?'], features=[('', tmp_path / 'a.npy')]))
    assert answers[0].text in LIST and answers[0].log_prob < 0 and boxes == [[]]
    with pytest.raises(ConfigError, match=r'no features .*b\.npy'):
        answer(Request(checkpoint=tmp_path, prompts=['a 7?'], features=[('', tmp_path / 'b.npy')]))
    with pytest.raises(BadDocument, match="features of the kind 'audio': the model reads features"):
        answer(Request(checkpoint=tmp_path, prompts=['a 7?'], features=[('audio', tmp_path / 'a.npy')]))
