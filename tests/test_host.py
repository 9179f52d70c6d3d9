# SPDX-License-Identifier: Apache-2.0
"""Memory that is given back stays with the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from mmjax import host
if sys.argv[1] == 'keep':
    assert host.keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(5):  # the first ones grow the heap
    before = faults()
    bytearray(40 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc can be told')
def test_blocks_are_not_mapped_anew():
    count = lambda how: int(subprocess.check_output([sys.executable, '-c', FAULTS, how], timeout=120))
    assert count('keep') < 10 < count('let go')
