# SPDX-License-Identifier: Apache-2.0
"""The argument of a config file: `configs/llava.py:13b,data=chat.jsonl`."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Args:
    """What was asked for."""

    size: str
    debug: bool = False  # few of everything, for a laptop
    data: str = ''  # a path or name as `mmjax data` takes it, instead of the published mixture
    steps: int = 0  # 0: as the config says
    every: int = 20  # one document in so many is held out


def parse(arg: str, *sizes: str, steps: bool = False) -> Args:
    """Reads an argument; the first size is taken where none is named. Raises ValueError for what is not known.

    `steps`: whether the config takes steps=N, and every=N for what is held out of the user's data.
    """
    known = [*sizes, 'debug', 'data=PATH', *(['steps=N', 'every=N'] if steps else [])]
    found: dict[str, str | int | bool] = {'size': sizes[0]}
    # The commas within braces are part of a path: data={a,b}.tar.
    for word in re.split(r',(?![^{]*\})', arg) if arg else []:
        name, _, value = word.partition('=')
        if word in sizes:
            found['size'] = word
        elif word == 'debug':
            found['debug'] = True
        elif name == 'data' and value:
            found['data'] = value
        elif name in ('steps', 'every') and steps and value.isdigit() and int(value):
            found[name] = int(value)
        else:
            raise ValueError(f'config argument {word!r} is not known; known are {", ".join(known)}')
    return Args(**found)
