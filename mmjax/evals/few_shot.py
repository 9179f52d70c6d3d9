# SPDX-License-Identifier: Apache-2.0
"""Which solved examples stand before each question: any, or those whose pictures are like the question's."""

import numpy as np


def at_random(questions: int, examples: int, shots: int, seed: int, same: bool) -> np.ndarray:
    """Returns the examples [questions, shots] shown before each question, without repetition.

    `same` says that examples and questions are one set: a question is then never its own example.
    """
    _enough(examples - same, shots)
    rows = []
    for q in range(questions):
        # One generator a question: the choice for a question does not depend on how many are asked.
        others = np.delete(np.arange(examples), q) if same else np.arange(examples)
        rows.append(np.random.default_rng((seed, q)).choice(others, shots, replace=False))
    return np.array(rows).reshape(questions, shots)


def most_similar(questions: np.ndarray, examples: np.ndarray, shots: int, same: bool) -> np.ndarray:
    """Returns the examples [questions, shots] whose features have the highest cosine with each question's, best last.

    The best stands last, nearest to the question, as in RICES.
    """
    _enough(len(examples) - same, shots)
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    likeness = unit(questions) @ unit(examples).T
    if same:
        np.fill_diagonal(likeness, -np.inf)
    return np.argsort(-likeness, axis=1, kind='stable')[:, :shots][:, ::-1]


def _enough(examples: int, shots: int) -> None:
    if shots > examples:
        raise ValueError(f'{shots} examples before each question, but only {examples} to choose from; lower shots')
