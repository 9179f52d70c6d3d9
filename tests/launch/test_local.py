# SPDX-License-Identifier: Apache-2.0
"""Processes that belong together are started, ended and started again together."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.local import supervise

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Each process notes its attempt; then it does what its number and the attempt say.
SCRIPT = """
import os, pathlib, signal, sys, time
number, count = map(int, sys.argv[-1].split(',')[1:])
notes = pathlib.Path(sys.argv[1]) / f'attempts{number}'
attempt = len(notes.read_text()) if notes.exists() else 0
notes.write_text('x' * (attempt + 1))
print('process', number, 'of', count, sys.argv[-1].split('=')[0])
exec(sys.argv[2])
"""


def run(folder, body, **settings):
    (folder / 'script.py').write_text(SCRIPT)
    command = [sys.executable, str(folder / 'script.py'), str(folder), body]
    return supervise(command, 3, grace=settings.pop('grace', 2.0), **settings)


def attempts(folder):
    return [len((folder / f'attempts{i}').read_text()) for i in range(3)]


def test_all_end_well(tmp_path, capfdbinary):
    assert run(tmp_path, 'pass') == 0 and attempts(tmp_path) == [1, 1, 1]
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert sorted(lines) == [f'[{i}] process {i} of 3 --distributed' for i in range(3)]


@pytest.mark.parametrize('death', ['os.kill(os.getpid(), signal.SIGKILL)', 'sys.exit(1)', 'sys.exit(143)'])
def test_one_that_dies_takes_the_others_along_and_all_come_again(tmp_path, death, capfd):
    body = f'if attempt == 0:\n  if number == 1: {death}\n  time.sleep(60)'
    began = time.monotonic()
    assert run(tmp_path, body, grace=1.0) == 0 and attempts(tmp_path) == [2, 2, 2]
    assert time.monotonic() - began < 30
    assert 'process 1 of 3 ended with code' in capfd.readouterr().err


def test_one_that_stops_is_ended_all_the_same(tmp_path):
    body = 'if attempt == 0:\n  if number == 0: os.kill(os.getpid(), signal.SIGSTOP)\n  if number == 2: sys.exit(1)'
    assert run(tmp_path, body, grace=1.0) == 0 and attempts(tmp_path)[0] == 2


def test_restarts_come_to_an_end(tmp_path):
    assert run(tmp_path, 'sys.exit(7 if number == 2 else 0)', restarts=2) == 7
    assert attempts(tmp_path)[2] == 3


def test_a_wrong_command_is_not_tried_again(tmp_path):
    assert run(tmp_path, 'sys.exit(2)') == 2 and max(attempts(tmp_path)) == 1


def test_who_is_told_to_end_lets_them_save(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    saves = (
        "signal.signal(signal.SIGTERM, lambda *a: (pathlib.Path(sys.argv[1], f'saved{number}').touch(), sys.exit(0)))"
    )
    body = f"{saves}\npathlib.Path(sys.argv[1], f'ready{{number}}').touch()\ntime.sleep(60)"
    command = [sys.executable, '-m', 'launch', 'local', '--processes=3', '--grace=10', '--', sys.executable]
    launcher = subprocess.Popen(
        [*command, str(tmp_path / 'script.py'), str(tmp_path), body],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob('ready*'))) < 3:
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=30) == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob('saved*'))) == 3
