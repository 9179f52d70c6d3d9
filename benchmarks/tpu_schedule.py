# SPDX-License-Identifier: Apache-2.0
"""Reads what the TPU compiler scheduled for a kernel: cycles of each part of its body, spills and VMEM, without a TPU.

    python benchmarks/tpu_schedule.py --chip=v5e --width=128            (needs the extra [plan])

libtpu writes down the schedule of every kernel that it compiles, one VLIW bundle a cycle: a tree of regions, each with
its range of bundles. A kernel's body is the loop over its grid; what it does under a condition is a predicated region.
Cycles are the compiler's, at no load on HBM: they compare kernels, they do not tell a time to a tenth.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

from mmjax.plan.schedule import read_regions, regions_above

CHIPS = {'v4': 'v4:2x2x1', 'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2', '7x': 'tpu7x:2x2x1'}
# Small arrays would be moved into VMEM as a whole, and a kernel's own transfers vanish from its schedule.
IN_HBM = '--xla_vf_vmem_memory_space_assignment=false --xla_gf_vmem_memory_space_assignment=false'
FLAGS = (
    IN_HBM + ' --xla_jf_dump_to={} --xla_jf_dump_llo_text=true'
    ' --xla_jf_dump_llo_pass_label_regex=post-bundle-packing-post-ra'
)
ALLOCATION = re.compile(r'^ *#allocation\d+(_spill)? \[.*space=vmem, size = (0x[0-9a-f]+)')


class Schedule(NamedTuple):
    """Cycles of one kernel: of its conditional parts in order, those with matrix products apart, and of a step else.

    What starts transfers is part of a step, also where it is conditional: few steps of sparse rows need none.
    """

    products: list[int]
    others: list[int]
    step: int
    spills: int  # vector registers
    vmem: int  # bytes


def read(path: pathlib.Path) -> Schedule | None:
    """Reads the region tree of one kernel; None where the dump is of something without a loop over products."""
    text = path.read_text(errors='replace')
    regions = read_regions(text)
    above = {n: set(regions_above(n, regions)) for n in regions}
    bodies = {n for n, region in regions.items() if region.kind == 'loop_body'}
    if not bodies or not any(region.products for region in regions.values()):
        return None
    conditional = [n for n, region in regions.items() if region.kind == 'pred_region' and bodies & above[n]]
    leaves = [regions[n] for n in conditional if not any(n in above[m] for m in conditional)]
    leaves = [region for region in leaves if not region.transfers]
    allocated = [found for line in text.splitlines() if (found := ALLOCATION.match(line))]
    return Schedule(
        products=[region.cycles for region in leaves if region.products],
        others=[region.cycles for region in leaves if not region.products],
        step=max(regions[n].cycles for n in bodies) - sum(region.cycles for region in leaves),
        spills=sum(found[1] is not None for found in allocated),
        vmem=sum(int(found[2], 16) for found in allocated),
    )


def schedules(chip: str, spec: str, **settings: object) -> dict[str, Schedule]:
    """Compiles `FILE:FUNCTION(**settings)` -> (callable, argument shapes) for a chip; returns its kernels by name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, '--compile', spec, '--chip', chip, '--settings', json.dumps(settings)]
        done = subprocess.run(
            command,
            env={'JAX_PLATFORMS': 'cpu', **os.environ, 'LIBTPU_INIT_ARGS': FLAGS.format(folder)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f'{chip} does not compile {spec} with {settings}: {done.stderr[-2000:]}')
        found = {}
        for path in sorted(pathlib.Path(folder).rglob('*post-bundle-packing-post-ra.txt')):
            name = re.sub(r'^\d+-|(\.\d+)?-\d+-post-bundle-packing-post-ra\.txt$', '', path.name)
            if schedule := read(path):
                found[name] = schedule
        return found


def compile_here(chip: str, spec: str, settings: dict) -> None:
    """Compiles in this process, whose environment says where to write the schedule."""
    import importlib.util

    import jax
    from jax.sharding import SingleDeviceSharding

    from mmjax import topology

    file, function = spec.rsplit(':', 1)
    module = importlib.util.spec_from_file_location('spec', file)
    loaded = importlib.util.module_from_spec(module)
    module.loader.exec_module(loaded)
    call, shapes = getattr(loaded, function)(**settings)
    device = topology.devices(CHIPS[chip])[0]
    place = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    with jax.sharding.use_abstract_mesh(jax.sharding.Mesh([device], 'x').abstract_mesh):  # tells dispatch the chip
        jax.jit(call).lower(*shapes).compile()


def ours(length: int = 4096, heads: int = 2, groups: int = 1, width: int = 128, rows: int | None = None,
         keys: int = 1024, part_rows: int = 512, part_keys: int = 512):  # fmt: skip
    """Our kernels, forward and backward; without `rows` with the tiles that they choose for the chip."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.span_attention import fused
    from pallas_kernels.span_attention.tpu import Sizes, Tpu

    sizes = rows and Sizes(rows, keys, part_rows, part_keys)
    kernel = Tpu(scale=width**-0.5, sizes=sizes)
    q = jax.ShapeDtypeStruct((1, length, heads * groups, width), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((1, length, heads, width), jnp.bfloat16)
    span = jax.ShapeDtypeStruct((1, length, 2), jnp.int32)
    loss = lambda q, k, v, span: fused.attention(kernel, q, k, v, span)[0].astype(jnp.float32).sum()
    return jax.grad(loss, (0, 1, 2)), (q, kv, kv, span)


def decode(length: int = 8192, rows: int = 4, queries: int = 1, heads: int = 32, kv_heads: int = 8, width: int = 128,
           dtype: str = 'bfloat16'):  # fmt: skip
    """Our kernel for a few queries against a long cache, as dispatch cuts it."""
    import jax
    import jax.numpy as jnp

    from pallas_kernels.span_attention import fused
    from pallas_kernels.span_attention.tpu import Tpu

    q = jax.ShapeDtypeStruct((rows, queries, heads, width), dtype)
    kv = jax.ShapeDtypeStruct((rows, length, kv_heads, width), dtype)
    span = jax.ShapeDtypeStruct((rows, queries, 2), jnp.int32)
    return (lambda *arrays: fused.attention(Tpu(scale=width**-0.5), *arrays)[0]), (q, kv, kv, span)


def main() -> None:
    """Prints the schedules of our kernels, or compiles for `schedules`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--chip', choices=CHIPS, default='v5e')
    parser.add_argument('--width', type=int, default=128, help='of a head')
    parser.add_argument('--groups', type=int, default=1, help='query heads that share a key head')
    parser.add_argument('--json', action='store_true', help='print one object instead of lines')
    parser.add_argument('--compile', help=argparse.SUPPRESS)
    parser.add_argument('--settings', default='{}', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        compile_here(args.chip, args.compile, json.loads(args.settings))
        return
    kernels = schedules(args.chip, f'{__file__}:ours', width=args.width, groups=args.groups)
    if args.json:
        print(json.dumps({name: found._asdict() for name, found in kernels.items()}))
        return
    for name, found in kernels.items():
        print(f'{args.chip} {name}: tiles {found.products}, ends {found.others}, a step {found.step} cycles, '
              f'{found.spills} spills, {found.vmem / 2**20:.1f} MiB of VMEM')  # fmt: skip


if __name__ == '__main__':
    main()
