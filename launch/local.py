# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine that belong together: started, watched, and started again together."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

USAGE = 2  # the exit code of a command that starting again does not help
TERMINATED = 128 + signal.SIGTERM


class Group:
    """Processes of one command, each told which of how many it is by `--distributed=HOST:PORT,I,N`."""

    def __init__(self, command: Sequence[str], count: int):
        with socket.socket() as free:
            free.bind(('localhost', 0))
            address = f'localhost:{free.getsockname()[1]}'
        environment, self._lock = {**os.environ, 'PYTHONUNBUFFERED': '1'}, threading.Lock()
        self.processes = [
            subprocess.Popen(
                [*command, f'--distributed={address},{i},{count}'],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on
            )
            for i in range(count)
        ]
        self._readers = [threading.Thread(target=self._copy, args=(i,), daemon=True) for i in range(count)]
        for reader in self._readers:
            reader.start()

    def _copy(self, number: int) -> None:
        for line in self.processes[number].stdout:
            with self._lock:
                sys.stdout.buffer.write(f'[{number}] '.encode() + line)
                sys.stdout.buffer.flush()

    def codes(self) -> list[int | None]:
        """Returns the exit codes so far, as a shell has them: 128 + n for one that signal n ended."""
        found = [p.poll() for p in self.processes]
        return [code if code is None or code >= 0 else 128 - code for code in found]

    def signal(self, number: int) -> None:
        """Sends a signal to those that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def end(self, grace: float) -> None:
        """Lets them save for `grace` seconds, then ends them."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while None in self.codes() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.signal(signal.SIGKILL)  # a stopped process takes no other
        for process, reader in zip(self.processes, self._readers, strict=True):
            process.wait()
            reader.join(timeout=5)


class Asked:
    """Notes that this process was told to end."""

    def __init__(self):
        self.number = 0

    def __enter__(self) -> 'Asked':
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number


def supervise(command: Sequence[str], count: int, *, restarts: int = 3, grace: float = 60.0) -> int:
    """Runs `count` processes until all end well; when one fails, all are ended and started again.

    Returns 0, the exit code of the process that failed last, or 128 + the signal that this process was sent: it is
    passed on, and the processes have `grace` seconds to save. One that ends with 2 says that its command is wrong.
    """
    with Asked() as asked:
        for attempt in range(restarts + 1):
            group = Group(command, count)
            number, code = _watch(group, asked)
            if asked.number:
                say(f'told to end by signal {asked.number}: the processes save')
                group.end(grace)
                return 128 + asked.number
            # One alone cannot save: the others wait for it, so that they need no long grace.
            group.end(grace if code == TERMINATED else 5.0)
            if code == 0:
                return 0
            say(f'process {number} of {count} ended with code {code}' + _meaning(code))
            if code == USAGE or attempt == restarts:
                return code
            say(f'all start again from the last checkpoint, {restarts - attempt} restarts are left')
    raise AssertionError('a supervised run ends in its loop')


def _watch(group: Group, asked: Asked) -> tuple[int, int]:
    """Returns (number, exit code) of the first process that fails, or (0, 0) when all have ended well."""
    while not asked.number:
        codes = group.codes()
        if failed := [(i, code) for i, code in enumerate(codes) if code]:
            return failed[0]
        if None not in codes:
            return 0, 0
        time.sleep(0.05)
    return 0, 0


def _meaning(code: int) -> str:
    if code <= 128:
        return ''
    try:
        return f' ({signal.Signals(code - 128).name})'
    except ValueError:
        return ''


def say(text: str) -> None:
    """Writes a line of the launcher's own."""
    print(f'launch: {text}', file=sys.stderr, flush=True)
