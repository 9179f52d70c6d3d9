# SPDX-License-Identifier: Apache-2.0
"""Writes docs/pods.md: configs at published size on pods, by `mmjax plan`. Needs the extra [plan], minutes a row.

python benchmarks/pods.py llava-13b blip2     plans two, keeps them in docs/pods.json
python benchmarks/pods.py all                 plans all
python benchmarks/pods.py                     writes the page anew from what is kept
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib

from mmjax.plan import show
from mmjax.plan.chips import GIB, chip_of
from mmjax.plan.plans import PlanError, Request, make

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT, PAGE = ROOT / 'docs' / 'pods.json', ROOT / 'docs' / 'pods.md'


def request(config: str, topology: str, mesh: str, stage: str = '', *overrides: str) -> Request:
    """Returns what is planned in a row."""
    return Request(f'configs/{config}', topology, list(overrides), stage, mesh, timeout=5400.0)


PODS = {
    'blip2': request('blip2.py:2.7b', 'v5e:8x8', 'fsdp=64', 'generate', 'stages[1].rows=1920'),
    'kosmos2': request('kosmos2.py', 'v5e:4x4', 'fsdp=16', 'ground'),
    'llava-7b': request('llava.py:7b', 'v5p:4x4x2', 'fsdp=32', 'chat', 'remat=dots'),
    'llava-13b': request('llava.py:13b', 'v5p:4x4x4', 'fsdp=64', 'chat', 'remat=dots'),
    'qwen2.5-vl-7b': request('qwen2_5_vl.py:7b', 'v5p:4x4x4', 'fsdp=64', 'tune', 'remat=dots'),
    'cogvlm-17b': request('cogvlm.py:17b', 'v5p:4x8x8', 'fsdp=256', 'ground', 'remat=dots'),
    'flamingo-9b': request('flamingo.py:9b', 'v5p:4x8x8', 'fsdp=256'),
    # 1,536 chips as published; a batch that they divide.
    'flamingo-80b': request('flamingo.py:80b', 'v4:8x12x16', 'fsdp=192,tp=8', '', 'stages[0].rows=2304'),
    'palm-e-84b': request('palm_e.py:84b', 'v4:8x16x16', 'fsdp=256,tp=8'),
    'palm-e-562b': request('palm_e.py:562b', 'v4:16x16x16', 'fsdp=256,tp=16'),
}

INTRODUCTION = """# Pods

The train step of configs at published size, compiled for pods by the TPU compiler without them (`mmjax plan`; jax
{jax}, libtpu {libtpu}). Memory is what the compiled program needs of a device's. Time and MFU are bounds: cycles that
the compiler scheduled and the collectives that nothing hides; true times are 1.0 to 1.3 times as long. MFU counts
useful FLOPs alone, nothing that is computed again, rows and pictures as full. Chip-hours are those of the stage at that
bound. On 7x a device is half a chip. Written by `python benchmarks/pods.py`.

| run | pod | devices and mesh | remat | GiB a device | s a step | MFU | waiting | chip-hours | compiled in |
|---|---|---|---|---|---|---|---|---|---|
"""


def plan(name: str) -> dict[str, object]:
    """Plans a row; returns what is kept of it."""
    today = datetime.date.today().isoformat()
    try:
        made = make(PODS[name])
    except PlanError as e:
        return dict(date=today, error=str(e))
    print(show.text(made), flush=True)
    return dict(date=today, **made.to_json())


def row(name: str, kept: dict | None) -> str:
    """Returns a line of the table."""
    asked = PODS[name]
    run = f'[{asked.config.removeprefix("configs/")}](../{asked.config.split(":")[0]}) {asked.stage}'.strip()
    if not kept or 'error' in kept:
        why = kept['error'].split(': ', 1)[-1][:120] if kept else 'nobody has planned it'
        return f'| {run} | {asked.topology} | {asked.mesh} | | {why} | | | | | |'
    memory, axes = kept['memory'], ', '.join(f'{axis} {size}' for axis, size in kept['axes'].items() if size > 1)
    need = f'{memory["total"] / GIB:.1f} of {chip_of(asked.topology).hbm / GIB:.1f}'
    times = ['does not fit', '', '', '']
    if 'mfu' in kept:
        waiting = 100 * kept['bound']['waiting'] / kept['step_seconds']
        times = [
            f'{kept["step_seconds"]:.2f}',
            f'{100 * kept["mfu"]:.1f} %',
            f'{waiting:.0f} %',
            f'{kept["chip_hours"]:,.0f}',
        ]
    cells = [run, asked.topology, f'{kept["devices"]}: {axes}', kept['remat'], need, *times, f'{kept["seconds"]:.0f} s']
    return '| ' + ' | '.join(cells) + ' |'


def main() -> None:
    """Plans, keeps, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'all, or of {", ".join(PODS)}')
    args = parser.parse_args()
    names = list(PODS) if args.names == ['all'] else args.names
    if unknown := set(names) - set(PODS):
        parser.error(f'no pod {", ".join(sorted(unknown))}; there are {", ".join(PODS)}')
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in names:
        kept[name] = plan(name)
        KEPT.write_text(json.dumps(kept, indent=1) + '\n')
    versions = {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')}
    lines = [row(name, kept.get(name)) for name in PODS]
    PAGE.write_text(INTRODUCTION.format(**versions) + '\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
