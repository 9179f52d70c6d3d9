# SPDX-License-Identifier: Apache-2.0
"""The command line: `mmjax train | evaluate | sample | data`.

Only the standard library is imported here; a verb imports what it needs when it runs, so that help comes at once.
"""

import argparse
import difflib
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

PACKAGE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path('~/.cache/mmjax').expanduser()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one verb and exits: 0 done, 2 the command or its data must be changed, 128 + n ended by signal n."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if not args.verb:
        parser.print_help()
        sys.exit(2)
    try:
        overrides = split_overrides(rest)
        _prepare(args.debug)
        sys.exit(args.run(args, overrides) or 0)
    except Exception as e:
        if args.debug or not is_for_user(e):
            raise
        print(f'mmjax {args.verb}: {e}', file=sys.stderr)
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog='mmjax',
        description='Trains and uses multimodal models.',
        epilog='example: mmjax train --config=configs/quickstart.py --workdir=runs/quickstart\n'
        '`mmjax VERB --help` says more.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(debug=False)
    verbs = parser.add_subparsers(dest='verb', metavar='VERB')
    train = _verb(
        verbs,
        'train',
        'train a model, or go on where a run stopped',
        'mmjax train --config=configs/quickstart.py --workdir=runs/a --config.stages[0].optimizer.peak_lr=3e-4',
        'Any field of the config can be set: --config.FIELD=VALUE. Started again, the same command goes on from the\n'
        'last checkpoint, with the same losses as if it had never stopped.',
    )
    train.set_defaults(run=run_train)
    train.add_argument(
        '--config', required=True, metavar='FILE[:ARG]', help='the config file, e.g. configs/quickstart.py'
    )
    train.add_argument('--workdir', required=True, type=pathlib.Path, help='where checkpoints, logs and results go')
    train.add_argument(
        '--accept-changes', action='store_true', help='go on in a work directory begun with another config'
    )
    train.add_argument(
        '--distributed',
        nargs='?',
        const='',
        metavar='HOST:PORT,I,N',
        help='this is process I of N; without a value, as the cluster says (TPU pods, Slurm)',
    )
    return parser


def run_train(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax train`."""
    if args.distributed is not None:
        import jax

        address, *numbers = args.distributed.split(',') if args.distributed else (None, None, None)
        index, count = (n and int(n) for n in numbers)
        jax.distributed.initialize(address, num_processes=count, process_id=index)
    from mmjax.config import load_config
    from mmjax.train import train
    from mmjax.workdir import claim

    run = load_config(args.config, overrides)
    claim(args.workdir, run, args.config, overrides, accept_changes=args.accept_changes)
    return train(run, args.workdir)


def split_overrides(rest: Sequence[str]) -> list[str]:
    """Returns `--config.FIELD=VALUE` arguments; joins a value that stands apart, and refuses everything else."""
    overrides: list[str] = []
    for arg in rest:
        if arg.startswith('--config.'):
            overrides.append(arg)
        elif arg.startswith('--noconfig.') and '=' not in arg:
            overrides.append(f'--config.{arg.removeprefix("--noconfig.")}=false')
        elif overrides and '=' not in overrides[-1] and not arg.startswith('--'):
            overrides[-1] += f'={arg}'
        else:
            near = difflib.get_close_matches(
                arg.split('=')[0], ['--config', '--workdir', '--accept-changes', '--debug'], n=1
            )
            raise ValueError(f'unknown argument {arg!r}' + (f'; did you mean {near[0]}?' if near else ''))
    return [o if '=' in o else f'{o}=true' for o in overrides]


def is_for_user(error: Exception) -> bool:
    """Returns whether an error is a message and no bug: a missing file, or raised on purpose by our own code."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    where = pathlib.Path(frames[-1].filename).resolve()
    ours = where.is_relative_to(PACKAGE) or 'get_config' in {f.name for f in frames}
    return ours and (frames[-1].line or '').startswith('raise')


def _verb(
    verbs: argparse._SubParsersAction, name: str, summary: str, example: str, more: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f'{summary[0].upper()}{summary[1:]}.',
        epilog=f'example: {example}\n\n{more}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser


def _prepare(debug: bool) -> None:
    """Sets what must be set before jax is imported: a compile cache that outlives the process, quiet libraries."""
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')
    if not debug:
        # orbax reports each file it writes, and prints tracebacks of errors that we report in one line.
        logging.getLogger('absl').setLevel(logging.CRITICAL)
