# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: safetensors, one file or shards with an index, read tensor by tensor."""

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmjax.weights.lazy import Lazy
from mmjax.weights.table import WeightsError

_INDEX = 'model.safetensors.index.json'
_DTYPES = {
    'BOOL': np.bool_, 'U8': np.uint8, 'I8': np.int8, 'U16': np.uint16, 'I16': np.int16, 'U32': np.uint32,
    'I32': np.int32, 'U64': np.uint64, 'I64': np.int64, 'F8_E4M3': ml_dtypes.float8_e4m3fn,
    'F8_E5M2': ml_dtypes.float8_e5m2, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'F32': np.float32,
    'F64': np.float64,
}  # fmt: skip


class _Tensor(NamedTuple):
    """Where the numbers of a tensor lie."""

    file: pathlib.Path
    start: int  # byte of the file
    shape: tuple[int, ...]
    dtype: str  # as the format names it


class Checkpoint(Lazy):
    """Maps the names of a public checkpoint to its tensors; each is read when it is asked for.

    `path` is a safetensors file, or a folder with `model.safetensors` or with shards and their index. With `prefix`
    only the names that begin with it are seen, without it.
    """

    def __init__(self, path: str | pathlib.Path, prefix: str = ''):
        self.path = pathlib.Path(path)
        self._tensors = {k.removeprefix(prefix): t for k, t in _find(self.path).items() if k.startswith(prefix)}
        super().__init__(self._tensors)

    def __getitem__(self, key: str) -> np.ndarray:
        # Read, not mapped: pages of a mapped file count as this process's memory, and cost a fault each.
        tensor = self._tensors[key]
        found = np.empty(math.prod(tensor.shape), self.dtype(key))
        with open(tensor.file, 'rb', buffering=0) as file:
            file.seek(tensor.start)
            rest = memoryview(found.view(np.uint8))
            while rest and (count := file.readinto(rest)):
                rest = rest[count:]
        if rest:
            raise WeightsError(f'{tensor.file} became shorter while it was read; download it again')
        return found.reshape(tensor.shape)

    def file(self, key: str) -> pathlib.Path:
        """Returns the file that holds a tensor."""
        return self._tensors[key].file

    def dtype(self, key: str) -> np.dtype:
        """Returns the dtype of a tensor, from its file's header."""
        tensor = self._tensors[key]
        if tensor.dtype not in _DTYPES:
            raise WeightsError(f'{tensor.file}: {key} is {tensor.dtype}, which is not read; convert it to BF16 or F32')
        return np.dtype(_DTYPES[tensor.dtype])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape, from the files' headers."""
        return {key: tensor.shape for key, tensor in self._tensors.items()}

    def metadata(self) -> dict[str, str]:
        """Returns what the first file says of itself."""
        with _open(_tensor_files(self.path)[0]) as handle:
            return handle.metadata() or {}

    def config(self) -> dict[str, Any]:
        """Returns config.json of the folder that holds the checkpoint."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return read_json(folder / 'config.json')


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object of a JSON file; raises WeightsError that names the file where there is none in it."""
    try:
        found = json.loads(path.read_text())
    except ValueError as e:
        raise WeightsError(f'{path} is no JSON: {e}; download it again') from e
    if not isinstance(found, dict):
        raise WeightsError(f'{path} holds {type(found).__name__}, expected an object; download it again')
    return found


def _open(file: pathlib.Path) -> Any:
    try:
        return safe_open(file, 'numpy')
    except SafetensorError as e:
        size = file.stat().st_size
        raise WeightsError(
            f'{file}: {size} bytes are no whole safetensors file{_promised(file, size)} ({e}); download it again'
        ) from e


def _header(file: pathlib.Path) -> dict[str, _Tensor]:
    """Returns the tensors of a file, which is whole: its header has been compared with its length."""
    with _open(file):
        pass
    with open(file, 'rb') as handle:
        length = int.from_bytes(handle.read(8), 'little')
        header = json.loads(handle.read(length))
    header.pop('__metadata__', None)
    return {
        key: _Tensor(file, 8 + length + t['data_offsets'][0], tuple(t['shape']), t['dtype'])
        for key, t in header.items()
    }


def _promised(file: pathlib.Path, size: int) -> str:
    """Says how long the file should be by its own header, if that can be read."""
    with open(file, 'rb') as handle:
        length = int.from_bytes(handle.read(8), 'little')
        if not 0 < length <= size - 8:
            return ''
        try:
            header = json.loads(handle.read(length))
            ends = [v['data_offsets'][1] for k, v in header.items() if k != '__metadata__']
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return ''
    return f', its header says {8 + length + max(ends, default=0)}'


def _find(path: pathlib.Path) -> dict[str, _Tensor]:
    """Returns where each tensor lies; the index, where there is one, must say the same as the files."""
    found: dict[str, _Tensor] = {}
    for file in _tensor_files(path):
        for key, tensor in _header(file).items():
            if key in found:
                raise WeightsError(f'{key} is in {found[key].file} and in {file}; remove the file that is not meant')
            found[key] = tensor
    if path.is_dir() and (path / _INDEX).exists():
        named = read_json(path / _INDEX)['weight_map']
        for key, name in named.items():
            if key not in found or found[key].file != path / name:
                where = f'is in {found[key].file.name}' if key in found else 'is in none of the files'
                raise WeightsError(f'{path / _INDEX}: {key} should be in {name}, but {where}; download both again')
        if extra := [key for key in found if key not in named]:
            raise WeightsError(
                f'{found[extra[0]].file} holds {extra[0]}, which {_INDEX} does not name; download both again'
            )
    return found


def _tensor_files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    if (path / _INDEX).exists():
        return _shards(path)
    if (path / 'model.safetensors').exists():
        return [path / 'model.safetensors']
    raise FileNotFoundError(
        f'{path}: neither a safetensors file nor a folder with model.safetensors or {_INDEX}; '
        'PyTorch .bin and .pt files are pickles, which can run code: convert them to safetensors first, or give '
        '`mmjax import` --pickled'
    )


def _shards(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files that an index names; all of them must be there, in the folder itself."""
    index = path / _INDEX
    named = read_json(index).get('weight_map')
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise WeightsError(f'{index} has no weight_map of names to files; download it again')
    names = sorted(set(named.values()))
    if outside := [name for name in names if pathlib.PurePath(name).name != name or name in ('', '.', '..')]:
        raise WeightsError(f'{index} names {outside[0]!r}, which is not in {path}; shards lie beside their index')
    if absent := [name for name in names if not (path / name).is_file()]:
        first = next(key for key, name in named.items() if name == absent[0])
        raise WeightsError(
            f'{index} names {len(absent)} files that are not there: {", ".join(absent)} (of {first}, ...); '
            'download them'
        )
    return [path / name for name in names]


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
