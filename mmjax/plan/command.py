# SPDX-License-Identifier: Apache-2.0
"""The verb `mmjax plan`: its arguments and what it does. Only the standard library is imported before it runs."""

import argparse
import json
import pathlib

EPILOG = (
    'example: mmjax plan --config=configs/flamingo.py:9b --topology=v5p:8x8x8 --mesh=fsdp=128,tp=4\n\n'
    'Compiles the step that `mmjax train` would run, for chips that are not there; minutes, no weights, no data.\n'
    "Needs the TPU compiler: pip install -e '.[plan]'. Topologies: v4:4x4x4, v5e:16x16, v5p:8x8x8, v6e:16x16,\n"
    'tpu7x:4x4x4 and all others that the compiler knows.'
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    add = parser.add_argument
    add('--topology', required=True, metavar='CHIP:SHAPE', help='the pod, e.g. v5p:4x4x4')
    add('--slices', type=int, default=1, metavar='N', help='so many such pods, connected by a network (1)')
    add('--mesh', default='', metavar='AXES', help='e.g. fsdp=128,tp=4; else that of the config')
    add('--stage', default='', metavar='NAME', help="of the config's stages (the last)")
    add('--search', type=int, nargs='?', const=8, default=0, metavar='N', help='compile N variants and rank them (8)')
    add(
        '--out', type=pathlib.Path, default=pathlib.Path('plan'), metavar='DIR', help='for plan.json, plan.html (plan/)'
    )
    add('--timeout', type=float, default=3600, metavar='S', help='the most seconds of one compilation (3600)')


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax plan`; the exit code is 1 where the step does not fit."""
    from mmjax.config import load_config
    from mmjax.plan import plans, show
    from mmjax.plan.chips import chip_of
    from mmjax.plan.program import stage_of

    chip_of(args.topology)
    stage_of(load_config(args.config, overrides), args.stage)
    request = plans.Request(
        config=args.config,
        topology=args.topology,
        overrides=overrides,
        stage=args.stage,
        mesh=args.mesh,
        slices=args.slices,
        timeout=args.timeout,
    )
    tried = []
    for plan in plans.search(request, most=args.search) if args.search else [plans.make(request)]:
        tried.append(plan)
        if args.search:
            print(f'{show.headline(plan)}\n{show.verdict(plan)}\n', flush=True)
    best = min(tried, key=lambda p: (p.step, p.memory.total))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'plan.json').write_text(
        json.dumps([best.to_json(), *(p.to_json() for p in tried if p is not best)], indent=1)
    )
    (args.out / 'plan.html').write_text(show.page(best, tried if args.search else ()))
    print(show.ranked(tried) + '\n' if args.search else '', end='')
    print(show.text(best), f'{args.out / "plan.html"} and plan.json say more', sep='\n\n')
    return 0 if best.memory.fits else 1
