# SPDX-License-Identifier: Apache-2.0
"""Asks a trained model: pictures and words from the command line in, answers and drawn boxes out."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
from PIL import Image as pillow

from mmjax import sharding
from mmjax.answer import Answer, Answerer, room, rows_for
from mmjax.choose import Chooser
from mmjax.config import ConfigError, Run
from mmjax.data import images
from mmjax.data.layout import Layout
from mmjax.decode.sampling import Decoding
from mmjax.document import Box, Document, Features, Image, Piece, Text
from mmjax.evals.metrics import found_boxes
from mmjax.report import draw
from mmjax.workdir import read_run, restore

MARKER = '<image>'


@dataclasses.dataclass(kw_only=True)
class Request:
    """What is asked of the model in a work directory, and how."""

    checkpoint: pathlib.Path
    prompts: Sequence[str]  # turns: the user's, the model's, the user's ...; the last is the question
    pictures: Sequence[pathlib.Path] = ()
    features: Sequence[tuple[str, pathlib.Path]] = ()  # (kind, .npy file) of media that another tower has read
    how: Decoding = dataclasses.field(default_factory=Decoding)
    samples: int = 1
    box: bool = False  # the answer is one valid box and nothing else
    draw: pathlib.Path | None = None  # where the last picture goes, with the boxes of the first answer
    step: int | None = None
    ema: bool = False


def compose(
    prompts: Sequence[str],
    pictures: Sequence[pathlib.Path],
    chat: bool,
    features: Sequence[tuple[str, pathlib.Path]] = (),
) -> Document:
    """Returns the question as a document.

    A marker `<image>` in the prompts stands for the next picture; without any, all pictures come first. Features stand
    before the words. `chat`: the prompts are turns of a user and an assistant.
    """
    markers = sum(prompt.count(MARKER) for prompt in prompts)
    if markers and markers != len(pictures):
        raise ConfigError(
            f'{markers} markers {MARKER} in the prompt, {len(pictures)} --image; give one picture for each marker, '
            'or no marker: the pictures then stand before the words'
        )
    left = iter(Image(path, name=str(path)) for path in pictures)
    pieces: list[Piece] = [] if markers else [*left]
    pieces += [Features(path, name=str(path), kind=kind) for kind, path in features]
    roles = ['user'] * len(pieces)
    for number, prompt in enumerate(prompts):
        before = len(pieces)
        for place, words in enumerate(prompt.split(MARKER)):
            pieces += [next(left)] if place else []
            pieces += [Text(words, weight=0.0)] if words else []
        roles += [('user', 'assistant')[number % 2]] * (len(pieces) - before)
    meta = {'roles': [*roles, 'assistant']} if chat else {}
    return Document(pieces, key='the prompt', meta=meta)


def is_chat(layout: Layout) -> bool:
    """Returns whether the layout writes turns."""
    formats = layout.config.text
    return bool(formats.user.before or formats.assistant.before)


def mesh_for(run: Run) -> jax.sharding.Mesh:
    """Returns the run's mesh without replicas, one device where that does not fit this machine."""
    fsdp, tp = max(1, run.mesh.fsdp), max(1, run.mesh.tp)
    return sharding.make_mesh(1, fsdp, tp) if fsdp * tp <= jax.device_count() else sharding.make_mesh()


def answer(request: Request) -> tuple[list[Answer], list[list[Box]]]:
    """Returns the answers and the boxes in each, as fractions of the last picture; draws if that is asked for."""
    run = read_run(request.checkpoint)
    layout = run.layout.build(run.model.media_spec())
    _check_model(run, request, layout)
    _check(request, layout)
    document = compose(request.prompts, request.pictures, is_chat(layout), request.features)
    prompt, mesh = layout.prompt(document), mesh_for(run)
    with sharding.use(mesh):
        _, model, _ = restore(request.checkpoint, mesh, step=request.step, ema=request.ema)
        rows, how = rows_for(request.samples), request.how
        if layout.answers:
            write = Chooser(model, layout, room([prompt]), rows)
        else:
            write = Answerer(model, layout, room([prompt]), rows, how, boxes=request.box, seed=how.seed)
        answers = write([prompt] * request.samples)
    if answers[0].problem:
        raise ConfigError(answers[0].problem)
    boxes = [found_boxes(layout, document, one.text) for one in answers]
    if request.draw:
        picture = pillow.fromarray(images.read(Image(request.pictures[-1])))
        draw.boxes(picture, boxes[0]).save(request.draw)
    return answers, boxes


def describe(request: Request, answers: Sequence[Answer], boxes: Sequence[Sequence[Box]]) -> str:
    """Returns the answers as they are printed, each followed by its boxes in pixels of the last picture."""
    lines = []
    for one, found in zip(answers, boxes, strict=True):
        lines.append(one.text if one.ended else f'{one.text} ...')
        for x0, y0, x1, y1 in found:
            width, height = images.size(Image(request.pictures[-1]))
            lines.append(f'  box {x0 * width:.1f} {y0 * height:.1f} {x1 * width:.1f} {y1 * height:.1f}')
    return '\n'.join(lines)


def _check_model(run: Run, request: Request, layout: Layout) -> None:
    """Refuses models that answer nothing, and questions without what their model reads."""
    spec, kind = layout.spec, type(run.model).__qualname__.partition('.')[0]
    if spec.apart and not layout.answers:
        does = 'compares pictures with words' if spec.text else 'reads pictures alone'
        raise ConfigError(
            f'{request.checkpoint}: its model, a {kind}, {does} and writes no answers; what it has learnt is measured '
            f'by `mmjax evaluate --checkpoint={request.checkpoint}`'
        )
    if spec.features and not request.features:
        raise ConfigError(
            f'{request.checkpoint}: its model, a {kind}, reads pictures as vectors of a detector, {spec.features} '
            'numbers each: give them by --features=FILE.npy'
        )


def _check(request: Request, layout: Layout) -> None:
    """Refuses what cannot be answered, before the model is read."""
    request.how.check()
    if not request.prompts:
        raise ConfigError('nothing is asked; give a --prompt')
    if is_chat(layout) and len(request.prompts) % 2 == 0:
        raise ConfigError(f'{len(request.prompts)} turns: the user begins and asks last, so their number is odd')
    if (request.draw or request.box) and layout.config.coordinates is None:
        raise ConfigError(
            'this model was trained without boxes (layout.coordinates is None): no --draw, no --constrain-box'
        )
    if request.draw and not request.pictures:
        raise ConfigError('--draw needs an --image to draw on')
    if missing := [str(path) for path in request.pictures if not path.is_file()]:
        raise ConfigError(f'no picture {", ".join(missing)}')
    if missing := [str(path) for _, path in request.features if not path.is_file()]:
        raise ConfigError(f'no features {", ".join(missing)}')
