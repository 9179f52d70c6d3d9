# SPDX-License-Identifier: Apache-2.0
import pathlib
import subprocess
import sys
import time

import pytest
import tiny

import mmjax.train
from mmjax import cli

TINY = pathlib.Path(__file__).parent / 'tiny.py'


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    monkeypatch.setattr(mmjax.train, 'Pipeline', tiny.Pipeline)


def run(*arguments):
    """Returns the exit code of a command line."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(a) for a in arguments])
    return end.value.code


def verbs():
    return sorted(cli.build_parser()._subparsers._group_actions[0].choices)


def test_help_comes_at_once_and_imports_no_jax():
    program = """
import sys
import mmjax.cli
try:
    mmjax.cli.main(['--help'])
except SystemExit:
    sys.exit(len({'jax', 'numpy', 'flax', 'absl'} & set(sys.modules)))
"""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert subprocess.run([sys.executable, '-c', program], capture_output=True).returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


@pytest.mark.parametrize('verb', verbs())
def test_help_fits_a_screen_and_shows_an_example(verb, capsys):
    assert run(verb, '--help') == 0
    text = capsys.readouterr().out
    assert f'example: mmjax {verb} ' in text
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 120


def test_train_and_again(tmp_path, capsys):
    command = ('train', f'--config={TINY}', f'--workdir={tmp_path}', '--config.stages[0].steps', '3')
    assert run(*command) == 0
    assert 'stopped' not in capsys.readouterr().err
    assert run(*command) == 0
    assert run(*command[:3], '--config.stages[0].steps=4') == 2
    assert 'stages[0].steps: 3 -> 4' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--config.stages[0].stps=3'], "Stage has no field 'stps'; did you mean 'steps'?"),
        (['--config.stages[0].steps=many'], "Stage.steps is int, 'many' is not"),
        (['--config.stages[0].accumulate=3'], '8 rows cannot be split into accumulate=3 parts'),
        (['--config.mesh.tp=64'], 'needs 256 devices, there are 8'),
        (['--config.stages[0].optimizer.schedule=cosin'], "'cosin' is none of constant, linear, cosine"),
        (["--config.stages[0].trainable=('upp/.*',)"], "'upp/.*' matches no parameter"),
        (['--wrokdir=x'], "unknown argument '--wrokdir=x'; did you mean --workdir?"),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(tmp_path, capsys, arguments, message):
    assert run('train', f'--config={TINY}', f'--workdir={tmp_path / "run"}', *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error and error.splitlines()[-1].startswith('mmjax train: ')


def test_a_config_file_that_is_not_there(tmp_path, capsys):
    assert run('train', f'--config={TINY.with_name("tny.py")}', f'--workdir={tmp_path}') == 2
    assert 'did you mean tiny?' in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match='stps'):
        cli.main(['train', '--debug', f'--config={TINY}', f'--workdir={tmp_path}', '--config.stages[0].stps=3'])


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(mmjax.train, 'Pipeline', lambda *a, **k: [][0])
    with pytest.raises(IndexError):
        cli.main(['train', f'--config={TINY}', f'--workdir={tmp_path}'])


@pytest.mark.parametrize(
    'rest, overrides',
    [
        (['--config.a.b=1'], ['--config.a.b=1']),
        (['--config.a', '-1', '--config.b'], ['--config.a=-1', '--config.b=true']),
        (['--noconfig.a'], ['--config.a=false']),
    ],
)
def test_overrides(rest, overrides):
    assert cli.split_overrides(rest) == overrides
