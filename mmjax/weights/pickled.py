# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as pickles (.bin, .pt): read by torch, weights only, and by nothing where torch is not installed."""

import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from mmjax.weights.lazy import Lazy
from mmjax.weights.table import WeightsError

SUFFIXES = ('.bin', '.pt', '.pth')


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pickles of weights in a folder."""
    names = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    return [p for p in names if not p.name.startswith(('training_args', 'optimizer', 'scheduler', 'rng_state'))]


class Pickled(Lazy):
    """Maps names to tensors of a folder's pickles, memory-mapped where torch can do so. Nothing but tensors is read."""

    def __init__(self, folder: pathlib.Path):
        try:
            import torch
        except ImportError:
            raise WeightsError(
                f'{folder}: pickles are read by torch, which is not installed; `pip install torch`, or convert them '
                'to safetensors'
            ) from None
        self._torch, self._tensors, self._where = torch, {}, {}
        super().__init__(self._tensors)
        for file in files(folder):
            for key, tensor in self._load(file).items():
                if not isinstance(tensor, torch.Tensor):
                    raise WeightsError(f'{file}: {key} is {type(tensor).__name__}, expected a tensor; convert the file')
                if key in self._tensors:
                    raise WeightsError(
                        f'{key} is in {self._where[key]} and in {file}; remove the one that is not meant'
                    )
                self._tensors[key], self._where[key] = tensor, file

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = self._tensors[key].detach().contiguous()
        if tensor.dtype == self._torch.bfloat16:
            return tensor.view(self._torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def file(self, key: str) -> pathlib.Path:
        """Returns the file that holds a tensor."""
        return self._where[key]

    def dtype(self, key: str) -> np.dtype:
        """Returns the dtype of a tensor."""
        name = str(self._tensors[key].dtype).removeprefix('torch.')
        return np.dtype(ml_dtypes.bfloat16 if name == 'bfloat16' else name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape."""
        return {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def _load(self, file: pathlib.Path) -> dict[str, Any]:
        try:
            try:
                found = self._torch.load(file, map_location='cpu', weights_only=True, mmap=True)
            except RuntimeError:  # a file of before torch 1.6 cannot be mapped
                found = self._torch.load(file, map_location='cpu', weights_only=True)
        except Exception as e:
            raise WeightsError(
                f'{file} holds more than weights, or is damaged ({str(e).splitlines()[0][:200]}); it is not opened any '
                'other way: convert it to safetensors where you trust it'
            ) from e
        if not isinstance(found, dict):
            raise WeightsError(f'{file} holds {type(found).__name__}, expected names with their tensors; convert it')
        return found
