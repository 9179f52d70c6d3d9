# SPDX-License-Identifier: Apache-2.0
import pytest
import tiny

from mmjax.config import ConfigError, Load, Mesh, check, check_rows
from mmjax.objectives.contrastive import Contrastive


@pytest.mark.parametrize(
    'mesh, devices, sizes',
    [
        (Mesh(), 8, (8, 1, 1)),
        (Mesh(-1, 2, 2), 8, (2, 2, 2)),
        (Mesh(1, -1, 1), 4, (1, 4, 1)),
        (Mesh(1, 1, 1), 8, (1, 1, 1)),
    ],
)
def test_mesh_takes_the_devices_that_are_left(mesh, devices, sizes):
    assert mesh.sizes(devices) == sizes


@pytest.mark.parametrize(
    'mesh, message',
    [
        (Mesh(-1, -1, 1), 'one of them may be -1'),
        (Mesh(0, 1, 1), 'sizes are at least 1'),
        (Mesh(-1, 3, 1), '8 devices cannot be shared out by 3'),
        (Mesh(4, 4, 1), 'needs 16 devices, there are 8'),
    ],
)
def test_a_mesh_that_cannot_be(mesh, message):
    with pytest.raises(ConfigError, match=message):
        mesh.sizes(8)


def change(path, value):
    def apply(run):
        holder, *rest = run, *path.split('.')
        for name in rest[:-1]:
            holder = getattr(holder, name) if not isinstance(holder, list) else holder[int(name)]
        setattr(holder, rest[-1], value)

    return apply


@pytest.mark.parametrize(
    'path, value, message',
    [
        ('stages', [], 'run.stages is empty'),
        ('compute_dtype', 'float16', "run.compute_dtype is 'float16'; it is bfloat16 or float32"),
        ('remat', 'all', "run.remat is 'all'"),
        ('fresh', ('a',), 'run.load is empty'),
        ('checkpoint.keep_last', 0, 'run.checkpoint.keep_last is 0; it is at least 1'),
        ('log.every_steps', 0, 'run.log.every_steps is 0'),
        ('stages.0.steps', 0, r'stages\[0\].steps is 0; it is at least 1'),
        ('stages.0.accumulate', 3, r'stages\[0\]: 8 rows cannot be split into accumulate=3 parts'),
        ('stages.0.ema', 1.0, r'stages\[0\].ema is 1.0'),
        ('stages.0.ema_start', 0.95, r'stages\[0\].ema_start is 0.95; it lies in 0 .. ema, 0.9'),
        ('stages.0.objective', Contrastive(), 'Contrastive compares all rows of a batch with each other'),
    ],
)
def test_numbers_that_contradict_each_other(path, value, message):
    run = tiny.get_config()
    check(run)
    change(path, value)(run)
    with pytest.raises(ConfigError, match=message):
        check(run)


def test_stages_need_names_of_their_own():
    run = tiny.get_config('stages')
    run.stages[1].name = 'align'
    with pytest.raises(ConfigError, match=r"stages are named \['align', 'align'\]"):
        check(run)


def test_rows_over_the_mesh():
    run = tiny.get_config()
    check_rows(run, (2, 2, 2))
    with pytest.raises(
        ConfigError, match=r'stages\[0\]: 8 rows / accumulate 2 = 4 cannot be shared out to data 8 x fsdp 1'
    ):
        check_rows(run, (8, 1, 1))


def test_loads_are_part_of_the_config():
    run = tiny.get_config()
    run.load, run.fresh = [Load('runs/a')], ('connector/.*',)
    check(run)
