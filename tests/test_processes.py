# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices compute what one of eight does, stop together, and hand over to it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import tiny

import mmjax.train
from mmjax.checkpoint import Store
from mmjax.train import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tests' / 'tiny.py'


def losses(workdir):
    return [json.loads(line)['loss'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def start(workdir, index, port):
    """Starts one of two processes."""
    environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    arguments = ['train', f'--config={SCRIPT}', f'--workdir={workdir}', '--config.stages[0].data.seconds=0.3']
    arguments.append(f'--distributed=localhost:{port},{index},2')
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], env=environment, stderr=subprocess.DEVNULL)


def test_two_processes_stop_together_and_one_goes_on(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    workdir, straight = tmp_path / 'both', tmp_path / 'one'
    processes = [start(workdir, i, port) for i in range(2)]
    try:
        metrics, deadline = workdir / 'metrics.jsonl', time.monotonic() + 90
        while not metrics.exists() or len(losses(workdir)) < 2:
            assert all(p.poll() is None for p in processes) and time.monotonic() < deadline
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)  # one host of a pod is told to go: all must save the same step
        assert [p.wait(timeout=60) for p in processes] == [128 + signal.SIGTERM] * 2
    finally:
        for p in processes:
            p.kill()
    saved = Store(workdir).latest
    assert len(losses(workdir)) == saved and 2 <= saved < 8
    monkeypatch.setattr(mmjax.train, 'Pipeline', tiny.Pipeline)
    assert train(tiny.get_config(), workdir) == 0
    assert train(tiny.get_config(), straight) == 0
    np.testing.assert_allclose(losses(workdir), losses(straight), rtol=2e-6)


def test_a_launcher_brings_back_what_is_killed(tmp_path, monkeypatch):
    workdir, straight = tmp_path / 'both', tmp_path / 'one'
    environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=4', 'PYTHONPATH': str(ROOT)}
    train_command = [sys.executable, str(SCRIPT), 'train', f'--config={SCRIPT}', f'--workdir={workdir}']
    command = [sys.executable, '-m', 'launch', 'local', '--processes=2', '--', *train_command]
    command += ['--config.stages[0].data.seconds=0.3', '--config.checkpoint.every_steps=2']
    launcher = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    children = pathlib.Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children')
    try:
        deadline = time.monotonic() + 120
        while not (workdir / 'checkpoints' / '2').exists():
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(int(children.read_text().split()[1]), signal.SIGKILL)
        said = launcher.communicate(timeout=180)[0].decode()
    finally:
        launcher.kill()
    assert launcher.returncode == 0 and 'process 1 of 2 ended with code 137 (SIGKILL)' in said, said[-2000:]
    monkeypatch.setattr(mmjax.train, 'Pipeline', tiny.Pipeline)
    assert train(tiny.get_config(), straight) == 0
    np.testing.assert_allclose(losses(workdir), losses(straight), rtol=2e-6)
