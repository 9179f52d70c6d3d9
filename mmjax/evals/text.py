# SPDX-License-Identifier: Apache-2.0
"""Exact match: an answer is right if it is the expected one, white space aside."""


def exact(answer: str, expected: str) -> float:
    """Returns 1.0 for the same words with the same capitals and marks, else 0.0."""
    return float(answer.split() == expected.split())
