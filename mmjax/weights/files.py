# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: safetensors, one file or shards with an index, read tensor by tensor."""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (gives numpy the name bfloat16, which safetensors looks up)
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

_INDEX = 'model.safetensors.index.json'


class Checkpoint(Mapping[str, np.ndarray]):
    """Maps the names of a public checkpoint to its tensors; each is read when it is asked for.

    `path` is a safetensors file, or a folder with `model.safetensors` or with shards and their index. With `prefix`
    only the names that begin with it are seen, without it.
    """

    def __init__(self, path: str | pathlib.Path, prefix: str = ''):
        self.path, self.prefix = pathlib.Path(path), prefix
        self._files = {file: safe_open(file, 'numpy') for file in _tensor_files(self.path)}
        self._where = {
            key.removeprefix(prefix): file
            for file, handle in self._files.items()
            for key in handle.keys()  # noqa: SIM118  (a safetensors handle is no mapping)
            if key.startswith(prefix)
        }

    def __getitem__(self, key: str) -> np.ndarray:
        return self._files[self._where[key]].get_tensor(self.prefix + key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def metadata(self) -> dict[str, str]:
        """Returns what the first file says of itself."""
        return next(iter(self._files.values())).metadata() or {}

    def config(self) -> dict[str, Any]:
        """Returns config.json of the folder that holds the checkpoint."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return json.loads((folder / 'config.json').read_text())


def _tensor_files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    if (path / _INDEX).exists():
        return [path / name for name in sorted(set(json.loads((path / _INDEX).read_text())['weight_map'].values()))]
    if (path / 'model.safetensors').exists():
        return [path / 'model.safetensors']
    raise FileNotFoundError(
        f'{path}: neither a safetensors file nor a folder with model.safetensors or {_INDEX}; '
        'PyTorch .bin and .pt files must be converted to safetensors first'
    )


def save(
    folder: str | pathlib.Path, tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int = 5_000_000_000
) -> None:
    """Writes named tensors into `folder`: one file where they fit into `shard_bytes`, else shards with an index.

    At most one shard is held in memory, so `tensors` may be a generator over a model larger than the host.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, np.ndarray] = {}
    written: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        save_file(shard, folder / f'part-{len(written)}', {'format': 'pt'})
        written.append(list(shard))
        shard.clear()

    for key, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            flush()
            size = 0
        shard[key] = np.asarray(tensor, order='C')
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    # The names say how many shards there are, which is known only now.
    count = len(written)
    names = (
        [f'model-{i + 1:05}-of-{count:05}.safetensors' for i in range(count)] if count > 1 else ['model.safetensors']
    )
    for i, name in enumerate(names):
        (folder / f'part-{i}').rename(folder / name)
    if count > 1:
        where = {key: name for name, keys in zip(names, written, strict=True) for key in keys}
        (folder / _INDEX).write_text(json.dumps({'metadata': {'total_size': total}, 'weight_map': where}, indent=2))
