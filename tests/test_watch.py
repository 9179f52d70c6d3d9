# SPDX-License-Identifier: Apache-2.0
"""What a run's time went to, and where it stands when nothing moves."""

import time

import pytest

from mmjax import watch
from mmjax.watch import Goodput, Watchdog


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    seconds = [0.0]
    monkeypatch.setattr(watch.time, 'perf_counter', lambda: seconds[0])
    monkeypatch.setattr(watch.time, 'time', lambda: 1e9 + seconds[0])
    return seconds


def test_time_is_booked(now):
    goodput = Goodput()
    for seconds, what, waited in ((10, 'compiling', 0), (70, 'steps', 5.0), (80, 'checkpoints', 0), (100, 'steps', 0)):
        now[0] = float(seconds)
        goodput.count(what, float(waited))
    assert goodput.line() == (
        'goodput 75.0 %: steps 0:01:15 of 0:01:40; compiling 0:00:10, data 0:00:05, checkpoints 0:00:10'
    )


def test_steps_made_in_vain_do_not_count(now):
    first = Goodput()
    now[0] = 50.0
    first.count('steps')
    kept = first.state()  # a checkpoint; then 30 s of steps, a crash, and a minute without a machine
    now[0] = 80.0
    first.count('steps')
    now[0] = 140.0
    second = Goodput()
    second.set_state(kept)
    now[0] = 200.0
    second.count('steps')
    said = 'goodput 55.0 %: steps 0:01:50 of 0:03:20; starts, restarts and steps made in vain 0:01:30'
    assert second.line() == said


def test_a_run_that_hangs_says_where(tmp_path):
    dog = Watchdog(0.2, tmp_path / 'stacks' / 'process0.txt')
    dog.alive()
    time.sleep(0.7)
    dog.rest()
    text = (tmp_path / 'stacks' / 'process0.txt').read_text()
    assert text.count('Timeout') >= 2 and 'test_a_run_that_hangs_says_where' in text
    dog.alive()
    dog.close()
    assert (tmp_path / 'stacks' / 'process0.txt').read_text() == text


def test_nothing_is_left_of_a_run_that_does_not(tmp_path):
    dog = Watchdog(10.0, tmp_path / 'process0.txt')
    dog.alive()
    dog.close()
    assert list(tmp_path.iterdir()) == []
    Watchdog(0.0, tmp_path / 'process0.txt').alive()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_removed_meanwhile_is_no_error(tmp_path):
    dog = Watchdog(10.0, tmp_path / 'process0.txt')
    (tmp_path / 'process0.txt').unlink()
    dog.close()
