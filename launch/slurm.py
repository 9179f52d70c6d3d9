# SPDX-License-Identifier: Apache-2.0
"""A batch file for Slurm: one process a node, which uses all GPUs of it."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from launch.names import LaunchError, check_name

GRACE = 120  # seconds from SIGTERM to the end


class Job(NamedTuple):
    """What is asked of the cluster."""

    name: str
    nodes: int
    gpus: int  # a node
    hours: int
    partition: str = ''
    account: str = ''


def script(job: Job, command: Sequence[str]) -> str:
    """Returns the batch file; the command is told to find its peers, and is queued again when it is preempted."""
    check_name(job.name)
    for field, least in (('nodes', 1), ('gpus', 1), ('hours', 1)):
        if (value := getattr(job, field)) < least:
            raise LaunchError(f'--{field}={value}: at least {least}')
    options = {
        'job-name': job.name,
        'nodes': job.nodes,
        'ntasks-per-node': 1,
        'gpus-per-node': job.gpus,
        'time': f'{job.hours}:00:00',
        'partition': job.partition,
        'account': job.account,
        'signal': f'TERM@{GRACE}',
        'open-mode': 'append',
        'output': f'{job.name}-%j.log',
    }
    lines = [f'#SBATCH --{name}={value}' for name, value in options.items() if value != '']
    run = shlex.join([*command, '--distributed'])
    return '\n'.join(
        [
            '#!/bin/bash',
            *lines,
            '#SBATCH --requeue',
            'set -u',
            # A process that is told to go saves and ends with 143; so does the one whose time is up.
            f'srun --kill-on-bad-exit=1 --label {run}',
            'code=$?',
            'if [ "$code" -eq 143 ]; then',
            '  scontrol requeue "$SLURM_JOB_ID"',
            'fi',
            'exit "$code"',
            '',
        ]
    )
