# SPDX-License-Identifier: Apache-2.0
"""The table of systems: every config has a row, and only a figure that chance does not make is called better."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location('systems_table', ROOT / 'benchmarks' / 'systems.py')
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)


def test_every_system_has_a_row():
    files = {path.stem for path in (ROOT / 'configs').glob('*.py') if 'def get_config' in path.read_text()}
    assert set(table.SYSTEMS) == files - {'quickstart'}
    said = {line.split('|')[1].strip() for line in table.PARITY.read_text().splitlines() if line.count('|') > 2}
    for name, system in table.SYSTEMS.items():
        assert not set(system.references.split()) - said, name


@pytest.mark.parametrize(
    'metric, value, control, documents, better',
    [
        ('exact', 0.85, 0.38, 256, True),
        ('exact', 0.40, 0.35, 256, False),  # 1.2 standard errors
        ('exact', 0.40, 0.35, 2560, True),  # 3.7
        ('exact', 0.30, 0.90, 256, False),
        ('loss', 1.7, 2.1, 256, True),
        ('loss', 2.0, 2.1, 256, False),
        ('exact', 0.99, None, 256, False),
    ],
)
def test_what_beats_a_control(metric, value, control, documents, better):
    assert table.beats(metric, value, control, documents) == better


def test_the_cell_of_a_system():
    kept = dict(
        documents=dict(count=256, find=64),
        figures=[
            ('count', 'exact', 0.85, 0.375),
            ('count', 'loss', 0.2, 0.9),
            ('find', 'iou50', 0.05, 0.04),
        ],
    )
    found = table.result(table.System('x', ''), kept)
    assert found == '**count: exact match 85.0 %** (37.5 %); find: boxes with IoU of at least 0.5 5.0 % (4.0 %)'
    kept['figures'] += [('find', 'loss', 2.0, 3.0)]
    assert table.result(table.System('x', ''), kept) == f'{found}; **find: loss 2.000** (3.000)'
    told = dict(documents=dict(a=9, b=9), figures=[('a', 'loss', 1.0, None), ('b', 'loss', 3.0, None)])
    assert table.result(table.System('x', '', control='b'), told) == '**a: loss 1.000** (3.000)'
