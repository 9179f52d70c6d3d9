# SPDX-License-Identifier: Apache-2.0
"""The command line: `mmjax train | plan | evaluate | sample | import | export | data`.

Only the standard library is imported here; a verb imports what it needs when it runs, so that help comes at once.
"""

import argparse
import difflib
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmjax.plan import command

if TYPE_CHECKING:
    from mmjax.data.layout import Layout

PACKAGE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path('~/.cache/mmjax').expanduser()
Body = Callable[[argparse.Namespace, list[str]], int | None]


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
        epilog='example: mmjax train --config=configs/quickstart.py\n`mmjax VERB --help` says more.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(debug=False)
    verbs = parser.add_subparsers(dest='verb', metavar='VERB')
    _add_train(verbs)
    _add_plan(verbs)
    _add_evaluate(verbs)
    _add_sample(verbs)
    _add_import(verbs)
    _add_export(verbs)
    _add_data(verbs)
    return parser


def _add_train(verbs: argparse._SubParsersAction) -> None:
    train = _verb(verbs, 'train', run_train, 'train a model, or go on where a run stopped')
    train.epilog = (
        'example: mmjax train --config=configs/quickstart.py --config.stages[0].optimizer.peak_lr=3e-4\n\n'
        'Any field of the config can be set: --config.FIELD=VALUE. Started again, the same command goes on from the\n'
        'last checkpoint, with the same losses as if it had never stopped.'
    )
    _config(train, required=True)
    train.add_argument('--workdir', type=pathlib.Path, help='for checkpoints, logs and results; else runs/NAME')
    train.add_argument('--accept-changes', action='store_true', help='go on in a workdir begun with another config')
    train.add_argument(
        '--distributed',
        nargs='?',
        const='',
        metavar='HOST:PORT,I,N',
        help='this is process I of N; without a value, as the cluster says (TPU pods, Slurm)',
    )


def _add_plan(verbs: argparse._SubParsersAction) -> None:
    plan = _verb(verbs, 'plan', command.run, 'compile a run for a TPU pod that is not there: does it fit, how fast')
    plan.epilog = command.EPILOG
    _config(plan, required=True)
    command.arguments(plan)


def _add_evaluate(verbs: argparse._SubParsersAction) -> None:
    evaluate = _verb(verbs, 'evaluate', run_evaluate, 'measure a trained model and write its report')
    evaluate.epilog = (
        'example: mmjax evaluate --checkpoint=runs/quickstart --eval=box --config.evals[2].count=64\n\n'
        'Writes results.json, predictions.jsonl and report.html into the work directory.'
    )
    _checkpoint(evaluate)
    _config(evaluate, required=False, more='; its evals are measured, else those of the run')
    evaluate.add_argument(
        '--eval', action='append', default=[], metavar='NAME', help='measure this one only; repeatable'
    )


def _add_sample(verbs: argparse._SubParsersAction) -> None:
    sample = _verb(verbs, 'sample', run_sample, 'ask a trained model about pictures')
    sample.epilog = (
        'example: mmjax sample --checkpoint=runs/quickstart --image=a.png --prompt="where is 7" --draw=found.png\n\n'
        'Markers <image> in the prompt place the pictures; without any they come first. For models that chat, repeat\n'
        '--prompt: the turns of the user, the model, the user and so on. --prompt=- reads standard input.'
    )
    _checkpoint(sample)
    add = sample.add_argument
    add('--image', action='append', default=[], type=pathlib.Path, metavar='FILE', help='a picture; repeatable')
    add(
        '--features', action='append', default=[], metavar='[KIND=]FILE', help='vectors (.npy): audio=a.npy; repeatable'
    )
    add('--prompt', action='append', required=True, metavar='TEXT', help='the question, as it was put in training')
    add('--draw', type=pathlib.Path, metavar='FILE', help='save the last picture with the boxes of the answer')
    add('--constrain-box', action='store_true', help='let the answer be one valid box and nothing else')
    add('--samples', type=int, default=1, metavar='N', help='answers (1); with a temperature they differ')
    add('--max-new-tokens', type=int, default=128, metavar='N', help='the longest answer (128)')
    add('--temperature', type=float, default=0.0, help='0: the likeliest token each time (0)')
    add('--top-k', type=int, default=0, metavar='K', help='draw among the K likeliest tokens; 0: all (0)')
    add('--top-p', type=float, default=1.0, metavar='P', help='draw among the likeliest that add up to P (1)')
    add('--beams', type=int, default=1, metavar='N', help='beam search with N beams (1: none)')
    add('--length-penalty', type=float, default=1.0, help='beams score log p / length ** this (1)')
    add('--stop', action='append', default=[], metavar='TEXT', help='end the answer at this text; repeatable')
    add('--seed', type=int, default=0, help='of the draws (0)')


def _checkpoint(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        '--checkpoint', required=True, type=pathlib.Path, metavar='WORKDIR', help='a run that was trained'
    )
    verb.add_argument('--step', type=int, help='of which checkpoint; else the last')
    verb.add_argument('--ema', action='store_true', help='take the averaged weights')


def _add_import(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, 'import', run_import, 'make a work directory of a public checkpoint')
    verb.epilog = (
        'example: mmjax import weights/llava-1.5-7b-hf --config=configs/llava.py:7b --stage=chat --out=runs/llava\n\n'
        'DIR is a folder as the Hub has it. Without --config the model is what config.json says, and can be asked,\n'
        'measured, and loaded by other runs (run.load); with it, `mmjax train` goes on from there.'
    )
    add = verb.add_argument
    add('folder', type=pathlib.Path, metavar='DIR', help='config.json, safetensors (shards too), tokenizer files')
    add('--out', required=True, type=pathlib.Path, metavar='WORKDIR', help='the work directory; must not be there')
    _config(verb, required=False, more=' that is trained on from the weights; else config.json')
    add('--stage', default='', metavar='NAME', help='the stage that begins with the weights (the first)')
    add('--accept-changes', action='store_true', help='config.json may say otherwise, or more')
    add('--new-tokens', action='store_true', help='the layout may write tokens that the tokenizer lacks')
    add('--delta-of', type=pathlib.Path, metavar='BASE', help='add the tensors of this folder, of which DIR is a delta')
    add('--pickled', action='store_true', help='read .bin and .pt files too, their weights only (needs torch)')


def _add_export(verbs: argparse._SubParsersAction) -> None:
    verb = _verb(verbs, 'export', run_export, 'write a trained model as a public checkpoint')
    verb.epilog = 'example: mmjax export runs/llava --out=llava-tuned --dtype=bfloat16'
    add = verb.add_argument
    add('workdir', type=pathlib.Path, metavar='WORKDIR', help='a run, begun by `mmjax import` or with --like')
    add('--out', required=True, type=pathlib.Path, metavar='DIR', help='the folder; must not be there')
    add('--like', type=pathlib.Path, metavar='DIR', help='a public folder whose config.json describes the model')
    add('--step', type=int, help='of which checkpoint; else the last')
    add('--ema', action='store_true', help='take the averaged weights')
    add('--dtype', default='', help='float32, bfloat16 or float16; else that of config.json')


def _add_data(verbs: argparse._SubParsersAction) -> None:
    data = _verb(verbs, 'data', None, 'look at data, and prove that packing it changes nothing')
    data.epilog = (
        'example: mmjax data inspect pages/\n\n'
        'A source is a folder of pages, tars (shards/x-{000..127}.tar), JSONL or COCO files, a TFDS set\n'
        '(tfds:NAME:SPLIT), or digits:caption. `mmjax data VERB --help` says more.'
    )
    kinds = data.add_subparsers(dest='kind', metavar='VERB', required=True)
    inspect = _verb(kinds, 'inspect', run_inspect, 'count what a source holds, what is dropped and how full rows get')
    inspect.epilog = "example: mmjax data inspect 'shards/x-{000..127}.tar' --decode"
    show = _verb(kinds, 'show', run_show, 'draw documents with their boxes, a packed row token by token, and its masks')
    show.epilog = 'example: mmjax data show digits:find --out=/tmp/digits --count=4'
    for verb in (inspect, show):
        verb.add_argument('source', help='a path or a name')
        _config(verb, required=False, more="; its model's layout is used, else bytes and 64 tokens a picture")
    inspect.add_argument('--limit', type=int, default=2000, help='documents looked at, evenly spaced; 0: all (2000)')
    inspect.add_argument('--decode', action='store_true', help='decode every picture too')
    show.add_argument('--out', type=pathlib.Path, default=pathlib.Path('shown'), help='folder for the pages (shown/)')
    show.add_argument('--count', type=int, default=8, help='documents (8)')
    show.add_argument('--first', type=int, default=0, help='number of the first one')
    verify = _verb(kinds, 'verify', run_verify, 'prove that packed documents learn what separate ones do')
    verify.epilog = 'example: mmjax data verify --config=configs/flamingo.py:debug'
    _config(verify, required=True)
    verify.add_argument('--stage', type=int, default=0, help='number of the stage whose data is used (0)')


def run_evaluate(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax evaluate`."""
    from mmjax.config_io import load_config, override
    from mmjax.evaluate import measure_workdir
    from mmjax.workdir import read_run

    run = load_config(args.config, overrides) if args.config else override(read_run(args.checkpoint), overrides)
    measure_workdir(args.checkpoint, run, only=args.eval, step=args.step, ema=args.ema)
    return 0


def run_sample(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax sample`: answers on standard output, their boxes in pixels behind them."""
    if overrides:
        raise ValueError(f'{overrides[0]}: sample takes the config of the checkpoint as it is')
    from mmjax.ask import Request, answer, describe
    from mmjax.decode.sampling import Decoding

    names = ('max_new_tokens', 'temperature', 'top_k', 'top_p', 'beams', 'length_penalty', 'seed')
    how = Decoding(**{name: getattr(args, name) for name in names}, stop=tuple(args.stop))
    prompts = [sys.stdin.read() if prompt == '-' else prompt for prompt in args.prompt]
    request = Request(
        checkpoint=args.checkpoint,
        prompts=prompts,
        pictures=args.image,
        features=[(kind, pathlib.Path(path)) for kind, _, path in (f.rpartition('=') for f in args.features)],
        how=how,
        samples=args.samples,
        box=args.constrain_box,
        draw=args.draw,
        step=args.step,
        ema=args.ema,
    )
    print(describe(request, *answer(request)))
    return 0


def run_import(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax import`."""
    from mmjax.config_io import load_config
    from mmjax.public import Request, describe, import_checkpoint

    if overrides and not args.config:
        raise ValueError(f'{overrides[0]} changes no config; give one with --config=FILE')
    request = Request(
        folder=args.folder,
        out=args.out,
        run=load_config(args.config, overrides) if args.config else None,
        spec=args.config or '',
        overrides=overrides,
        stage=args.stage,
        delta_of=args.delta_of,
        pickled=args.pickled,
        accept_changes=args.accept_changes,
        new_tokens=args.new_tokens,
    )
    print(describe(import_checkpoint(request)))
    return 0


def run_export(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax export`."""
    if overrides:
        raise ValueError(f'{overrides[0]}: export takes the config of the work directory as it is')
    from mmjax.public import export_checkpoint

    step = export_checkpoint(args.workdir, args.out, like=args.like, step=args.step, ema=args.ema, dtype=args.dtype)
    print(f'{args.out}: the model of step {step}')
    return 0


def run_train(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax train`."""
    if args.distributed is not None:
        import jax

        found = re.fullmatch(r'(\S+:\d+),(\d+),(\d+)', args.distributed)
        if args.distributed and not found:
            raise ValueError(f'--distributed={args.distributed}: write HOST:PORT,I,N, e.g. localhost:9876,0,2')
        address, index, count = found.groups() if found else (None, None, None)
        # A peer that is gone or hangs is noticed within so many seconds, and named.
        peer = dict(heartbeat_timeout_seconds=40)
        jax.distributed.initialize(address, count and int(count), index and int(index), **peer)
    from mmjax.config import load_config
    from mmjax.train import train
    from mmjax.workdir import claim

    run, workdir = load_config(args.config, overrides), args.workdir or default_workdir(args.config)
    claim(workdir, run, args.config, overrides, accept_changes=args.accept_changes)
    return train(run, workdir)


def run_inspect(args: argparse.Namespace, overrides: list[str]) -> None:
    """Runs `mmjax data inspect`."""
    from mmjax.data.inspect import inspect
    from mmjax.data.sources import open_source

    print(inspect(open_source(args.source), _layout(args, overrides), args.limit or None, decode=args.decode))


def run_show(args: argparse.Namespace, overrides: list[str]) -> None:
    """Runs `mmjax data show`."""
    from mmjax.data.show import show
    from mmjax.data.sources import open_source

    for file in show(open_source(args.source), _layout(args, overrides), args.out, args.count, args.first):
        print(file)


def run_verify(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `mmjax data verify`; the exit code is 1 where packing changes what is learnt."""
    from mmjax.config import load_config
    from mmjax.verify import verify

    run = load_config(args.config, overrides)
    if not 0 <= args.stage < len(run.stages):
        raise ValueError(f'--stage={args.stage}, but the config has stages 0 to {len(run.stages) - 1}')
    verdict = verify(run, args.stage)
    print(verdict)
    return 0 if verdict.ok else 1


def _layout(args: argparse.Namespace, overrides: list[str]) -> 'Layout':
    if args.config is not None:
        from mmjax.config import load_config

        run = load_config(args.config, overrides)
        return run.layout.build(run.model.media_spec())
    if overrides:
        raise ValueError(f'{overrides[0]} changes no config; give one with --config=FILE')
    from mmjax.data.inspect import assumed_layout

    return assumed_layout()


def default_workdir(spec: str) -> pathlib.Path:
    """Returns runs/NAME for configs/NAME.py, runs/NAME-ARG for configs/NAME.py:ARG."""
    path, _, argument = spec.partition(':')
    name = re.sub(r'[^\w.=-]+', '-', argument)
    return pathlib.Path('runs') / (pathlib.Path(path).stem + (f'-{name}' if name else ''))


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
            known = (
                '--config',
                '--workdir',
                '--checkpoint',
                '--accept-changes',
                '--distributed',
                '--debug',
                '--limit',
                '--topology',
                '--mesh',
            )
            near = difflib.get_close_matches(arg.split('=')[0], known, n=1)
            raise ValueError(f'unknown argument {arg!r}' + (f'; did you mean {near[0]}?' if near else ''))
    return [o if '=' in o else f'{o}=true' for o in overrides]


def is_for_user(error: Exception) -> bool:
    """Returns whether an error is a message and no bug: a missing file, or raised on purpose by our own code."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return pathlib.Path(last.filename).resolve().is_relative_to(PACKAGE) and (last.line or '').startswith('raise')


def _verb(verbs: argparse._SubParsersAction, name: str, body: Body | None, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f'{summary[0].upper()}{summary[1:]}.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=body)
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser


def _config(parser: argparse.ArgumentParser, *, required: bool, more: str = '') -> None:
    parser.add_argument('--config', required=required, metavar='FILE[:ARG]', help=f'the config file{more}')


def _prepare(debug: bool) -> None:
    """Sets what must be set before jax is imported: a compile cache that outlives the process, quiet libraries."""
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')
    if not debug:
        # orbax reports each file it writes, and prints tracebacks of errors that we report in one line.
        logging.getLogger('absl').setLevel(logging.CRITICAL)
