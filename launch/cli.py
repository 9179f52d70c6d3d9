# SPDX-License-Identifier: Apache-2.0
"""The command line: `launch local | tpu | gke | slurm ... -- COMMAND`."""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from launch import gke, local, slurm, tpu
from launch.names import LaunchError, pod

EPILOG = """examples:
  launch local --processes=4 -- mmjax train --config=configs/quickstart.py
  launch tpu --name=llava --zone=us-east5-a --topology=v5p:4x4x2 --spot -- mmjax train --config=configs/llava.py:7b
  launch gke --name=llava --image=IMAGE --topology=v5e:16x16 --slices=2 --dry-run -- mmjax train ...
  launch slurm --name=llava --nodes=4 --gpus=8 -- mmjax train ...

COMMAND must take --distributed, as `mmjax train` does; it is added. --dry-run prints what would run, and no more."""


def main(argv: Sequence[str] | None = None) -> None:
    """Launches and exits with the command's exit code, with 2 where the arguments must be changed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, command = (argv[: argv.index('--')], argv[argv.index('--') + 1 :]) if '--' in argv else (argv, [])
    args = build_parser().parse_args(own)
    try:
        if not command and not getattr(args, 'delete', False):
            raise LaunchError('what is to run stands behind --, as in -- mmjax train --config=...')
        sys.exit(args.run(args, command))
    except LaunchError as e:
        print(f'launch {args.where}: {e}', file=sys.stderr)
        sys.exit(2)
    except FileNotFoundError as e:
        print(f'launch {args.where}: {e.filename} is not installed, or not on the PATH', file=sys.stderr)
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser."""
    parser = argparse.ArgumentParser(
        prog='launch', epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        description='Starts a command on many processes or hosts, watches it, starts it again where that helps.',
    )  # fmt: skip
    kinds = parser.add_subparsers(dest='where', metavar='WHERE', required=True)
    verb = kinds.add_parser('local', help='processes of this machine', allow_abbrev=False)
    verb.set_defaults(run=run_local)
    verb.add_argument('--processes', type=int, default=1, metavar='N', help='how many (1)')
    verb.add_argument('--restarts', type=int, default=3, metavar='N', help='when one fails, all start again (3)')
    verb.add_argument('--grace', type=float, default=60, metavar='S', help='seconds to save when told to end (60)')
    verb = kinds.add_parser('tpu', help='a TPU pod of Google Cloud, by gcloud', allow_abbrev=False)
    verb.set_defaults(run=run_tpu)
    _named(verb)
    verb.add_argument('--zone', required=True)
    verb.add_argument('--topology', required=True, metavar='CHIP:SHAPE', help='e.g. v5p:4x4x4')
    verb.add_argument('--project', default='', help="else gcloud's own")
    verb.add_argument('--spot', action='store_true', help='cheaper; made anew when it is taken away')
    verb.add_argument('--folder', type=pathlib.Path, default=pathlib.Path(), help='the repository to copy (.)')
    verb.add_argument('--env', action='append', default=[], metavar='NAME', help='a variable to take along; repeatable')
    verb.add_argument('--restarts', type=int, default=20, metavar='N', help='of the command or the pod (20)')
    verb.add_argument('--keep', action='store_true', help='do not delete the pod in the end')
    verb.add_argument('--delete', action='store_true', help='delete the pod, and nothing else')
    verb = kinds.add_parser('gke', help='a JobSet on Kubernetes: TPU slices or GPU nodes', allow_abbrev=False)
    verb.set_defaults(run=run_gke)
    _named(verb)
    verb.add_argument('--image', required=True, help='the container image')
    verb.add_argument('--topology', default='', metavar='CHIP:SHAPE', help='of a TPU slice')
    verb.add_argument('--slices', type=int, default=1, metavar='N')
    verb.add_argument('--nodes', type=int, default=0, metavar='N', help='of GPUs, in the place of a topology')
    verb.add_argument('--gpus', type=int, default=8, metavar='N', help='a node (8)')
    verb.add_argument('--gpu', default='nvidia-h100-80gb', help='gke-accelerator (nvidia-h100-80gb)')
    verb.add_argument('--secret', default='', help='a Kubernetes secret whose entries become environment variables')
    verb.add_argument('--claim', default='', help='a volume claim of all pods, under /data')
    verb = kinds.add_parser('slurm', help='nodes of a GPU cluster', allow_abbrev=False)
    verb.set_defaults(run=run_slurm)
    _named(verb)
    verb.add_argument('--nodes', type=int, required=True, metavar='N')
    verb.add_argument('--gpus', type=int, default=8, metavar='N', help='a node (8)')
    verb.add_argument('--hours', type=int, default=24, metavar='N', help='(24)')
    verb.add_argument('--partition', default='')
    verb.add_argument('--account', default='')
    return parser


def _named(verb: argparse.ArgumentParser) -> None:
    verb.add_argument('--name', required=True, help='of what is made')
    verb.add_argument('--dry-run', action='store_true', help='print what would run, run nothing')


def run_local(args: argparse.Namespace, command: list[str]) -> int:
    """Runs `launch local`."""
    if args.processes < 1:
        raise LaunchError(f'--processes={args.processes}: at least 1')
    return local.supervise(command, args.processes, restarts=args.restarts, grace=args.grace)


def run_tpu(args: argparse.Namespace, command: list[str]) -> int:
    """Runs `launch tpu`."""
    job = tpu.Job(
        name=args.name, zone=args.zone, pod=pod(args.topology), command=command, project=args.project, spot=args.spot,
        folder=args.folder, environment=args.env, restarts=args.restarts, keep=args.keep,
    )  # fmt: skip
    cloud = tpu.Cloud(job, dry=args.dry_run)
    if args.delete:
        cloud.delete()
        return 0
    return tpu.run(cloud)


def run_gke(args: argparse.Namespace, command: list[str]) -> int:
    """Runs `launch gke`."""
    import yaml

    job = gke.Job(
        name=args.name, image=args.image, pod=pod(args.topology) if args.topology else None, slices=args.slices,
        nodes=args.nodes, gpus=args.gpus, gpu=args.gpu, secret=args.secret, claim=args.claim,
    )  # fmt: skip
    text = yaml.safe_dump(gke.manifest(job, command), sort_keys=False)
    if args.dry_run:
        print(text, end='')
        return 0
    return _given(['kubectl', 'apply', '-f', '-'], text)


def run_slurm(args: argparse.Namespace, command: list[str]) -> int:
    """Runs `launch slurm`."""
    job = slurm.Job(args.name, args.nodes, args.gpus, args.hours, args.partition, args.account)
    text = slurm.script(job, command)
    if args.dry_run:
        print(text, end='')
        return 0
    return _given(['sbatch'], text)


def _given(command: list[str], text: str) -> int:
    print(shlex.join(command), flush=True)
    return subprocess.run(command, input=text, text=True).returncode
