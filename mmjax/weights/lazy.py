# SPDX-License-Identifier: Apache-2.0
"""Tensors by name, each read when it is asked for and not before."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np


class Lazy(Mapping[str, np.ndarray]):
    """Looks names up without reading what they stand for, which Mapping's own `in` does."""

    def __init__(self, names: Collection[str]):
        self._names = names

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
