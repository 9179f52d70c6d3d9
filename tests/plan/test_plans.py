# SPDX-License-Identifier: Apache-2.0
"""What plans say: whether a step fits, the ways out, what a search tries; the real compiler where it is installed."""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from mmjax import sharding
from mmjax.config import ConfigError, load_config
from mmjax.plan import bound, memory, plans, program, show
from mmjax.plan.chips import CHIPS, GIB, chip_of
from mmjax.plan.flops import Work
from mmjax.plan.hlo import Collective, Program

ROOT = pathlib.Path(__file__).resolve().parents[2]
compiler = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="needs the TPU compiler: pip install -e '.[plan]'"
)


def plan(activations: float, *, mesh: str = '', seconds: float = 1.0, **changes) -> plans.Plan:
    parts = {'decoder': {'parameters': 4.0 * GIB, 'optimizer': 8.0 * GIB}, '': {'activations': activations * GIB}}
    found = memory.Memory(parts, (12 + activations) * GIB, CHIPS['v5e'].hbm)
    own = dict(
        request=plans.Request('configs/llava.py:7b', 'v5e:4x4', mesh=mesh), stage='chat', steps=3600, rows=128,
        tokens=1000, axes=dict(data=1, fsdp=16, tp=1), devices=16, remat='block', accumulate=1, seconds=60.0,
        memory=found,
    )  # fmt: skip
    if found.fits:
        own |= dict(
            work={'decoder': Work(1e15, 2e15, 1e15, 1e14)},
            bound=bound.Bound(compute={'decoder': 0.8 * seconds}, waiting=0.2 * seconds, hidden=0.1, unknown=0),
            collectives=[dict(kind='all-gather', axes=['fsdp'], hidden=False, count=3, sent=2.0 * GIB)],
        )
    return plans.Plan(**own | changes)


def test_a_step_that_fits():
    one = plan(2.0, seconds=2.0)
    assert one.memory.fits and one.step == 2.0 and one.chip_hours == 3600 * 2 * 16 / 3600
    assert one.mfu == pytest.approx(3e15 / (16 * 197e12 * 2))
    said = show.text(one)
    assert 'fits: 14.0 of 15.8 GiB' in said and 'at least 2.000 s a step' in said and 'all-gather' in said
    page = show.page(one, [one])
    assert '47.6 % of the peak' in page and '<script' not in page and 'http' not in page.replace('<!doctype', '')
    assert json.loads(json.dumps(one.to_json()))['fits']


def test_a_step_that_does_not_fit_says_what_would():
    said = show.verdict(plan(12.0))
    assert 'does not fit: 24.0 GiB a device, 8.2 more than the 15.8' in said
    assert 'accumulate=4' in said and '2 times the chips' in said and 'tp=4' in said
    assert len(plans.ways_out(plan(12.0))) == 3
    assert 'remat=block' in plans.ways_out(plan(12.0, remat='none'))[0]


def test_a_search_ranks_what_it_tried():
    tried = []

    def make(request):
        tried.append(request)
        if 'tp=8' in request.mesh:
            raise plans.PlanError('heads')
        tp = int(request.mesh.partition('tp=')[2] or 1)
        none = 'remat=none' in request.overrides
        return plan(
            2 if not none else 12, seconds=1.0 + tp / 10, request=request, axes=dict(data=1, fsdp=16 // tp, tp=tp)
        )

    found = list(plans.search(plans.Request('c', 'v5e:4x4'), make, most=8))
    assert [r.mesh for r in tried[1:5]] == [f'data=1,fsdp={16 // tp},tp={tp}' for tp in (1, 2, 4, 8)]
    assert [r.overrides for r in tried[5:]] == [['remat=dots'], ['remat=none']]
    table = show.ranked(found).splitlines()
    assert 'fsdp 16 x tp 1' in table[1] and 'does not fit' in table[-1]
    assert len(list(plans.search(plans.Request('c', 'v5e:4x4'), make, most=2))) == 2


def test_time_waits_for_what_nothing_hides():
    chip, widths = CHIPS['v5p'], {'data': 0, 'fsdp': 2, 'tp': 1}
    sends = [
        Collective('all-gather', ('fsdp',), 360e9, 2, False, ''),
        Collective('all-reduce', ('data',), 6.25e9, 1, True, ''),
    ]
    code = Program('ENTRY %main (x: f32[8]) -> f32[8] {\n  ROOT %x = f32[8] parameter(0)\n}')
    found = bound.bound(code, {}, sends, chip, widths, state_bytes=2.77e12)
    assert found.waiting == pytest.approx(2.0) and found.hidden == pytest.approx(1.0)
    assert found.compute == {'update': 1.0} and found.seconds == pytest.approx(3.0)


def test_attention_is_met_tile_by_tile():
    text = """ENTRY %main (x: f32[8]) -> f32[8] {
  %lse = f32[4,2,3,8,128] parameter(0)
  %span_attention_forward.1 = (bf16[4,2,1,3072,64]{4,3}, f32[4,2,3,8,128]{4}) custom-call(%x), target="tpu"
  %span_attention_backward.2 = (bf16[4,2,1,3072,64], bf16[4,2,3072,64]) custom-call(%x, %lse), target="tpu"
  ROOT %add.1 = f32[4,2,3,8,128] add(%lse, %lse)
}"""
    code = Program(text)
    where = {one.name: one for one in code.computations['main']}
    for name in ('span_attention_forward.1', 'span_attention_backward.2'):
        assert bound.tiles(where[name], where, causal=True) == (8 * 6, 8 * 3)
        assert bound.tiles(where[name], where, causal=False) == (8 * 9, 8 * 3)
    assert bound.tiles(where['add.1'], where, causal=True) == (0, 0)


def test_parts_are_named_by_scopes():
    part = bound.part
    assert part('jit(update)/transpose(jvp(decoder))/while/body/mlp/dot_general') == 'decoder'
    assert part('jit(update)/decoder/gated/attn') == 'gated' and part('jit(update)/update/mul') == 'update'
    assert part('jit(update)/mul') == part('') == 'rest'


def test_memory_is_that_of_the_real_state():
    run = load_config(f'{ROOT}/configs/llava.py:debug')
    mesh = sharding.make_mesh(1, 4, 2)
    with sharding.use(mesh):
        step = program.describe(run, program.stage_of(run, ''), mesh)
        compiled = program.lower(step).compile()
        found = memory.compiled(step, compiled.memory_analysis(), 1e9)
    kinds, stats = memory.by_kind(found.by_part), compiled.memory_analysis()
    given = kinds['parameters'] + kinds['optimizer'] + kinds['average'] + kinds['media and text']
    assert given == pytest.approx(stats.argument_size_in_bytes, rel=0.01)
    assert sum(kinds.values()) == pytest.approx(found.total, rel=0.05)


@pytest.mark.parametrize(
    'error, need, limit',
    [
        ('Ran out of memory in memory space hbm. Used 32.03G of 15.75G hbm. Exceeded', 32.03, 15.75),
        ('required for HLO temporaries (20.50G) exceeds available HBM (15.75G)', 20.5, 15.75),
    ],
)
def test_what_the_compiler_says_of_a_step_that_does_not_fit(error, need, limit):
    run = load_config(f'{ROOT}/configs/llava.py:debug')
    mesh = sharding.make_mesh(1, 1, 1)
    with sharding.use(mesh):
        step = program.describe(run, run.stages[0], mesh)
    found = memory.refused(step, error, 1.0)
    given = sum(memory.by_kind(found.by_part)[kind] for kind in memory.GIVEN) * ('temporaries' in error)
    assert found.total == need * GIB + given and found.limit == limit * GIB and not found.fits
    assert memory.refused(step, 'another error', 1.0) is None


def test_bad_input(capsys):
    run = load_config(f'{ROOT}/configs/llava.py:debug')
    with pytest.raises(ConfigError, match='--stage=tune: the config has align, chat'):
        program.stage_of(run, 'tune')
    with pytest.raises(ConfigError, match='--mesh=tensor=4: write axes of data, fsdp, tp'):
        program.mesh_on(jax.devices(), run, 'tensor=4')
    with pytest.raises(ValueError, match="there is no TPU 'v9'; known are v4"):
        chip_of('v9:2x2')


def test_axes_run_through_the_torus():
    device = lambda i, j, s: type('Device', (), dict(coords=(i, j, 0), slice_index=s))()
    grid = np.array([[[device(i, j, s) for j in range(2)] for i in range(2)] for s in range(2)])
    assert bound.torus_widths(grid, ('data', 'fsdp', 'tp')) == {'data': 0, 'fsdp': 1, 'tp': 1}


@compiler
@pytest.mark.parametrize('config, topology', [('llava.py:debug', 'v5e:2x2'), ('flamingo.py:debug', 'v5p:2x2x1')])
def test_the_real_compiler(config, topology):
    found = plans.make(plans.Request(f'{ROOT}/configs/{config}', topology, mesh='fsdp=2,tp=2', timeout=600.0))
    assert found.memory.fits and found.devices == 4 and 0 < found.mfu < 1
    assert {'encoder', 'decoder', 'loss', 'update'} <= found.bound.compute.keys() and found.collectives
    assert found.work['encoder'].backward == 0 < found.work['decoder'].backward


@compiler
def test_a_real_step_that_does_not_fit():
    request = plans.Request(f'{ROOT}/configs/llava.py:debug', 'v5e:2x2', mesh='fsdp=4', timeout=600.0)
    found = plans.make(dataclasses.replace(request, overrides=['model.decoder.vocab=6000000']))
    assert not found.memory.fits and 'times the chips' in show.verdict(found)
