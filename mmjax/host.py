# SPDX-License-Identifier: Apache-2.0
"""The process on its host: what the C library does with memory that is given back."""

import ctypes
import sys

# Parameters of glibc's mallopt, malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3


def keep_memory() -> bool:
    """Lets malloc keep what is freed, up to a gigabyte; returns whether this C library could be told.

    XLA on CPUs allocates a program's scratch at every call. By default glibc maps such blocks anew each time and the
    kernel clears every page: a step of the quickstart meets 10,000 page faults, 25 of its 125 ms of CPU time.
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    gigabyte = 1 << 30
    settings = {MMAP_THRESHOLD: gigabyte, TRIM_THRESHOLD: gigabyte, TOP_PAD: 64 << 20}
    return mallopt is not None and all(mallopt(key, value) for key, value in settings.items())
