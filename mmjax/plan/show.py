# SPDX-License-Identifier: Apache-2.0
"""Plans to read: as text, and as a page that needs no other file."""

import html
from collections.abc import Iterable, Sequence

from mmjax.plan.chips import GIB
from mmjax.plan.memory import KINDS, by_kind
from mmjax.plan.plans import Plan, ways_out
from mmjax.report.page import STYLE

Table = tuple[Sequence[str], list[Sequence[str]]]
CONVENTION = (
    'Useful FLOPs: 2 m k n a product; forward, and again for each operand whose gradient is needed. Attention: each '
    'query with every key of its array, half of them in causal decoders. What is computed again (remat) is not useful. '
    'Rows and pictures are counted as full: padding is work too.'
)
BOUND = (
    'The bound adds up the cycles that the compiler scheduled and the collectives that nothing hides; HBM, latencies '
    'and the host come on top: expect 1.0 to 1.3 times as much.'
)


def text(plan: Plan) -> str:
    """Returns a plan as lines for a terminal."""
    blocks = [headline(plan), verdict(plan), *(grid(table) for _, table in tables(plan))]
    return '\n\n'.join(blocks)


def headline(plan: Plan) -> str:
    """Returns what was planned."""
    axes = ' x '.join(f'{name} {size}' for name, size in plan.axes.items())
    return (
        f'{plan.request.config}, stage {plan.stage!r}, on {plan.request.topology}'
        + f' x {plan.request.slices} slices' * (plan.request.slices > 1)
        + f': {plan.devices} devices, {axes}; {plan.rows} rows, {plan.tokens:,} tokens a step, remat {plan.remat!r}, '
        f'{plan.accumulate} microbatches; compiled in {plan.seconds:.0f} s'
    )


def verdict(plan: Plan) -> str:
    """Returns whether a step fits, and how fast it can be, or what would make it fit."""
    need, limit = plan.memory.total / GIB, plan.memory.limit / GIB
    if not plan.memory.fits:
        changes = '\n'.join(f'  {change}' for change in ways_out(plan))
        over = f'{need:.1f} GiB a device, {need - limit:.1f} more than the {limit:.1f} there are'
        return f'does not fit: {over}; try\n{changes}'
    hours = plan.steps * plan.step / 3600
    return (
        f'fits: {need:.1f} of {limit:.1f} GiB a device\n'
        f'at least {plan.step:.3f} s a step, at most {100 * plan.mfu:.1f} % of the peak (MFU)\n'
        f'{plan.steps:,} steps: {hours:.1f} hours, {plan.chip_hours:,.0f} chip-hours, at least'
    )


def tables(plan: Plan) -> list[tuple[str, Table]]:
    """Returns the tables of a plan, each with its title."""
    found = [('Memory, GiB a device', memory(plan))]
    if plan.bound:
        found += [('Work and time', work(plan)), ('What chips send each other in a step', sends(plan))]
    return found


def memory(plan: Plan) -> Table:
    """Returns module by kind, in GiB."""
    parts = plan.memory.by_part
    shown = [kind for kind in KINDS if by_kind(parts)[kind] > 0]
    cell = lambda value: f'{value / GIB:.3f}' if value else ''
    rows = [
        [module or '(all)', *(cell(kinds.get(kind, 0)) for kind in shown)] for module, kinds in sorted(parts.items())
    ]
    rows.append(['sum', *(cell(by_kind(parts)[kind]) for kind in shown)])
    return ['module', *shown], rows


def work(plan: Plan) -> Table:
    """Returns part by part what a step must compute, and the least time for it."""
    compute, peak = plan.bound.compute, plan.devices * plan.chip.peak
    rows = []
    for part in sorted({*compute, *plan.work}, key=lambda p: -compute.get(p, 0)):
        one, seconds = plan.work.get(part), compute.get(part, 0.0)
        shares = [f'{one.useful:.2e}', f'{one.again:.2e}', f'{one.issued / peak:.4f}'] if one else ['', '', '']
        rows.append(
            [part, *shares, f'{seconds:.4f}', f'{100 * one.issued / peak / seconds:.0f} %' if one and seconds else '']
        )
    total = sum(one.issued for one in plan.work.values())
    rows.append(['waiting for others', '', '', '', f'{plan.bound.waiting:.4f}', ''])
    rows.append(
        ['step', f'{plan.useful:.2e}', f'{total - plan.useful:.2e}', f'{total / peak:.4f}', f'{plan.step:.4f}', '']
    )
    return ['part', 'useful FLOPs', 'again', 's at the peak', 's scheduled', 'of the peak'], rows


def sends(plan: Plan) -> Table:
    """Returns the collectives of a step."""
    rows = [
        [one['kind'], ', '.join(one['axes']), f'{one["count"]:.0f}', f'{one["sent"] / GIB:.2f}',
         'beside other work' if one['hidden'] else 'all wait']
        for one in sorted(plan.collectives, key=lambda one: -one['sent'])
    ]  # fmt: skip
    return ['kind', 'axes', 'a step', 'GiB a device sends', 'overlap'], rows


def ranked(plans: Iterable[Plan]) -> str:
    """Returns a table of plans, the fastest that fits first."""
    key = lambda p: (not p.memory.fits, p.step if p.memory.fits else p.memory.total)
    rows = [
        [' x '.join(f'{name} {size}' for name, size in p.axes.items()), p.remat, str(p.accumulate),
         f'{p.memory.total / GIB:.1f}', f'{p.step:.3f}' if p.bound else 'does not fit',
         f'{100 * p.mfu:.1f} %' if p.bound else '']
        for p in sorted(plans, key=key)
    ]  # fmt: skip
    return grid((['mesh', 'remat', 'microbatches', 'GiB', 's a step', 'MFU'], rows))


def grid(table: Table) -> str:
    """Returns a table as aligned text."""
    lines = [list(table[0]), *map(list, table[1])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table[0]))]
    return '\n'.join('  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def page(plan: Plan, others: Sequence[Plan] = ()) -> str:
    """Returns a plan as HTML, those that a search compared it with behind it."""
    title = html.escape(f'{plan.request.config} on {plan.request.topology}')
    kinds, limit = by_kind(plan.memory.by_part), plan.memory.limit
    bars = ''.join(
        f'<tr><td>{kind}</td><td class="number">{size / GIB:.2f}</td><td><span class="bar">'
        f'<i style="width:{min(100 * size / limit, 100):.1f}%"></i></span></td></tr>'
        for kind, size in kinds.items() if size
    )  # fmt: skip
    parts = [
        f'<h1>{title}</h1><p class="quiet">{html.escape(headline(plan))}</p>',
        f'<pre class="{"good" if plan.memory.fits else "bad"}">{html.escape(verdict(plan))}</pre>',
        f'<h2>Memory of {limit / GIB:.1f} GiB</h2><table>{bars}</table>',
        *(f'<h2>{html.escape(name)}</h2>{_table(table)}' for name, table in tables(plan)),
        f'<h2>Tried</h2><pre>{html.escape(ranked(others))}</pre>' if others else '',
        f'<p class="quiet">{CONVENTION} {BOUND}</p>',
    ]
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>{"".join(parts)}'


def _table(table: Table) -> str:
    cells = lambda line, tag: ''.join(
        f'<{tag}{" class=number" if i else ""}>{html.escape(c)}</{tag}>' for i, c in enumerate(line)
    )
    rows = ''.join(f'<tr>{cells(line, "td")}</tr>' for line in table[1])
    return f'<table><tr>{cells(table[0], "th")}</tr>{rows}</table>'
