# SPDX-License-Identifier: Apache-2.0
"""The report of a run: report.html, which needs no other file and no network, and PNGs of its parts."""

import base64
import html
import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image as pillow

from mmjax.report import chart, draw

GOOD, BAD, QUIET = '#047857', '#b91c1c', '#6b7280'
CURVES = {
    'loss': 'Loss',
    'correct': 'Share of tokens predicted',
    'lr': 'Learning rate',
    'tokens_per_s': 'Tokens per second',
}
SUFFIXES = {
    'exact': 'exact match', 'vqa': 'VQA accuracy', 'iou50': 'boxes with IoU of at least 0.5', 'iou': 'mean IoU',
    'anls': 'ANLS', 'cider': 'CIDEr', 'bleu4': 'BLEU-4', 'rouge_l': 'ROUGE-L',
    'text_at_1': 'text found', 'text_at_5': 'text among 5', 'text_at_10': 'text among 10',
    'image_at_1': 'picture found', 'image_at_5': 'picture among 5', 'image_at_10': 'picture among 10',
    'pixel_auroc': 'AUROC over pixels', 'image_auroc': 'AUROC over pictures',
    'loss': 'loss', 'perplexity': 'perplexity', 'token_accuracy': 'tokens predicted',
}  # fmt: skip
RECALLS = tuple(f'{found}_at_{k}' for found in ('text', 'image') for k in (1, 5, 10))
SHARES = ('exact', 'vqa', 'iou50', *RECALLS, 'pixel_auroc', 'image_auroc', 'token_accuracy')

STYLE = pathlib.Path(__file__).with_name('style.css').read_text()


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes report.html and report/*.png from what lies in a work directory; returns the page's path."""
    folder = workdir / 'report'
    folder.mkdir(exist_ok=True)
    results = json.loads((workdir / 'results.json').read_text())
    detail = results.pop('detail')
    predictions = _lines(workdir / 'predictions.jsonl')
    metrics = _lines(workdir / 'metrics.jsonl')
    curves = read_curves(metrics, CURVES)
    charts = [(f'{CURVES[name]} by step', {name: line}) for name, line in curves.items()]
    shares = [f for f in results if f.endswith(tuple(f'_{m}' for m in SHARES)) and not f.startswith('blind_')]
    if measured := read_curves(metrics, shares):
        charts.append(('Measures by step', measured))
    cards = [card for one in predictions if 'pictures' in one for card in [_card(one, folder / 'pictures')]]
    for name, lines in curves.items():
        chart.png({name: lines}, CURVES[name]).save(folder / f'{name}.png')
    if cards:
        draw.sheet([(c['picture'], _captions(c['prediction'])) for c in cards]).save(folder / 'answers.png')
    if boxed := [c for c in cards if 'true_boxes' in c['prediction']]:
        draw.sheet([(c['picture'], _captions(c['prediction'])) for c in boxed]).save(folder / 'boxes.png')
    documents = {path.stem: path.read_text() for path in (folder / 'documents').glob('*.html')}
    page = ''.join(_page(workdir.absolute().name, results, detail, charts, cards, documents))
    (workdir / 'report.html').write_text(page)
    return workdir / 'report.html'


def rows(results: dict[str, Any], evals: Sequence[str]) -> list[tuple[str, str, float, float | None]]:
    """Returns (evaluation, metric, figure, blind figure) of all figures, in order."""
    found = []
    for name in sorted(evals, key=len, reverse=True):
        for figure, value in results.items():
            metric = figure.removeprefix(f'{name}_')
            if metric in SUFFIXES and figure == f'{name}_{metric}':
                found.append((name, metric, value, results.get(f'blind_{figure}')))
    order = {name: i for i, name in enumerate(evals)}
    metrics = [*SUFFIXES]
    return sorted(found, key=lambda row: (order[row[0]], metrics.index(row[1])))


def shown(metric: str, value: float | None) -> str:
    """Returns a figure as it is printed: shares in per cent."""
    if value is None:
        return '-'
    return f'{100 * value:.1f} %' if metric in SHARES else f'{value:.3f}' if abs(value) < 1000 else f'{value:.3g}'


def table(results: dict[str, Any], evals: Sequence[str]) -> str:
    """Returns the table of figures beside the blind control, for the terminal."""
    lines = [('', 'metric', 'measured', 'blind control')]
    lines += [(name, SUFFIXES[m], shown(m, value), shown(m, blind)) for name, m, value, blind in rows(results, evals)]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    layout = lambda line: '  '.join(
        c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
    )
    return '\n'.join(layout(line).rstrip() for line in lines)


def read_curves(lines: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[tuple[float, float]]]:
    """Returns (step, value) of metrics that were written at two steps or more."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name in names:
            if isinstance(line.get(name), int | float):
                found.setdefault(name, []).append((float(line['step']), float(line[name])))
    return {name: found[name] for name in names if len(found.get(name, ())) > 1}


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    # Not splitlines: answers may hold other characters that it takes for the end of a line.
    return [json.loads(line) for line in path.read_text().split('\n') if line] if path.is_file() else []


def _card(prediction: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Returns a prediction with its picture: one with boxes if it has some, else all of its pictures in a row."""
    pictures = [pillow.open(folder / name).convert('RGB') for name in prediction['pictures']]
    if 'true_boxes' in prediction and pictures:
        picture = draw.boxes(pictures[-1], *([tuple(b) for b in prediction[k]] for k in ('found_boxes', 'true_boxes')))
    else:
        picture = draw.beside(pictures) if pictures else pillow.new('RGB', (8, 8), 'white')
    return {'prediction': prediction, 'picture': picture}


def _question(prediction: dict[str, Any]) -> str:
    text = prediction['question']
    return text if len(text) <= 300 else '... ' + text[-300:]


def _right(prediction: dict[str, Any], field: str = 'scores') -> bool:
    return next(iter(prediction.get(field, {}).values()), 0.0) >= 0.5


def _captions(prediction: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the lines under a picture of the sheets."""
    lines = [(_question(prediction), QUIET), (prediction['answer'], GOOD if _right(prediction) else BAD)]
    if 'true_boxes' in prediction:
        return [*lines, (f'IoU {prediction["scores"].get("iou", 0):.2f}', QUIET)]
    return [*lines, (f'expected: {prediction["expected"]}', QUIET)]


def _page(
    name: str,
    results: dict[str, Any],
    detail: dict[str, Any],
    charts: Sequence[tuple[str, dict[str, chart.Points]]],
    cards: list[dict[str, Any]],
    documents: dict[str, str],
) -> Iterator[str]:
    e = html.escape
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    yield f'<title>{e(name)}</title><style>{STYLE}</style><body><h1>{e(name)}</h1>'
    versions = ', '.join(f'{package} {version}' for package, version in detail['versions'].items())
    facts = [f'step {detail["step"]:,}', detail['device'], detail['compute_dtype']]
    yield f'<p class="quiet">{e(" · ".join(facts))}</p>'
    yield from _figures(results, detail)
    if charts:
        yield '<h2>Training</h2><div class="grid wide">'
        for title, lines in charts:
            named = zip(lines, chart.COLOURS * 9, strict=False)
            legend = ''.join(f' <b style="color:{colour}">{e(name)}</b>' for name, colour in named) * (len(lines) > 1)
            yield f'<figure>{chart.svg(lines, title)}<figcaption>{e(title)}{legend}</figcaption></figure>'
        yield '</div>'
    for ev, about in detail['evals'].items():
        chosen = [card for card in cards if card['prediction']['eval'] == ev]
        if chosen:
            yield f'<h2>{e(ev)}: answers</h2>'
            if 'true_boxes' in chosen[0]['prediction']:
                yield '<p class="quiet">Orange: the model\'s box. Broken green: the true one.</p>'
            yield '<div class="grid">' + ''.join(map(_html_card, chosen)) + '</div>'
        if ev in documents:
            yield f'<h2>{e(ev)}: the first documents</h2>'
            yield f'<p class="quiet">What is only read, and not learnt, is grey.</p>{documents[ev]}'
        settings = e(json.dumps(about, indent=2, ensure_ascii=False))
        yield f'<details><summary>How {e(ev)} was measured</summary><pre>{settings}</pre></details>'
    yield f'<p class="quiet" style="margin-top:2.5rem">{e(versions)}</p></body></html>'


def _figures(results: dict[str, Any], detail: dict[str, Any]) -> Iterator[str]:
    """Yields the table of figures beside the blind control."""
    yield '<h2>Figures</h2><table><tr><th></th><th>metric</th><th class="number">measured</th><th></th>'
    yield '<th class="number">blind control</th><th></th></tr>'
    last = ''
    for name, metric, value, blind in rows(results, [*detail['evals']]):
        bars = ['', '']
        if metric in (*SHARES, 'iou'):
            bars[0] = f'<span class="bar"><i style="width:{100 * value:.1f}%"></i></span>'
            bars[1] = (
                ''
                if blind is None
                else f'<span class="bar"><i class="blind" style="width:{100 * blind:.1f}%"></i></span>'
            )
        yield f'<tr><td>{"" if name == last else html.escape(name)}</td><td>{SUFFIXES[metric]}</td>'
        yield f'<td class="number">{shown(metric, value)}</td><td>{bars[0]}</td>'
        yield f'<td class="number">{shown(metric, blind)}</td><td>{bars[1]}</td></tr>'
        last = name
    yield '</table><p class="quiet">The blind control asks the same questions, each with another question\'s picture: '
    yield 'what is right there was not seen.</p>'


def _bar(metric: str, value: float | None, kind: str) -> str:
    """Returns a bar as long as a share."""
    if value is None or metric not in (*SHARES, 'iou'):
        return ''
    return f'<span class="bar"><i class="{kind}" style="width:{100 * value:.1f}%"></i></span>'


def _html_card(card: dict[str, Any]) -> str:
    p, e = card['prediction'], html.escape
    right = 'good' if _right(p) else 'bad'
    parts = [f'<div class="card"><img alt="" src="{_uri(card["picture"])}">']
    parts.append(f'<p class="quiet">{e(_question(p))}</p>')
    parts.append(
        f'<p><span class="label">answer</span><span class="{right}">{e(p["answer"] or p.get("problem", ""))}</span></p>'
    )
    if 'true_boxes' in p:
        parts.append(f'<p><span class="label">IoU</span>{p["scores"].get("iou", 0):.2f}</p>')
    else:
        parts.append(f'<p><span class="label">expected</span>{e(p["expected"])}</p>')
    if 'blind_answer' in p:
        parts.append(f'<p><span class="label">blind</span>{e(p["blind_answer"])}</p>')
    return ''.join([*parts, '</div>'])


def _uri(picture: pillow.Image) -> str:
    """Returns a picture as a data URI: PNG for drawings, JPEG for what would take more than 300 kB as PNG."""
    for kind, options in (('png', {'optimize': True}), ('jpeg', {'quality': 88})):
        held = io.BytesIO()
        picture.save(held, kind, **options)
        if held.tell() < 300_000:
            break
    return f'data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}'
