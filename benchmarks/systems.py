# SPDX-License-Identifier: Apache-2.0
"""Writes the table of systems, docs/systems.md, after training some of them at their `:debug` size.

    python benchmarks/systems.py llava clip     trains two, measures them, keeps the figures in docs/systems.json
    python benchmarks/systems.py all            trains all: minutes each on a laptop
    python benchmarks/systems.py                writes the page anew from what is kept

Parameters are counted on the published config, parity is what docs/parity.md says, figures and their controls are those
of results.json.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import jax

from mmjax.config import Run
from mmjax.config_io import load_config
from mmjax.params import flatten
from mmjax.report.page import SHARES, SUFFIXES, rows, shown
from mmjax.workdir import abstract

DOCS = pathlib.Path(__file__).resolve().parent.parent / 'docs'
KEPT, PAGE, PARITY = DOCS / 'systems.json', DOCS / 'systems.md', DOCS / 'parity.md'


@dataclasses.dataclass
class System:
    """A row: the published size whose parameters are counted, and the references that stand for it."""

    title: str
    size: str
    references: str = ''
    control: str = ''  # the evaluation that is the first one's control, where none has one of its own


SYSTEMS = {
    'clip': System('CLIP', 'l14', 'clip clip_legacy_eos2 openai_clip_vit openai_clip_rn'),
    'siglip': System('SigLIP', 'so400m', 'siglip'),
    'mae': System('MAE', 'l16', 'vit_mae'),
    'data2vec': System('data2vec', 'l16', 'data2vec_vision data2vec_vision_abs data2vec_loss'),
    'blip': System('BLIP', 'base', 'blip_caption blip_itm_itc blip_itc_momentum blip_vqa'),
    'blip2': System('BLIP-2', '2.7b', 'blip2_opt blip2_t5 blip2_itm_itc lavis_qformer_stage1'),
    'instructblip': System('InstructBLIP', '7b', 'instructblip_llama instructblip_t5 instructblipvideo'),
    'x_instructblip': System('X-InstructBLIP', '7b'),
    'textbind': System('TextBind', '7b', 'textbind_compose'),
    'butd': System('Bottom-up and top-down', 'relu', 'butd_vqa'),
    'flamingo': System(
        'Flamingo', '9b', 'idefics idefics_9b_layout openflamingo_perceiver openflamingo_xattn openflamingo_model'
    ),
    'kosmos1': System('KOSMOS-1', ''),
    'kosmos2': System('KOSMOS-2', '', 'kosmos2'),
    'kosmos25': System('KOSMOS-2.5', '', 'kosmos2_5'),
    'llava': System('LLaVA-1.5', '7b', 'llava'),
    'llava_next': System('LLaVA-NeXT and OneVision', '7b', 'llava_next llava_onevision'),
    'shikra': System('Shikra', '7b', 'shikra_compose'),
    'fuyu': System('Fuyu', '8b', 'fuyu'),
    'qwen_vl': System('Qwen-VL', '448', 'qwen_vl'),
    'cogvlm': System('CogVLM', '17b', 'cogvlm1 cogvlm2'),
    'palm': System('PaLM', '8b', 'palm_cohere', control='disordered'),
    'palm_e': System('PaLM-E', '12b', 'palme_compose'),
    'florence2': System('Florence-2', 'base', 'florence2'),
    'ferret': System('Ferret', '7b', 'ferret_region_sampler'),
    'anomalygpt': System('AnomalyGPT', '7b', 'anomalygpt_parts'),
    'qwen2_5_vl': System('Qwen2.5-VL', '7b', 'qwen2_5_vl qwen2_5_vl_video'),
    'qwen3_vl': System('Qwen3-VL', '8b', 'qwen3_vl'),
    'paligemma': System('PaliGemma', '224', 'paligemma'),
    'gemma3': System('Gemma 3', '4b', 'gemma3_mm gemma3_text'),
    'smolvlm': System('SmolVLM', '2.2b', 'smolvlm'),
    'internvl': System('InternVL', '8b', 'internvl'),
}

INTRODUCTION = """# Systems

A system is a config; the parts are shared. Parameters are those of the size in brackets; parity counts the references
of [parity.md](parity.md) that agree with our code. The last two columns are a run of the `:debug` size, which trains
for minutes on a CPU: its steps, and what it then gets right of data that no training document shows, the control in
brackets. Written by `python benchmarks/systems.py all`. A model that is trained for longer, until it reads, is that of
[quickstart.md](quickstart.md).

Unless said otherwise the data is the digits of the package and the control the same questions with another question's
pictures. Where nothing is asked there are others: a masked autoencoder and data2vec are compared with the best guess
that knows a patch's place but sees no picture, PaLM with the loss where the letters that it could look up are out of
order. A figure in bold beats its control: a share by three standard errors, a loss by a tenth.

| system | parts | parameters | parity | steps | result (control) |
|---|---|---|---|---|---|
"""


def train(name: str, work: pathlib.Path) -> dict[str, object]:
    """Trains the debug size of a system in a process of its own; returns what is kept of it."""
    folder = work / name
    command = [sys.executable, '-m', 'mmjax', 'train', f'--config=configs/{name}.py:debug', f'--workdir={folder}']
    subprocess.run(command, check=True, cwd=DOCS.parent)
    results = json.loads((folder / 'results.json').read_text())
    detail = results['detail']
    figures = rows(results, [*detail['evals']])
    documents = {each: said['documents'] for each, said in detail['evals'].items()}
    return dict(steps=detail['step'], jax=jax.__version__, documents=documents, figures=figures)


def parts(run: Run) -> str:
    """Returns the names of a model's parts, the decoder last."""
    fields = [(f.name, getattr(run.model, f.name)) for f in dataclasses.fields(run.model)]
    fields += [(name, c) for name, several in fields if isinstance(several, dict) for c in [*several.values()][:1]]
    found = [
        (name == 'decoder', type(c).__qualname__.split('.')[0]) for name, c in fields if dataclasses.is_dataclass(c)
    ]
    return ', '.join(part for _, part in sorted(found, key=lambda pair: pair[0]))


def agreement(system: System) -> str:
    """Returns how many of a system's references agree."""
    said = {}
    for line in PARITY.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if len(cells) == 6:
            said[cells[0]] = cells[4] == 'ok'
    names = system.references.split()
    return f'{sum(said.get(name, False) for name in names)} of {len(names)}' if names else '-'


def compared(system: System, kept: dict) -> list[tuple[str, str, float, float | None]]:
    """Returns (evaluation, metric, figure, control) of the first figure of each evaluation.

    Where that one does not beat its control but the loss does, as with answers that are seldom right to the letter, the
    loss follows.
    """
    first: dict[str, list[tuple]] = {}
    for name, metric, value, blind in kept['figures']:
        shown_yet = first.setdefault(name, [])
        if not shown_yet or (metric == 'loss' and not beats(*shown_yet[0][1:], kept['documents'][name])):
            shown_yet.append((name, metric, value, blind))
    if system.control:
        ((_, _, control, _),), ((name, metric, value, _),) = first.pop(system.control), first.popitem()[1]
        return [(name, metric, value, control)]
    better = lambda one: beats(*one[1:], kept['documents'][one[0]])
    return [one for found in first.values() for one in found if one is found[0] or better(one)]


def beats(metric: str, value: float, control: float | None, documents: int) -> bool:
    """Returns whether a figure is better than its control by more than chance makes of so many documents."""
    if control is None:
        return False
    if metric not in SHARES:
        return value < 0.9 * control
    deviation = math.sqrt((value * (1 - value) + control * (1 - control)) / documents)
    return value - control > 3 * deviation


def result(system: System, kept: dict | None) -> str:
    """Returns the first figure of each evaluation beside its control, bold where it is better."""
    said = []
    for name, metric, value, control in compared(system, kept) if kept else ():
        figure = f'{name}: {SUFFIXES[metric]} {shown(metric, value)}'
        figure = f'**{figure}**' if beats(metric, value, control, kept['documents'][name]) else figure
        said.append(f'{figure} ({shown(metric, control)})')
    return '; '.join(said) or '-'


def remarks(kept: dict[str, dict]) -> str:
    """Returns what has to be said below the table: which systems did not beat a control, and which nobody trained."""
    blind = [SYSTEMS[name].title for name in SYSTEMS if name in kept and '**' not in result(SYSTEMS[name], kept[name])]
    unknown = [system.title for name, system in SYSTEMS.items() if name not in kept]
    said = [f'No better than their control: {", ".join(blind)}.'] if blind else []
    return '\n'.join(said + [f'Not trained: {", ".join(unknown)}.'] * bool(unknown))


def row(name: str, kept: dict | None) -> str:
    """Returns a line of the table."""
    system = SYSTEMS[name]
    run = load_config(f'{DOCS.parent}/configs/{name}.py' + f':{system.size}' * bool(system.size))
    millions = sum(w.size for w in flatten(abstract(run)).values()) / 1e6
    size = f'{millions / 1e3:.1f} B' if millions >= 1e3 else f'{millions:.1f} M'
    size += f' ({system.size})' * bool(system.size)
    cells = (f'[{system.title}](../configs/{name}.py)', parts(run), size, agreement(system))
    return '| ' + ' | '.join((*cells, str(kept['steps']) if kept else '-', result(system, kept))) + ' |'


def main() -> None:
    """Trains, keeps the figures, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='which are trained: all, or some of the names')
    parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/systems'), help='folder of their runs')
    args = parser.parse_args()
    if unknown := {*args.names} - {'all', *SYSTEMS}:
        parser.error(f'no system {", ".join(sorted(unknown))}; known are all, {", ".join(SYSTEMS)}')
    for name in SYSTEMS if 'all' in args.names else args.names:
        figures = train(name, args.work.resolve())
        KEPT.write_text(json.dumps({**read(), name: figures}, indent=1) + '\n')
    kept = read()
    table = '\n'.join(row(name, kept.get(name)) for name in SYSTEMS)
    PAGE.write_text('\n\n'.join(filter(None, (INTRODUCTION + table, remarks(kept)))) + '\n')
    print(PAGE.read_text())


def read() -> dict[str, dict]:
    """Returns the figures that are kept, by system."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


if __name__ == '__main__':
    main()
