# SPDX-License-Identifier: Apache-2.0
"""What a page is read into: texts and pictures in order."""

import dataclasses
import re
from typing import Any

# Stands where something was cut out of a text; neither Markdown nor HTML has a character 0.
CUT = '\0'
_GAP = re.compile(rf'\s*{CUT}[\s{CUT}]*')


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as a page speaks of it."""

    source: str
    alt: str = ''


Part = str | Picture


def joined(found: list[Any]) -> list[Any]:
    """Joins neighbouring texts, closes the gaps where something was cut out, and drops texts of white space only."""
    parts: list[Any] = []
    for part in found:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    parts = [_GAP.sub(_close, part) if isinstance(part, str) else part for part in parts]
    if parts and isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return [part for part in parts if not isinstance(part, str) or part.strip()]


def _close(gap: re.Match[str]) -> str:
    """Returns what is left of the white space round a cut: an empty line, a new line with its indent, or a space."""
    space = gap[0].replace(CUT, '')
    if space.count('\n') == 0:
        return space[:1]
    return '\n' * min(space.count('\n'), 2) + space.rpartition('\n')[2]
