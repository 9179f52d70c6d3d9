# SPDX-License-Identifier: Apache-2.0
"""What TPUs can do, a device each: a chip, but on 7x half a chip, of which jax makes two devices.

Peaks, memory and its bandwidth are Google's published figures (cloud.google.com/tpu/docs), links and networks those of
the Scaling Book (jax-ml.github.io/scaling-book). The clock is the one at which the matrix units give the peak. `hbm` is
what the compiler lets a program have.
"""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One device."""

    peak: float  # FLOP/s of bfloat16 products
    hbm: float  # bytes
    bandwidth: float  # bytes/s of HBM
    link: float  # bytes/s, one way, to one neighbour
    torus: int  # dimensions in which it has two neighbours each
    network: float  # bytes/s between slices
    clock: float  # cycles/s
    devices: int = 1  # that a chip makes


CHIPS = {
    'v4': Chip(275e12, 31.75 * GIB, 1.2e12, 45e9, 3, 6.25e9, 1.05e9),
    'v5e': Chip(197e12, 15.75 * GIB, 0.82e12, 45e9, 2, 3.125e9, 1.5e9),
    'v5p': Chip(459e12, 95.74 * GIB, 2.77e12, 90e9, 3, 6.25e9, 1.75e9),
    'v6e': Chip(918e12, 31.24 * GIB, 1.64e12, 90e9, 2, 12.5e9, 1.75e9),
    'tpu7x': Chip(1153e12, 94.75 * GIB, 3.69e12, 50e9, 3, 6.25e9, 2.2e9, devices=2),
}


def chip_of(topology: str) -> Chip:
    """Returns the chip of a topology like 'v5p:8x8x8'; raises ValueError for one that nobody knows."""
    name = topology.split(':')[0]
    if name not in CHIPS:
        raise ValueError(
            f'--topology={topology}: there is no TPU {name!r}; known are {", ".join(CHIPS)}, as in v5p:4x4x4'
        )
    return CHIPS[name]
