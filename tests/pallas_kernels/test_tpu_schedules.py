# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler schedules for our kernels stays within 3 % of what is on record, for each generation.

for chip in v5e v5p v6e 7x; do python benchmarks/tpu_schedule.py --chip=$chip --json; done     makes a new record
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip('libtpu', reason="needs the TPU compiler: pip install -e '.[plan]'")

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDS = json.loads((ROOT / 'tests' / 'golden' / 'tpu_schedules.json').read_text())
COMPILER = importlib.metadata.version('libtpu')
if COMPILER not in RECORDS:
    pytest.skip(f'schedules differ by compiler, and libtpu {COMPILER} is not on record', allow_module_level=True)
RECORD = RECORDS[COMPILER]
SLACK = 1.03


@pytest.mark.parametrize('chip', RECORD)
def test_no_kernel_costs_more_than_on_record(chip):
    command = [sys.executable, str(ROOT / 'benchmarks' / 'tpu_schedule.py'), f'--chip={chip}', '--json']
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout)
    assert found.keys() == RECORD[chip].keys()
    for kernel, record in RECORD[chip].items():
        for name, most in record.items():
            costs, limits = (x if isinstance(x, list) else [x] for x in (found[kernel][name], most))
            assert len(costs) == len(limits), f'{kernel}: {name}'
            for cost, limit in zip(costs, limits, strict=True):
                assert cost <= SLACK * limit + 16, f'{kernel}: {name} is {found[kernel][name]}, on record {most}'
