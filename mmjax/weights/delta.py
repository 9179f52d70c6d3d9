# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that were published as differences from others, whose weights might not be passed on (Vicuna, Shikra,
Ferret before LLaMA).

    delta     embed_tokens [32003, 4096]   layers ...   mm_projector
    base    + embed_tokens [32000, 4096] + layers ...   -
    sum       its first 32000 rows grow by the base's; the new rows, and what the base has not, are the delta's alone
"""

from typing import Any

import numpy as np

from mmjax.weights.lazy import Lazy
from mmjax.weights.table import Table, WeightsError, ignored, keys_of

SHOWN = 8  # names in a message


class Summed(Lazy):
    """The tensors of a delta with those of its base added, one by one in float32 as they are asked for.

    `delta` and `base` are Checkpoints (or Pickled). The base must have all tensors of `table` that give parameters
    whose paths begin with `language`. Raises WeightsError for what does not fit.
    """

    def __init__(self, delta: Any, base: Any, table: Table, language: str = 'decoder/'):
        super().__init__(delta)
        self._delta, self._base = delta, base
        names, shapes, before = keys_of(table, language), delta.shapes(), base.shapes()
        where = f'{_folder(delta)} as a delta of {_folder(base)}'
        if lacking := [name for name in names if name in delta and name not in base]:
            raise WeightsError(
                f'{where}: the base lacks {_shown(lacking)}; give --delta-of the checkpoint that the delta was made '
                'of, in the same layout'
            )
        unread = ignored(table, base)
        if surplus := [name for name in base if name not in delta and name not in unread]:
            raise WeightsError(
                f'{where}: the base has {_shown(surplus)}, which the delta lacks; they are not of one model'
            )
        for name in base:
            if name in delta and not _holds(shapes[name], before[name]):
                raise WeightsError(
                    f'{where}: {name} is {shapes[name]} in {delta.file(name).name} and {before[name]} in '
                    f'{base.file(name)}; only its first axis, the words, may have grown. Give the base of this size'
                )

    def __getitem__(self, key: str) -> np.ndarray:
        delta = self._delta[key]
        if key not in self._base:
            return delta
        found, base = delta.astype(np.float32), self._base[key]
        found[: len(base)] += base.astype(np.float32)
        return found.astype(self.dtype(key))

    def file(self, key: str) -> Any:
        """Returns the delta's file that holds a tensor."""
        return self._delta.file(key)

    def dtype(self, key: str) -> np.dtype:
        """Returns the dtype of a sum: that of both, or float32 where they differ."""
        one = self._delta.dtype(key)
        return one if key not in self._base or self._base.dtype(key) == one else np.dtype(np.float32)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape, which is the delta's."""
        return self._delta.shapes()

    @property
    def alone(self) -> list[str]:
        """The tensors that the base has not."""
        return [name for name in self._delta if name not in self._base]


def _holds(delta: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Whether a base's tensor is the beginning of a delta's: matrices of words grow by rows."""
    return delta == base or (len(delta) == len(base) == 2 and delta[0] > base[0] and delta[1] == base[1])


def _shown(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return f'{len(names)} tensors: {", ".join(names[:SHOWN])}{more}'


def _folder(tensors: Any) -> Any:
    return tensors.file(next(iter(tensors))).parent
