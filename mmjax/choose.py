# SPDX-License-Identifier: Apache-2.0
"""Answers of models that choose from a list: the best one for each prompt."""

from collections.abc import Sequence
from typing import Any

import jax

from mmjax.answer import Answer, feed, gather, require_room
from mmjax.data.laid import Laid, Shape
from mmjax.data.layout import Layout


@jax.jit
def _scores(model: Any, batch: Any) -> jax.Array:
    return jax.nn.log_sigmoid(model.scores(batch)[0])


class Chooser:
    """Answers prompts by the layout's list of answers, as answer.Answerer does by writing."""

    def __init__(self, model: Any, layout: Layout, shape: Shape, rows: int):
        self.model, self.layout, self.shape, self.rows = model, layout, shape, rows
        self.settings = {'chosen_from': len(layout.answers.words)}

    def __call__(self, prompts: Sequence[Laid]) -> list[Answer]:
        """Returns one answer for each prompt, in order."""
        require_room(prompts, self.shape)
        answers = []
        for fed in feed([[prompt] for prompt in prompts], self.layout, self.shape, self.rows):
            scores = gather(_scores(self.model, fed.batch))
            for row, problem, images in zip(scores, fed.problems, fed.images, strict=True):
                best = int(row.argmax())
                text = '' if problem else self.layout.answers.words[best]
                answers.append(Answer(text, [], float(row[best]), True, problem, images))
        return answers[: len(prompts)]
