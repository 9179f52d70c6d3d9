# SPDX-License-Identifier: Apache-2.0
"""A TPU pod of Google Cloud as a queued resource: created, set up, used, made anew when it is taken away, deleted.

All by gcloud, whose commands are printed before they run; with `dry` they are printed alone.
"""

import os
import pathlib
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from launch.local import TERMINATED, USAGE, say
from launch.names import LaunchError, Pod, check_environment, check_name, check_zone

READY, GONE = ('ACTIVE',), ('FAILED', 'SUSPENDED', 'SUSPENDING', 'DELETING', 'NOT_FOUND')
FOLDER, SECRETS = 'mmjax', '.mmjax_environment'  # in the home of every worker


class Job(NamedTuple):
    """What is asked of the cloud."""

    name: str
    zone: str
    pod: Pod
    command: Sequence[str]
    project: str = ''
    spot: bool = False
    folder: pathlib.Path = pathlib.Path()  # the repository that is copied to every worker
    environment: Sequence[str] = ()  # names of variables whose values are taken from here
    restarts: int = 20
    keep: bool = False  # when all is done
    wait: float = 30.0  # seconds between two looks


class Cloud:
    """Runs gcloud, or prints what would run."""

    def __init__(self, job: Job, *, dry: bool):
        check_name(job.name)
        check_zone(job.zone)
        check_environment(list(job.environment))
        if not job.pod.kind.runtime:
            raise LaunchError(f'{job.pod.kind.accelerator} is to be had on GKE only: launch gke')
        if missing := [name for name in job.environment if name not in os.environ]:
            raise LaunchError(f'--env={missing[0]}: it is not set here')
        self.job, self.dry = job, dry

    def run(self, *command: str, quiet: bool = False) -> subprocess.CompletedProcess:
        """Runs a gcloud command; returns how it ended."""
        place = [f'--zone={self.job.zone}'] + [f'--project={self.job.project}'] * bool(self.job.project)
        line = ['gcloud', 'compute', 'tpus', *command, *place]
        if self.dry or not quiet:
            print(shlex.join(line), flush=True)
        if self.dry:
            return subprocess.CompletedProcess(line, 0, stdout=READY[0])
        return subprocess.run(line, capture_output=quiet, text=True)

    def state(self) -> str:
        """Returns the state of the queued resource; NOT_FOUND where there is none."""
        done = self.run('queued-resources', 'describe', self.job.name, '--format=value(state.state)', quiet=True)
        return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else 'NOT_FOUND'

    def create(self) -> None:
        """Asks for the pod and waits until it is there."""
        job = self.job
        asked = [f'--node-id={job.name}', f'--accelerator-type={job.pod.accelerator}']
        asked += [f'--runtime-version={job.pod.kind.runtime}'] + ['--spot'] * job.spot
        self._must(self.run('queued-resources', 'create', job.name, *asked))
        while (state := self.state()) not in READY:
            if state in GONE:
                raise LaunchError(f'{job.name} is {state}; gcloud compute tpus queued-resources describe says why')
            say(f'{job.name} is {state}')
            time.sleep(job.wait)

    def set_up(self) -> None:
        """Copies the repository and the environment to every worker and installs."""
        job = self.job
        copy = [str(job.folder), f'{job.name}:{FOLDER}']
        self._must(self.run('tpu-vm', 'scp', '--recurse', *copy, '--worker=all'))
        if job.environment:
            with tempfile.NamedTemporaryFile('w', suffix='.sh') as file:  # readable by its owner alone
                file.writelines(f'export {name}={shlex.quote(os.environ[name])}\n' for name in job.environment)
                file.flush()
                source = '(values of ' + ' '.join(job.environment) + ')' if self.dry else file.name
                self._must(self.run('tpu-vm', 'scp', source, f'{job.name}:{SECRETS}', '--worker=all'))
        install = f"cd {FOLDER} && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
        self._must(self.run('tpu-vm', 'ssh', job.name, '--worker=all', f'--command={install}'))

    def train(self) -> int:
        """Runs the command on all workers and follows it; returns its exit code."""
        secrets = f'. ~/{SECRETS} && ' if self.job.environment else ''
        line = f'cd {FOLDER} && . .venv/bin/activate && {secrets}{shlex.join([*self.job.command, "--distributed"])}'
        return self.run('tpu-vm', 'ssh', self.job.name, '--worker=all', f'--command={line}').returncode

    def delete(self) -> None:
        """Gives the pod back."""
        self.run('queued-resources', 'delete', self.job.name, '--force', '--quiet')

    def _must(self, done: subprocess.CompletedProcess) -> None:
        if done.returncode:
            raise LaunchError(
                f'{self.job.name}: gcloud ended with {done.returncode}; what is there stays, and is paid for, until '
                f'launch tpu --delete --name={self.job.name} --zone={self.job.zone} '
                f'--topology={self.job.pod.kind.accelerator}'
            )


def run(cloud: Cloud, sleep: Callable[[float], None] = time.sleep) -> int:
    """Creates the pod if it is not there, trains, and goes on on a new one when it is taken away."""
    job = cloud.job
    if cloud.dry or cloud.state() == 'NOT_FOUND':
        cloud.create()
    cloud.set_up()
    code = cloud.train()
    for left in range(job.restarts, 0, -1):
        if code in (0, USAGE):
            break
        state = cloud.state()
        say(f'the command ended with {code}, {job.name} is {state}; {left} restarts are left')
        if state not in READY:
            cloud.delete()
            cloud.create()
            cloud.set_up()
        elif code == TERMINATED:
            sleep(job.wait)  # maintenance: the machine comes back
        code = cloud.train()
    if not job.keep:
        cloud.delete()
    return code
