# SPDX-License-Identifier: Apache-2.0
"""Cycles that the TPU compiler scheduled for each operation of a program, from what it writes down.

One file an operation (`*post-bundle-packing-post-ra.txt`): a tree of regions, each with its range of bundles, one cycle
each; a loop says its rounds where they are known. Cycles are the compiler's, with no load on the memory.
"""

import dataclasses
import pathlib
import re
from typing import NamedTuple

SUFFIX = re.compile(r'^\d+-(.*?)-\d+-post-bundle-packing-post-ra\.txt$')
REGION = re.compile(r'^ *\$region(\d+)[^:]*:(?: #\{[^}]*\})?(?: parent=(\d+))?[^/]*(?:// (\w+))?')
RANGE = re.compile(r'^ *// region range: \[(\d+), (\d+)\)')
LOOP = re.compile(r'^ *loop: (.*)$')
BOUNDS = re.compile(r'start=(-?\d+), step=(\d+), limit=(-?\d+)')
LABELS = 'post-bundle-packing-post-ra|deduplication-map'  # of what is to be written down


class Kernel(NamedTuple):
    """One operation. Where a loop's rounds are not known, as in attention over a list of tiles, it counts once."""

    cycles: float
    round: float = 0.0  # of that loop, with the longest of its products: that is a whole tile, others are parts of one
    end: float = 0.0  # what that loop does at the first and last tile of a block of queries


def read(folder: pathlib.Path) -> dict[str, Kernel]:
    """Returns operation -> what was scheduled for it, for all that the compiler wrote into a folder."""
    found = {}
    for path in sorted(folder.glob('*post-bundle-packing-post-ra.txt')):
        if (name := SUFFIX.match(path.name)) and not name[1].startswith(('<', 'TLP')):
            found[name[1]] = kernel(path.read_text(errors='replace'))
    for path in folder.glob('*deduplication-map.txt'):
        for same in re.split(r'^key:', path.read_text(errors='replace'), flags=re.M)[1:]:
            key, *rest = same.split('\n')
            if key in found:
                others = [line.strip() for line in rest if line.startswith('  ')]
                found.update({name: found[key] for name in others if name not in found})
    return found


@dataclasses.dataclass
class Region:
    """A part of an operation."""

    parent: int | None
    kind: str | None
    cycles: int = 0
    products: int = 0  # matrix instructions in it
    transfers: int = 0  # to and from HBM that it starts
    rounds: int | None = 1  # of a loop's body; None: not known, and 1 again if no product is in it


def kernel(text: str) -> Kernel:
    """Adds up the regions of one operation: a loop's body counts as often as it runs."""
    regions = read_regions(text)
    above = {n: regions_above(n, regions) for n in regions}
    busy = {up for n, region in regions.items() if region.products for up in (n, *above[n])}
    for n, region in regions.items():
        region.rounds = 1 if region.rounds is None and n not in busy else region.rounds
    total = regions[0].cycles if 0 in regions else 0
    for n, region in regions.items():
        more = region.cycles * ((region.rounds or 1) - 1)
        for up in above[n]:
            more *= regions[up].rounds or 1
        total += more
    bodies = [n for n, region in regions.items() if region.rounds is None]
    if not bodies:
        return Kernel(total)
    body = max(bodies, key=lambda n: regions[n].cycles)
    inside = [n for n, region in regions.items() if region.kind == 'pred_region' and body in above[n]]
    leaves = [regions[n] for n in inside if not any(n in above[m] for m in inside)]
    products = [region.cycles for region in leaves if region.products]
    ends = sum(region.cycles for region in leaves if not region.products)
    return Kernel(total, regions[body].cycles - sum(products) - ends + max(products, default=0), ends)


def read_regions(text: str) -> dict[int, Region]:
    """Returns number -> region of one operation."""
    regions: dict[int, Region] = {}
    current, bounds = None, None
    for line in text.splitlines():
        if found := LOOP.match(line):
            bounds = found[1]
        elif found := REGION.match(line):
            current = int(found[1])
            regions[current] = Region(int(found[2]) if found[2] else None, found[3])
            if found[3] == 'loop_body':
                known, bounds = BOUNDS.match(bounds or ''), None
                regions[current].rounds = -(-(int(known[3]) - int(known[1])) // int(known[2])) if known else None
        elif current is None:
            continue
        elif found := RANGE.match(line):
            regions[current].cycles = regions[current].cycles or int(found[2]) - int(found[1])
        elif 'vmatmul' in line:
            regions[current].products += 1
        elif 'dma.hbm_to_vmem' in line or 'dma.vmem_to_hbm' in line:
            regions[current].transfers += 1
    return regions


def regions_above(number: int, regions: dict[int, Region]) -> list[int]:
    """Returns the regions that hold this one, the nearest first; merged ones are not listed."""
    found = []
    while number in regions and (number := regions[number].parent) is not None:
        found.append(number)
    return [n for n in found if n in regions]
