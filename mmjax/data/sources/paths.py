# SPDX-License-Identifier: Apache-2.0
"""Patterns of paths: `shard-{000..127}.tar`, `{train,val}/*.tar`."""

import glob
import os
import pathlib
import re
from collections.abc import Sequence

_INNER = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')


def braces(pattern: str) -> list[str]:
    """Spells out `{000..127}` (as many digits as the first number has) and `{a,b}`, from left to right."""
    match = next((m for m in _INNER.finditer(pattern) if _RANGE.fullmatch(m[1]) or ',' in m[1]), None)
    if match is None:
        return [pattern]
    if numbers := _RANGE.fullmatch(match[1]):
        first, last = int(numbers[1]), int(numbers[2])
        step = 1 if first <= last else -1
        options = [str(n).zfill(len(numbers[1])) for n in range(first, last + step, step)]
    else:
        options = match[1].split(',')
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [spelt for option in options for spelt in braces(head + option + tail)]


def expand(patterns: Sequence[str]) -> list[pathlib.Path]:
    """Returns the files that patterns name, in order, wildcards sorted; raises FileNotFoundError if one is missing."""
    found: list[pathlib.Path] = []
    missing: list[str] = []
    for pattern in patterns:
        for spelt in braces(os.path.expanduser(pattern)):
            # A file whose name holds a bracket is itself, not a wildcard.
            files = (
                [spelt]
                if os.path.isfile(spelt)
                else sorted(f for f in glob.glob(spelt, recursive=True) if os.path.isfile(f))
            )
            found += [pathlib.Path(file) for file in files]
            missing += [] if files else [spelt]
    if missing or not found:
        raise FileNotFoundError(
            f'{", ".join(map(repr, patterns))}: {len(missing)} of {len(missing) + len(found)} files are missing, e.g. '
            f'{missing[:3]}; {_nearby(missing[0] if missing else ".")}. Copy them there, or correct the pattern'
        )
    return found


def _nearby(path: str) -> str:
    """Tells what there is where a missing file was looked for."""
    folder = pathlib.Path(path).parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = sorted(os.listdir(folder))
    return f'{folder}/ holds {", ".join(names[:8]) or "nothing"}{" ..." if len(names) > 8 else ""}'
