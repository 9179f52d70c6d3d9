# SPDX-License-Identifier: Apache-2.0
"""Compiles one step in a process of its own, for the compiler takes where to write its schedule only once.

python -m mmjax.plan.child REQUEST.json OUT.json
"""

import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

FLAGS = (
    '--xla_jf_dump_to={} --xla_jf_dump_hlo_text=true --xla_jf_dump_llo_text=true '
    '--xla_jf_dump_llo_pass_label_regex=({})'
)


@dataclasses.dataclass
class Request:
    """What is to be compiled for which pod."""

    config: str
    topology: str
    overrides: list[str] = dataclasses.field(default_factory=list)
    stage: str = ''
    mesh: str = ''  # as --mesh writes it; '': the run's own
    slices: int = 1
    timeout: float = 3600.0  # seconds


def main() -> None:
    """Answers a request."""
    request, out = (pathlib.Path(argument) for argument in sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix='plan') as folder:
        answer = compile_step(Request(**json.loads(request.read_text())), pathlib.Path(folder))
    out.write_text(json.dumps(answer))


def compile_step(request: Request, folder: pathlib.Path) -> dict[str, Any]:
    """Returns all that is known of a step: see mmjax.plan.Plan, whose fields these are."""
    from mmjax.plan.schedule import LABELS

    os.environ['JAX_PLATFORMS'] = 'cpu'
    os.environ['LIBTPU_INIT_ARGS'] = f'{os.environ.get("LIBTPU_INIT_ARGS", "")} {FLAGS.format(folder, LABELS)}'
    import jax

    from mmjax import sharding, topology
    from mmjax.compiler import options
    from mmjax.config import load_config
    from mmjax.plan import bound, flops, hlo, memory, program, schedule
    from mmjax.plan.chips import chip_of

    chip, run = chip_of(request.topology), load_config(request.config, request.overrides)
    devices, stage = topology.devices(request.topology, slices=request.slices), program.stage_of(run, request.stage)
    mesh = program.mesh_on(devices, run, request.mesh)
    axes = dict(mesh.shape)
    answer: dict[str, Any] = dict(
        stage=stage.name, steps=stage.steps, rows=stage.rows, tokens=stage.rows * run.layout.max_tokens, axes=axes,
        devices=mesh.size, remat=run.remat, accumulate=stage.accumulate,
    )  # fmt: skip
    with sharding.use(mesh):
        step = program.describe(run, stage, mesh)
        lowered, began = program.lower(step), time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=options(devices[0].device_kind))
        except jax.errors.JaxRuntimeError as e:
            found = memory.refused(step, str(e), chip.hbm)
            if found is None:
                raise
            return answer | dict(memory=found._asdict(), seconds=time.perf_counter() - began)
        answer['seconds'] = time.perf_counter() - began
        found = memory.compiled(step, compiled.memory_analysis(), chip.hbm)
        state = 2 * sum(memory.on_chip(a) for a in jax.tree.leaves(step.state))
    text = next(folder.glob('*TLP-hlo.txt')).read_text(errors='replace')
    code = hlo.Program(text)
    sends = hlo.collectives(code, axes)
    rings = bound.torus_widths(mesh.devices, mesh.axis_names)
    least = bound.bound(code, schedule.read(folder), sends, chip, rings, state)
    work = flops.by_part(program.work(step), bound.PARTS)
    return answer | dict(
        memory=found._asdict(),
        work={part: one._asdict() for part, one in work.items()},
        bound=least._asdict(),
        collectives=[
            dict(kind=kind, axes=list(over), hidden=hidden, count=count, sent=sent)
            for (kind, over, hidden), (count, sent) in hlo.totals(sends).items()
        ],
    )


if __name__ == '__main__':
    main()
