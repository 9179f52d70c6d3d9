# SPDX-License-Identifier: Apache-2.0
"""Measures a trained model: answers and losses on the documents of each `Eval`, beside a control that cannot see.

source -> task -> documents -> question | answer -> prompts -> answers -> figures
                      |            '- with another document's pictures -> blind figures
                      '- loss and perplexity
"""

import functools
import math
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import compare, log, marking, sharding
from mmjax.answer import Answer, Answerer, as_read, feed, gather, room, rows_for
from mmjax.batch import Batch
from mmjax.choose import Chooser
from mmjax.config import ConfigError, Eval, Run
from mmjax.config_io import to_json
from mmjax.data import features as features_of
from mmjax.data import images
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.data.pack import pack
from mmjax.data.shots import join
from mmjax.decode.sampling import Decoding
from mmjax.document import BadDocument, Document, Features, Image
from mmjax.evals import blind, few_shot
from mmjax.evals.metrics import METRICS, OVER_ALL, VERSION, expected, found_boxes, references, true_boxes, words
from mmjax.objectives.next_token import NextToken
from mmjax.report import page
from mmjax.report.results import Measured, save
from mmjax.workdir import restore

ASKING_NOTHING = ('retrieval', 'loss', 'maps')
POOL = 2048  # documents of an example source that are looked at


class Asked(NamedTuple):
    """A document with the prompt made of it, None where it cannot be asked."""

    document: Document
    prompt: Laid | None


def run(run: Run, model: Any, workdir: pathlib.Path, step: int, evals: Sequence[Eval] | None = None) -> dict[str, Any]:
    """Measures a model and leaves results.json, predictions.jsonl and the report in the work directory.

    Returns the content of results.json. With several processes all take part and the first one writes.
    """
    measured = measure(run, model, evals)
    if jax.process_index():
        return {}
    devices = jax.devices()
    detail = {
        'step': step,
        'device': f'{len(devices)} x {devices[0].device_kind}',
        'compute_dtype': run.compute_dtype,
        'config': to_json(run),
    }
    results = save(workdir, measured, detail)
    log.info(page.table(results, [one.name for one in measured]))
    log.info(f'report: {page.write(workdir)}')
    return results


def measure_workdir(
    workdir: pathlib.Path, run_with_evals: Run, *, only: Sequence[str] = (), step: int | None = None, ema: bool = False
) -> dict[str, Any]:
    """Measures the checkpoint in a work directory by the evals of a config, all of them or those named."""
    names = [ev.name for ev in run_with_evals.evals]
    if unknown := [name for name in only if name not in names]:
        raise ConfigError(f'no eval {", ".join(unknown)}; the config has {", ".join(names) or "none"}')
    evals = [ev for ev in run_with_evals.evals if ev.name in only or not only]
    if not evals:
        raise ConfigError('the config has no evals; give one that has by --config')
    mesh = _mesh(run_with_evals)
    log.info(log.device_line(mesh))
    with sharding.use(mesh):
        trained, model, step = restore(workdir, mesh, step=step, ema=ema)
        return run(trained, model, workdir, step, evals)


def _mesh(run: Run) -> jax.sharding.Mesh:
    """Returns the run's mesh; where it does not fit this machine, all devices side by side."""
    try:
        return sharding.make_mesh(*run.mesh.sizes(jax.device_count()))
    except ConfigError:
        return sharding.make_mesh(jax.device_count())


def measure(run: Run, model: Any, evals: Sequence[Eval] | None = None) -> list[Measured]:
    """Measures a model on the mesh in use; every process takes part and gets all results."""
    layout = run.layout.build(run.model.media_spec())
    found = []
    for ev in run.evals if evals is None else evals:
        check_metric(ev)
        objective = run.stages[-1].objective if run.stages else NextToken()  # a run of imported weights has no stages
        found.append(measure_one(ev, layout, model, objective))
        log.info(f'{ev.name}: ' + ', '.join(f'{k} {v:.4g}' for k, v in found[-1].figures.items()))
    return found


def check(run: Run) -> None:
    """Opens what the evals read and closes it again: what cannot be measured is refused before anything is trained."""
    for ev in run.evals:
        check_metric(ev)
        ev.source.build()


def check_metric(ev: Eval) -> None:
    """Refuses a metric that nobody knows."""
    if ev.metric not in (*METRICS, *ASKING_NOTHING):
        known = ', '.join((*METRICS, *ASKING_NOTHING))
        raise ConfigError(f'eval {ev.name}: metric is {ev.metric!r}, known are {known}')


def measure_one(ev: Eval, layout: Layout, model: Any, objective: Any) -> Measured:
    """Measures one evaluation; losses are the objective's."""
    dropped: Counter[str] = Counter()
    documents = read(ev.source, ev.task, ev.count, dropped)
    if ev.metric == 'retrieval':
        return compare.measure(ev, documents, layout, model, dropped)
    if ev.metric == 'maps':
        shown = read(ev.shot_source, ev.task, ev.shots, dropped) if ev.shots else []
        return marking.measure(ev, documents, shown, layout, model, dropped)
    examples = choose_examples(ev, documents, layout, model, dropped)
    joined = [join(some, d, ev.separator) for some, d in zip(examples, documents, strict=True)]
    figures = losses(ev.name, joined, layout, model, objective)
    others, owner = blind.shuffle(documents, _size, ev.seed) if ev.blind else ([], [])
    changed = {i: join(examples[i], others[i], ev.separator) for i, other in enumerate(owner) if other >= 0}
    if changed:
        figures |= losses(f'blind_{ev.name}', [*changed.values()], layout, model, objective)
    detail = {'documents': len(documents), 'eval': to_json(ev), 'metric_version': VERSION}
    predictions: list[dict[str, Any]] = []
    if ev.metric != 'loss':
        asked = [_ask(d, layout, dropped) for d in joined]
        controls = {i: _ask(d, layout, Counter()) for i, d in changed.items() if asked[i].prompt}
        keys = [[e.key for e in some] for some in examples]
        owners = {i: documents[owner[i]].key for i in controls}
        predictions, settings = _answer(ev, layout, model, asked, controls)
        for prediction in predictions:
            i = prediction.pop('number')
            prediction |= {'examples': keys[i]} if keys[i] else {}
            prediction |= {'blind_pictures_of': owners[i]} if i in owners else {}
        figures |= _means(ev, predictions)
        detail |= settings
        joined = [a.document for a in asked if a.prompt]
    detail |= {'dropped': dict(dropped)}
    return Measured(ev.name, figures, detail, predictions, joined)


def read(source: Any, task: Any, count: int, dropped: Counter[str]) -> list[Document]:
    """Returns the first `count` documents of a source that can be read (0: all), after the task."""
    opened, change = source.build(), task.build() if hasattr(task, 'build') else task
    documents: list[Document] = []
    for index in range(len(opened)):
        if count and len(documents) == count:
            break
        try:
            document = opened[index]
            documents.append(change(document) if change else document)
        except BadDocument as error:
            dropped[error.reason] += 1
    if not documents:
        raise ConfigError(f'source {opened.name} gave no document to measure; dropped: {dict(dropped)}')
    return documents


def _size(picture: Image | Features) -> tuple[int, int]:
    """Returns (width, height), of features (width, vectors).

    (0, 0) of what cannot be read: it is left out when it is decoded.
    """
    try:
        read = features_of if isinstance(picture, Features) else images
        return read.size(picture)
    except BadDocument:
        return 0, 0


def choose_examples(
    ev: Eval, documents: list[Document], layout: Layout, model: Any, dropped: Counter[str]
) -> list[list[Document]]:
    """Returns the examples shown before each document."""
    if not ev.shots:
        return [[] for _ in documents]
    same = ev.shot_source is None
    pool = documents if same else read(ev.shot_source, ev.task, POOL, dropped)
    if ev.shots_by == 'random':
        chosen = few_shot.at_random(len(documents), len(pool), ev.shots, ev.seed, same)
    elif ev.shots_by == 'similar':
        own = features(documents, layout, model)
        chosen = few_shot.most_similar(own, own if same else features(pool, layout, model), ev.shots, same)
    else:
        raise ConfigError(f"eval {ev.name}: shots_by is {ev.shots_by!r}, known are 'random' and 'similar'")
    return [[pool[k] for k in row] for row in chosen.tolist()]


@jax.jit
def _pooled(model: Any, batch: Batch) -> jax.Array:
    x = model.encoder(batch.shown, batch.media_size).astype(jnp.float32).mean(axis=(2, 3))
    there = (batch.media_size[..., 0] > 0)[..., None]
    return jnp.where(there, x, 0).sum(axis=1) / jnp.maximum(there.sum(axis=1), 1)


def features(documents: Sequence[Document], layout: Layout, model: Any) -> np.ndarray:
    """Returns the mean of the encoder's features over each document's pictures, [documents, width]."""
    laid = [layout.prompt(document) for document in documents]
    if model.encoder is None or not any(item.media for item in laid):
        raise ConfigError("shots_by='similar' compares pictures, and there are none; use 'random'")
    rows = [[item] for item in laid]
    fed = feed(rows, layout, room(laid), rows_for(len(laid)))
    return np.concatenate([gather(_pooled(model, one.batch)) for one in fed])[: len(laid)]


@functools.partial(jax.jit, static_argnums=0)
def _sums(objective: Any, model: Any, batch: Batch) -> dict[str, jax.Array]:
    # The same draws for all batches, and itself for a teacher: the loss of a state, whatever step it is of.
    loss, weight, sums = objective(model, batch, key=jax.random.key(0), teacher=model)
    return {'loss': loss, 'weight': weight, **sums}


def losses(name: str, documents: Sequence[Document], layout: Layout, model: Any, objective: Any) -> dict[str, float]:
    """Returns the mean loss over all that is learnt of the documents; of next tokens its exponential and the hit rate.

    Next tokens are judged by their likelihood alone, without what an objective adds to it. An objective that asks
    nothing may know its own control, what one would lose who sees no picture.
    """
    laid: list[Laid] = []
    for document in documents:
        try:
            laid += layout(document)
        except BadDocument:
            continue  # counted where it is asked
    total: Counter[str] = Counter()
    packed = pack(laid, layout.shape)
    for fed in feed(packed, layout, layout.shape, rows_for(len(packed), 16)):
        total.update({k: float(v) for k, v in jax.device_get(_sums(objective, model, fed.batch)).items()})
    if not total['weight']:
        return {}
    if 'nll' not in total:
        blinds = {f'blind_{name}_loss': total['blind'] / total['weight']} if 'blind' in total else {}
        return {f'{name}_loss': total['loss'] / total['weight']} | blinds
    loss = total['nll'] / total['weight']
    return {
        f'{name}_loss': loss,
        f'{name}_perplexity': math.exp(min(loss, 700)),
        f'{name}_token_accuracy': total['correct'] / total['weight'],
    }


def _ask(document: Document, layout: Layout, dropped: Counter[str]) -> Asked:
    try:
        return Asked(document, layout.prompt(document.split()[0]))
    except BadDocument as error:
        dropped[error.reason] += 1
        return Asked(document, None)


def _answer(
    ev: Eval, layout: Layout, model: Any, asked: Sequence[Asked], controls: dict[int, Asked]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns (a prediction for each document that can be asked, the settings they were made with)."""
    numbers = [i for i, a in enumerate(asked) if a.prompt]
    if not numbers:
        raise ConfigError(
            f'eval {ev.name}: every question is longer than a row of {layout.shape}; raise layout.max_tokens'
        )
    blinded = [i for i in numbers if i in controls and controls[i].prompt]
    prompts, control_prompts = [asked[i].prompt for i in numbers], [controls[i].prompt for i in blinded]
    how = Decoding(max_new_tokens=ev.max_new_tokens, beams=ev.beams, length_penalty=ev.length_penalty)
    # One shape for both, so that the control is measured by the very same program.
    shape, rows = room([*prompts, *control_prompts]), rows_for(len(prompts))
    if layout.answers:
        answerer = Chooser(model, layout, shape, rows)
    else:
        answerer = Answerer(model, layout, shape, rows, how, boxes=ev.constrain)
    answers = dict(zip(numbers, answerer(prompts), strict=True))
    control = dict(zip(blinded, answerer(control_prompts), strict=True))
    predictions = [_prediction(ev, layout, i, asked[i], answers[i], controls.get(i), control.get(i)) for i in numbers]
    settings = {
        **answerer.settings,
        'prompt': as_read(layout.tokenizer, prompts[0].tokens.tolist()),
        'unreadable': sum(bool(a.problem) for a in answers.values()),
        'blind_documents': len(control),
    }
    return predictions, settings


def _prediction(
    ev: Eval, layout: Layout, number: int, asked: Asked, answer: Answer, control: Asked | None, blind: Answer | None
) -> dict[str, Any]:
    judge, document = METRICS[ev.metric], asked.document
    found = {
        'number': number,
        'eval': ev.name,
        'key': document.key,
        'question': words(document.split()[0]),
        'prompt': as_read(layout.tokenizer, asked.prompt.tokens.tolist()),
        'expected': expected(document),
        'answer': answer.text,
        'scores': {} if answer.problem else judge(layout, document, answer.text),
        'log_prob': answer.log_prob,
        'ended': answer.ended,
        'images': list(answer.images),
    }
    if answer.problem:
        found['problem'] = answer.problem
    if (right := references(document)) != [expected(document)] or ev.metric in OVER_ALL:
        found['references'] = right
    if true := true_boxes(document):
        found['true_boxes'], found['found_boxes'] = true, found_boxes(layout, document, answer.text)
    if control and blind and not blind.problem:
        found['blind_answer'] = blind.text
        found['blind_scores'] = judge(layout, control.document, blind.text)
        found['blind_images'] = list(blind.images)
    return found


def _means(ev: Eval, predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the mean of each score; a document whose pictures cannot be read counts in none."""
    figures = {}
    for prefix in ('', 'blind_'):
        judged = [p for p in predictions if p.get(f'{prefix}scores')]
        for metric in judged[0][f'{prefix}scores'] if judged else ():
            figures[f'{prefix}{ev.name}_{metric}'] = sum(p[f'{prefix}scores'][metric] for p in judged) / len(judged)
        if judged and ev.metric in OVER_ALL:
            right = [p['references'] for p in judged]
            over_all = OVER_ALL[ev.metric]([p[f'{prefix}answer'] for p in judged], right)
            figures |= {f'{prefix}{ev.name}_{metric}': value for metric, value in over_all.items()}
    return figures
