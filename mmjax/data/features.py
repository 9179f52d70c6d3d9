# SPDX-License-Identifier: Apache-2.0
"""Reads pictures that come as vectors: arrays, or files of numpy's .npy format, [vectors, width]."""

import io
import pathlib

import numpy as np

from mmjax.document import BadDocument, Features, FileSlice


def read(piece: Features) -> np.ndarray:
    """Returns the vectors, float32 [n, E]; raises BadDocument."""
    try:
        array = piece.vectors if isinstance(piece.vectors, np.ndarray) else np.load(_stream(piece.vectors))
    except (ValueError, OSError, EOFError) as error:
        raise BadDocument(piece.name, 'unreadable features', str(error)) from error
    _checked(piece, array.shape, array.dtype)
    if not np.isfinite(array).all():
        raise BadDocument(piece.name, 'unreadable features', 'not all numbers are finite')
    return array.astype(np.float32)


def size(piece: Features) -> tuple[int, int]:
    """Returns (width, vectors) without reading the vectors; raises BadDocument."""
    if isinstance(piece.vectors, np.ndarray):
        return _checked(piece, piece.vectors.shape, piece.vectors.dtype)
    try:
        with _stream(piece.vectors) as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
    except (ValueError, OSError, EOFError) as error:
        raise BadDocument(piece.name, 'unreadable features', str(error)) from error
    return _checked(piece, shape, dtype)


def _stream(source: bytes | pathlib.Path | FileSlice) -> io.IOBase:
    if isinstance(source, pathlib.Path):
        return source.open('rb')
    return io.BytesIO(source.read() if isinstance(source, FileSlice) else source)


def _checked(piece: Features, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    if len(shape) != 2 or not shape[0] or not np.issubdtype(dtype, np.floating):
        detail = f'{dtype}{list(shape)}, expected floats of shape [vectors, width], at least one vector'
        raise BadDocument(piece.name, 'unreadable features', detail)
    return shape[1], shape[0]
