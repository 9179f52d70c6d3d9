# SPDX-License-Identifier: Apache-2.0
"""Names of pods, places and shapes, refused before anything is asked of a cloud."""

import math
import re
from typing import NamedTuple

NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
ZONE = re.compile(r'(us|europe|asia|northamerica|southamerica|australia|me|africa)-[a-z]+\d{1,2}-[a-z]')
ENVIRONMENT = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')


class LaunchError(Exception):
    """What cannot be launched, and the way out."""


class Kind(NamedTuple):
    """A generation of TPUs, as Google Cloud names it (cloud.google.com/tpu/docs)."""

    accelerator: str  # before the number of an accelerator type: v5p-64
    per_chip: int  # what that number counts for a chip: cores up to v5p, chips since
    dimensions: int  # of a topology
    most: int  # chips of a slice
    runtime: str  # version of a TPU VM's software
    node: str  # gke-tpu-accelerator


KINDS = {
    'v4': Kind('v4', 2, 3, 4096, 'tpu-ubuntu2204-base', 'tpu-v4-podslice'),
    'v5e': Kind('v5litepod', 1, 2, 256, 'v2-alpha-tpuv5-lite', 'tpu-v5-lite-podslice'),
    'v5p': Kind('v5p', 2, 3, 8960, 'v2-alpha-tpuv5', 'tpu-v5p-slice'),
    'v6e': Kind('v6e', 1, 2, 256, 'v2-alpha-tpuv6e', 'tpu-v6e-slice'),
    'tpu7x': Kind('tpu7x', 1, 3, 9216, '', 'tpu7x'),  # on GKE only
}
HOST = 4  # chips of a host


class Pod(NamedTuple):
    """A slice of TPUs."""

    kind: Kind
    topology: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.topology)

    @property
    def hosts(self) -> int:
        """How many machines they sit in."""
        return max(self.chips // HOST, 1)

    @property
    def accelerator(self) -> str:
        """The accelerator type, e.g. v5p-64."""
        return f'{self.kind.accelerator}-{self.chips * self.kind.per_chip}'


def check_name(name: str) -> str:
    """Returns a resource's name, or raises LaunchError."""
    if not NAME.fullmatch(name):
        raise LaunchError(
            f'--name={name}: at most 40 small letters, digits and hyphens, the first a letter and the last no hyphen'
        )
    return name


def check_zone(zone: str) -> str:
    """Returns a zone of Google Cloud, or raises LaunchError where none can have that name."""
    if not ZONE.fullmatch(zone):
        raise LaunchError(f'--zone={zone}: no zone has such a name; they look like us-east5-a or europe-west4-b')
    return zone


def check_environment(names: list[str]) -> list[str]:
    """Returns names of environment variables, or raises LaunchError; a value beside one would be seen by everybody."""
    for name in names:
        if not ENVIRONMENT.fullmatch(name):
            raise LaunchError(f'--env={name.split("=")[0]}: give the name alone; its value is taken from here, unseen')
    return names


def pod(topology: str) -> Pod:
    """Returns the slice of a topology like 'v5p:4x4x8', or raises LaunchError where there can be none."""
    name, _, shape = topology.partition(':')
    if name not in KINDS:
        raise LaunchError(f'--topology={topology}: there is no TPU {name!r}; known are {", ".join(KINDS)}')
    kind, sizes = KINDS[name], shape.split('x')
    if len(sizes) != kind.dimensions or not all(size.isdigit() and int(size) for size in sizes):
        example = 'x'.join('4' * kind.dimensions)
        raise LaunchError(f'--topology={topology}: {name} has {kind.dimensions} dimensions, as in {name}:{example}')
    found = Pod(kind, tuple(int(size) for size in sizes))
    # Large slices of three dimensions are made of cubes of 4 x 4 x 4.
    cube = found.chips > 32 and kind.dimensions == 3
    wrong = [n for n in found.topology if (n % 4 if cube else n & (n - 1))]
    if wrong or found.chips > kind.most or (found.chips > 1 and found.chips % HOST):
        sides = 'multiples of 4' if cube else 'powers of 2'
        raise LaunchError(
            f'--topology={topology}: {found.chips} chips; a slice of {name} has sides that are {sides}, whole hosts of '
            f'{HOST} chips and at most {kind.most} of them'
        )
    return found
