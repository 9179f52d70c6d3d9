# SPDX-License-Identifier: Apache-2.0
"""Numeric references: a tiny model's weights, inputs and outputs in one file, and the rule of comparison."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from mmjax.weights.files import Checkpoint

# Relative, where a file states no noise of its own for an output.
DEFAULT_BOUND = 5e-6
# A stated noise is multiplied by this. One below float32's rounding, such as 0, is luck and taken as LEAST_NOISE.
NOISE_FACTOR, LEAST_NOISE = 10, 2.0**-24


@dataclasses.dataclass
class Reference:
    """One file: what a public implementation, named `kind`, computed from `inputs` with `weights`."""

    name: str
    kind: str
    config: dict[str, Any]
    noise: dict[str, float]
    weights: Checkpoint
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def bound(self, output: str) -> float:
        """Returns the largest relative error that an output may show."""
        return NOISE_FACTOR * max(self.noise[output], LEAST_NOISE) if output in self.noise else DEFAULT_BOUND


def read_reference(path: str | pathlib.Path) -> Reference:
    """Reads a reference file."""
    path = pathlib.Path(path)
    meta = Checkpoint(path).metadata()
    if 'class' not in meta or 'config' not in meta:
        raise ValueError(f'{path}: no numeric reference, its metadata lacks class or config (found {sorted(meta)})')
    return Reference(
        name=path.stem,
        kind=meta['class'],
        config=json.loads(meta['config']),
        noise=json.loads(meta.get('noise', '{}')),
        weights=Checkpoint(path, 'w/'),
        inputs=dict(Checkpoint(path, 'in/')),
        outputs=dict(Checkpoint(path, 'out/')),
    )


def relative_error(ours: np.ndarray, theirs: np.ndarray, where: np.ndarray | None = None) -> float:
    """Returns max|ours - theirs| / max|theirs| over the places `where` (leading axes); integers agree or not at all."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        raise ValueError(f'shape {ours.shape}, the reference has {theirs.shape}')
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    if not np.issubdtype(theirs.dtype, np.floating):
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    difference = np.abs(ours.astype(np.float64) - theirs).max(initial=0)
    # NaN must not pass for a small number.
    return (
        float(difference / max(np.abs(theirs).max(initial=0), np.finfo(np.float32).tiny))
        if np.isfinite(difference)
        else np.inf
    )
