# SPDX-License-Identifier: Apache-2.0
"""Watching a run: what its time goes to, and where it stands when nothing moves."""

import faulthandler
import pathlib
import time
from collections import Counter
from collections.abc import Mapping

BEGAN, SPENT = '_began', '_spent_'


class Goodput:
    """Books a run's time. What it holds lies in checkpoints, so that steps made in vain are forgotten with them.

    Goodput is the time in steps that are part of the model, over all time since the run began: restarts, waits for a
    machine and lost steps are in it.
    """

    def __init__(self):
        self._spent: Counter[str] = Counter()  # what -> seconds
        self._began, self._counted = time.time(), time.perf_counter()

    def count(self, what: str, waited: float = 0.0) -> None:
        """Books the time since the last call; so much of it was waiting for data."""
        now = time.perf_counter()
        self._spent[what] += now - self._counted - waited
        self._spent['data'] += waited
        self._counted = now

    def state(self) -> dict[str, float]:
        """Returns what a checkpoint keeps."""
        return {BEGAN: self._began, **{SPENT + what: seconds for what, seconds in self._spent.items()}}

    def set_state(self, state: Mapping[str, float]) -> None:
        """Goes on from what a checkpoint kept; a run that kept nothing begins now."""
        self._began = state.get(BEGAN, self._began)
        self._spent = Counter({key.removeprefix(SPENT): s for key, s in state.items() if key.startswith(SPENT)})

    def line(self) -> str:
        """Returns the goodput, and what took the rest."""
        total = max(time.time() - self._began, 1e-9)
        rest = {**self._spent, 'starts, restarts and steps made in vain': total - sum(self._spent.values())}
        useful = rest.pop('steps', 0.0)
        others = ', '.join(f'{what} {clock(seconds)}' for what, seconds in rest.items() if seconds >= 1)
        return (
            f'goodput {100 * useful / total:.1f} %: steps {clock(useful)} of {clock(total)}; {others or "nothing else"}'
        )


class Watchdog:
    """Writes the stacks of all threads to a file when no step comes for too long, and again each time as long."""

    def __init__(self, seconds: float, path: pathlib.Path):
        self._seconds, self._path, self._file = seconds, path, None
        if seconds:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, 'w')  # noqa: SIM115  (faulthandler writes to it at any time)

    def alive(self) -> None:
        """Begins to wait anew."""
        if self._file is not None:
            faulthandler.dump_traceback_later(self._seconds, repeat=True, file=self._file)

    def rest(self) -> None:
        """Waits no more, until the next step."""
        faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Ends the watch; the file stays if something is in it."""
        self.rest()
        if self._file is not None:
            self._file.close()
            if self._path.exists() and not self._path.stat().st_size:
                self._path.unlink()
            self._file = None


def clock(seconds: float) -> str:
    """Returns hours, minutes and seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'
