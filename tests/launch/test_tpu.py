# SPDX-License-Identifier: Apache-2.0
"""A TPU pod by gcloud, with a gcloud that only writes down what it was asked and plays a cloud that takes pods away."""

import json
import os
import pathlib
import sys

import pytest

from launch import cli

GCLOUD = f"""#!{sys.executable}
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
world = json.loads((folder / 'world.json').read_text())
arguments, verb = sys.argv[1:], sys.argv[3:5]
with open(folder / 'calls.jsonl', 'a') as file:
    file.write(json.dumps(arguments) + '\\n')
code = 0
if verb == ['queued-resources', 'describe']:
    if world['state'] == 'NOT_FOUND':
        sys.exit('not found')
    print(world['state'])
    world['state'] = {{'WAITING': 'ACTIVE'}}.get(world['state'], world['state'])
elif verb == ['queued-resources', 'create']:
    world['state'] = 'WAITING'
elif verb == ['queued-resources', 'delete']:
    world['state'] = 'NOT_FOUND'
elif verb == ['tpu-vm', 'scp'] and arguments[4].endswith('.sh'):
    world['secrets'] = pathlib.Path(arguments[4]).read_text()
elif verb == ['tpu-vm', 'ssh'] and '--distributed' in arguments[-3]:
    code, world['state'] = world['trainings'].pop(0)
(folder / 'world.json').write_text(json.dumps(world))
sys.exit(code)
"""
ARGUMENTS = ['tpu', '--name=llava', '--zone=us-east5-a', '--topology=v5p:4x4x4', '--project=mine', '--spot']


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A folder with a gcloud; returns a function (trainings, arguments) -> (exit code, verbs, world)."""
    (tmp_path / 'gcloud').write_text(GCLOUD)
    (tmp_path / 'gcloud').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('TOKEN', 'very secret')
    monkeypatch.setattr('launch.tpu.time.sleep', lambda seconds: None)

    def run(trainings, *more, state='NOT_FOUND'):
        (tmp_path / 'world.json').write_text(json.dumps({'state': state, 'trainings': trainings}))
        (tmp_path / 'calls.jsonl').write_text('')
        with pytest.raises(SystemExit) as ended:
            cli.main([*ARGUMENTS, *more, '--', 'mmjax', 'train', '--config=configs/llava.py:7b'])
        calls = [json.loads(line) for line in (tmp_path / 'calls.jsonl').read_text().splitlines()]
        verbs = [call[3] for call in calls if call[3] != 'describe']
        return ended.value.code, verbs, json.loads((tmp_path / 'world.json').read_text()), calls

    return run


def test_a_pod_is_made_used_and_given_back(cloud):
    code, verbs, world, calls = cloud([(0, 'ACTIVE')])
    assert code == 0 and verbs == ['create', 'scp', 'ssh', 'ssh', 'delete'] and world['state'] == 'NOT_FOUND'
    created = next(call for call in calls if call[3] == 'create')
    assert {'--accelerator-type=v5p-128', '--spot', '--zone=us-east5-a', '--project=mine'} <= set(created)
    assert all('--zone=us-east5-a' in call and '--project=mine' in call for call in calls)
    assert (
        'mmjax train --config=configs/llava.py:7b --distributed'
        in next(c for c in calls if 'ssh' in c and 'train' in str(c))[-3]
    )


def test_a_pod_that_is_taken_away_is_made_anew(cloud):
    code, verbs, *_ = cloud([(255, 'SUSPENDED'), (143, 'ACTIVE'), (0, 'ACTIVE')])
    again = ['create', 'scp', 'ssh', 'ssh']
    assert code == 0 and verbs == [*again, 'delete', *again, 'ssh', 'delete']


def test_a_wrong_command_is_not_tried_again(cloud):
    assert cloud([(2, 'ACTIVE')])[:2] == (2, ['create', 'scp', 'ssh', 'ssh', 'delete'])


def test_restarts_come_to_an_end(cloud):
    code, verbs, *_ = cloud([(1, 'ACTIVE')] * 3, '--restarts=2', '--keep')
    assert code == 1 and verbs == ['create', 'scp', 'ssh', 'ssh', 'ssh', 'ssh']


def test_one_that_is_there_is_used(cloud):
    assert cloud([(0, 'ACTIVE')], state='ACTIVE')[1] == ['scp', 'ssh', 'ssh', 'delete']


def test_secrets_are_in_no_command(cloud, capfd):
    _, _, world, calls = cloud([(0, 'ACTIVE')], '--env=TOKEN')
    assert world['secrets'] == "export TOKEN='very secret'\n"
    said = capfd.readouterr()
    assert 'secret' not in json.dumps(calls) and 'very secret' not in said.out + said.err


def test_a_dry_run_runs_nothing(cloud, capsys):
    code, verbs, *_ = cloud([], '--dry-run', '--env=TOKEN')
    assert code == 0 and verbs == []
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith('gcloud compute tpus ') for line in lines) and 'very secret' not in ''.join(lines)
    assert [line.split()[4] for line in lines if 'describe' not in line] == [
        'create',
        'scp',
        'scp',
        'ssh',
        'ssh',
        'delete',
    ]


@pytest.mark.parametrize(
    'change, said',
    [
        ('--zone=moon-east1-a', 'no zone has such a name'),
        ('--name=9lives', 'the first a letter'),
        ('--topology=v5p:5x5x5', 'multiples of 4'),
        ('--topology=tpu7x:4x4x4', 'launch gke'),
        ('--env=TOKEN=abc', 'give the name alone'),
        ('--env=ABSENT', 'it is not set here'),
    ],
)
def test_bad_input(cloud, change, said, capsys):
    code, verbs, *_ = cloud([], change)
    assert code == 2 and verbs == []
    message = capsys.readouterr().err
    assert said in message and 'abc' not in message


def test_without_gcloud(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main([*ARGUMENTS, '--', 'mmjax'])
    assert ended.value.code == 2 and 'gcloud is not installed' in capsys.readouterr().err
    assert pathlib.Path(tmp_path).exists()
