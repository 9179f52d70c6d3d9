# SPDX-License-Identifier: Apache-2.0
"""Reading compiled programs: how often what runs, and who sends how much."""

import pytest

from mmjax.plan.hlo import Program, arrays, collectives, members, totals

PROGRAM = """HloModule jit_update, is_scheduled=true

%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[] constant(6)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%open (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %le = pred[] compare(%j, %j), direction=LT
}

%sparse (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8] parameter(0)
  ROOT %ag.2 = bf16[16,8] all-gather(%a), replica_groups=[2,4]<=[8], dimensions={0}
}, execution_thread="sparsecore"

%body (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]) parameter(0)
  %w = f32[8,2]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %ar = f32[8,2]{1,0:T(8,128)} all-reduce(%w), replica_groups={{0,4},{1,5},{2,6},{3,7}}, metadata={op_name="jit(f)/x"}
  %st = ((bf16[4,8]), bf16[16,8], s32[]) custom-call-start(%w), called_computations={%sparse}
  ROOT %t = (s32[], /*index=1*/f32[8]) tuple(%w, %ar)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  %two = s32[] constant(2)
  %init = (s32[], f32[8]) tuple(%two, %x)
  %loop = (s32[], /*index=1*/f32[8]{0:T(8)}) while(%init), condition=%cond, body=%body
  %endless = (s32[], f32[8]) while(%init), condition=%open, body=%body
  %cp = (bf16[2,4], bf16[2,4], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,2}}
  ROOT %rs = f32[4] reduce-scatter(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}
"""


def test_what_a_step_runs_and_sends():
    program = Program(PROGRAM)
    times = {one.name: (t, hidden) for one, t, hidden in program.executed() if t != 1}
    assert times['ar'] == (4, False) and times['ag.2'] == (4, True)  # from 2 to 6
    assert program.unknown == ['endless']
    found = totals(collectives(program, {'data': 2, 'fsdp': 4}))
    assert found == {
        ('all-reduce', ('data',), False): (5, 5 * 2 * 64 * 1 / 2),
        ('all-gather', ('fsdp',), True): (5, 5 * 256 * 3 / 4),
        ('collective-permute', ('fsdp',), True): (1, 16),
        ('reduce-scatter', ('fsdp',), False): (1, 16 * 3),
    }
    sums = [c.scope for c in collectives(program, {'data': 2, 'fsdp': 4}) if c.kind == 'all-reduce']
    assert sums == ['jit(f)/x', 'jit(f)/x']


@pytest.mark.parametrize(
    'rest, group',
    [
        ('replica_groups={{1,3},{0,2}}', [1, 3]),
        ('replica_groups=[4,2]<=[8]', [0, 1]),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', [0, 4]),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", [0, 4]),
        ("replica_groups=mesh['x'=8] {'x'}", list(range(8))),
        ('source_target_pairs={{2,6},{6,2}}', [2, 6]),
        ('channel_id=1', list(range(8))),
    ],
)
def test_groups(rest, group):
    assert members(rest, (2, 4)) == group


def test_bytes():
    assert arrays('(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, pred[3], f8e4m3fn[2])') == [64, 4, 3, 2]


def test_a_program_that_is_none():
    with pytest.raises(ValueError, match='no program that can be read'):
        Program('HloModule x\n')
