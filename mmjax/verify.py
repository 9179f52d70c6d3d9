# SPDX-License-Identifier: Apache-2.0
"""Proves on a user's own config and data that packing changes nothing.

Documents that share a row must give the loss and the gradients that they give alone, and no document may see another:

    packed    [ a a a a b b b c c ]   loss, gradients      = the sum of      [ a a a a ] [ b b b ] [ c c ]
    isolated  [ a a a a X X X c c ]   other words and pixels in b: the outputs of a and c stay the same to the bit
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from mmjax.batch import Batch
from mmjax.config import ConfigError, Run
from mmjax.data.check import check
from mmjax.data.laid import Laid
from mmjax.data.layout import Layout
from mmjax.data.mix import Mix
from mmjax.data.pipeline import render_row
from mmjax.data.render import stack
from mmjax.document import BadDocument
from mmjax.objectives.next_token import NextToken, next_token
from mmjax.params import Skeleton, flatten

# float32 sums in another order differ by some 1e-6; a document that sees another differs by far more than this.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
NOISE = 0.02
TRIED = 256  # documents that are laid out to find some that share a row


@dataclasses.dataclass
class Verdict:
    """What was compared. Differences are relative; `seen` names documents whose change was felt elsewhere."""

    keys: list[str]
    tokens: int
    media: int
    packed: float
    separate: float
    gradient: float  # the largest difference of a parameter's gradient
    parameter: str  # where that is
    seen: list[str]
    unfelt: list[str]  # documents whose own outputs did not change with their words: the test would prove nothing

    @property
    def loss(self) -> float:
        """The difference of the losses."""
        return abs(self.packed - self.separate) / max(abs(self.separate), 1e-9)

    @property
    def ok(self) -> bool:
        """Whether packing changes nothing."""
        good = self.loss <= LOSS_TOLERANCE and self.gradient <= GRADIENT_TOLERANCE
        return good and not self.seen and not self.unfelt

    def __str__(self) -> str:
        isolation = 'no document sees another, to the bit'
        if self.seen:
            isolation = f'SEEN BY OTHERS: {", ".join(self.seen)}'
        elif self.unfelt:
            isolation = f'CANNOT TELL: other words and pixels change nothing in {", ".join(self.unfelt)}'
        lines = {
            'documents': f'{len(self.keys)} in one row of {self.tokens} tokens and {self.media} media: '
            + ', '.join(self.keys),
            'loss': f'packed {self.packed:.6f}, separate {self.separate:.6f}, '
            f'difference {self.loss:.1e} (at most {LOSS_TOLERANCE:.0e})',
            'gradients': f'largest difference {self.gradient:.1e} (at most {GRADIENT_TOLERANCE:.0e}), '
            f'in {self.parameter}',
            'isolation': isolation,
            'verdict': 'packing changes nothing' if self.ok else 'PACKING CHANGES WHAT IS LEARNT: do not train on this',
        }
        return '\n'.join(f'{name:<11} {text}' for name, text in lines.items())


def verify(run: Run, stage: int = 0, most: int = 6) -> Verdict:
    """Compares a row of up to `most` documents of a stage's data with the same documents alone, in float32."""
    if not isinstance(run.stages[stage].objective, NextToken):
        kind = type(run.stages[stage].objective).__name__
        raise ConfigError(f'stages[{stage}] learns by {kind}: what is compared here are losses of next tokens')
    layout = run.layout.build(run.model.media_spec())
    documents = sharing_a_row(run.stages[stage].data.build(run.seed), layout, most)
    skeleton = Skeleton(nnx.eval_shape(lambda: run.model.build(rngs=nnx.Rngs(0))))
    params = stirred(jax.jit(lambda: flatten(run.model.build(rngs=nnx.Rngs(run.seed))))())
    packed = batch_of(documents, layout)
    check(packed, layout.tokenizer.size, layout.spec, [[document.key for document in documents]])

    with jax.default_matmul_precision('highest'):
        value = lambda p, batch: next_token(skeleton.merge(p), batch)[0]
        loss_and_gradients = jax.jit(jax.value_and_grad(value))
        hidden = jax.jit(lambda p, batch: skeleton.merge(p)(batch))
        loss, gradients = loss_and_gradients(params, packed)
        total, sums = 0.0, {path: np.zeros_like(g) for path, g in gradients.items()}
        for document in documents:
            alone, part = loss_and_gradients(params, batch_of([document], layout))
            total, sums = total + float(alone), {path: sums[path] + np.asarray(g) for path, g in part.items()}
        parameter, difference = worst(gradients, sums)
        seen, unfelt = isolation(lambda batch: np.asarray(hidden(params, batch)[0]), packed, documents, layout)
    return Verdict(
        keys=[document.key for document in documents],
        tokens=sum(len(document.tokens) for document in documents),
        media=sum(len(document.media) for document in documents),
        packed=float(loss),
        separate=total,
        gradient=difference,
        parameter=parameter,
        seen=seen,
        unfelt=unfelt,
    )


def sharing_a_row(mix: Mix, layout: Layout, most: int) -> list[Laid]:
    """Returns documents that fit one row together, those with media and the short ones first; raises ValueError."""
    found: list[Laid] = []
    for index in range(TRIED):
        try:
            found += layout(mix[index])
        except BadDocument:
            continue
    chosen: list[Laid] = []
    room = np.array(layout.shape)
    for document in sorted(found, key=lambda d: (not d.media, len(d.tokens))):
        if len(chosen) == most:
            break
        if (np.array(document.need) <= room).all() and not render_row([document], layout).blanked:
            chosen.append(document)
            room = room - np.array(document.need)
    if len(chosen) < 2:
        raise ValueError(
            f'of {len(found)} documents no two fit a row of {layout.shape} together, so nothing is packed; '
            'raise layout.max_tokens or layout.max_media to compare'
        )
    return chosen


def batch_of(documents: Sequence[Laid], layout: Layout) -> Batch:
    """Returns a batch of one row that holds these documents in this order."""
    return stack([render_row(documents, layout)])


def stirred(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns float32 parameters with noise: gates that begin at zero would hide what passes through them."""
    rng = np.random.default_rng(0)
    return {
        path: np.asarray(w, np.float32) + NOISE * rng.standard_normal(w.shape, np.float32) for path, w in params.items()
    }


def worst(found: dict[str, Any], expected: dict[str, np.ndarray]) -> tuple[str, float]:
    """Returns (the parameter whose gradients differ most, by how much relative to the parameter's largest gradient)."""
    size = {path: float(np.abs(g).max()) for path, g in expected.items()}
    # Gradients a thousand times smaller than the largest are noise of its sums.
    least = 1e-3 * max(size.values())
    off = {path: float(np.abs(found[path] - g).max()) / max(size[path], least, 1e-30) for path, g in expected.items()}
    return max(off.items(), key=lambda item: item[1])


def isolation(outputs: Any, packed: Batch, documents: Sequence[Laid], layout: Layout) -> tuple[list[str], list[str]]:
    """Changes one document at a time; returns (those that others felt, those that felt nothing themselves)."""
    before, seen, unfelt = outputs(packed), [], []
    start = medium = state = 0
    heard: Counter[str] = Counter()  # media of further kinds so far
    for document in documents:
        there = slice(start, start + len(document.tokens))
        media = slice(medium, medium + len(document.media))
        states = slice(state, state + len(document.states))
        changed = jax.tree.map(np.copy, packed)
        changed.tokens[0, there] = (changed.tokens[0, there] + 1) % layout.tokenizer.size
        if changed.pixels is not None:
            changed.pixels[0, media] += 101
        if changed.features is not None:
            changed.features[0, media] += 1.0
        if changed.words is not None:
            changed.words[0, media] = np.where(changed.words[0, media] > 0, changed.words[0, media] - 1, -1)
        if changed.states is not None:
            changed.states[0, states] += 1.0
        for kind, count in Counter(one.kind for one in document.senses).items():
            shown = changed.senses[kind].shown
            shown[0, heard[kind] : heard[kind] + count] += np.asarray(101, np.uint8).astype(shown.dtype)
        same = (outputs(changed) == before).all(axis=-1)
        own = np.zeros(len(same), bool)
        own[there] = True
        seen += [] if same[~own].all() else [document.key]
        unfelt += [document.key] if same[own].all() else []
        start, medium, state = there.stop, media.stop, states.stop
        heard.update(one.kind for one in document.senses)
    return seen, unfelt
