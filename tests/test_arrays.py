# SPDX-License-Identifier: Apache-2.0
import threading

import ml_dtypes
import numpy as np
import pytest
import tensorstore

from mmjax import arrays


@pytest.mark.parametrize(
    'shape, stacked, chunk',
    [
        ((), False, ()),
        ((7,), False, (7,)),
        ((7,), True, (1,)),
        ((0, 4), False, (1, 4)),
        ((3, 6, 4), True, (1, 6, 4)),
        ((32_128, 2048), False, (16_064, 2048)),  # 64 MB hold 16,384 rows, of which 16,064 divide it
        ((2, 6, 1 << 25), True, (1, 1, 1 << 25)),  # a row is as much as a chunk holds
    ],
)
def test_chunks_divide_the_array(shape, stacked, chunk):
    assert arrays.chunk_shape(shape, np.dtype(ml_dtypes.bfloat16), stacked=stacked) == chunk


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize(
    'shape, stacked', [((), False), ((5,), False), ((3, 40, 6), True), ((3,), True), ((40, 150), False)]
)
def test_written_arrays_are_zarr(shape, stacked, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, 'CHUNK', 2000)  # so that rows are parted
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    turned = np.asarray(array.T.copy().T)
    arrays.create(tmp_path / 'a', shape, array.dtype, stacked=stacked)
    for member in range(shape[0]) if stacked else [None]:
        part = turned if member is None else turned[member]
        arrays.write(tmp_path / 'a', shape, array.dtype, member, np.asarray(part))
    spec = {'driver': 'zarr3', 'kvstore': {'driver': 'file', 'path': str(tmp_path / 'a')}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), array)


@pytest.mark.parametrize(
    'shape, axes', [((300, 7), (1, 0)), ((5, 300, 4), (2, 0, 1)), ((3, 200, 130), (1, 0, 2)), ((6,), (0,))]
)
def test_order(shape, axes):
    turned = np.arange(np.prod(shape), dtype=np.int16).reshape(shape).transpose(axes)
    found = arrays.in_order(turned)
    assert found.flags.c_contiguous and found.ctypes.data % arrays.PAGE == 0
    np.testing.assert_array_equal(found, turned)


def test_a_file_system_without_direct_writes(tmp_path, monkeypatch):
    data = arrays.in_order(np.arange(10_000, dtype=np.int16)).view(np.uint8)
    monkeypatch.delattr(arrays.os, 'O_DIRECT')
    arrays._store(tmp_path / 'x', data)
    assert (tmp_path / 'x').read_bytes() == data.tobytes()


def test_jobs_hold_no_more_than_they_may(monkeypatch):
    monkeypatch.setattr(arrays, 'HELD', 10)
    lock, held, most, done = threading.Lock(), [0], [0], []

    def job(size):
        with lock:
            held[0] += size
            most[0] = max(most[0], held[0])
        with lock:
            held[0] -= size
            done.append(size)

    sizes = [4, 4, 4, 50, 1, 9, 3] * 5
    arrays.at_once((min(size, 10), lambda size=size: job(min(size, 10))) for size in sizes)
    assert sorted(done) == sorted(min(size, 10) for size in sizes) and most[0] <= 10


def test_the_first_error_ends_it():
    begun = []

    def fails():
        raise ValueError('no room')

    with pytest.raises(ValueError, match='no room'):
        arrays.at_once([(1, fails)] + [(1, lambda i=i: begun.append(i)) for i in range(2000)])
    assert len(begun) < 2000
