# SPDX-License-Identifier: Apache-2.0
"""Name tables: rules are exact inverses, every name is accounted for, files come back as they were written."""

import ml_dtypes
import numpy as np
import pytest

from mmjax.weights import Checkpoint, Entry, Table, WeightsError, save, to_ours, to_public
from mmjax.weights.rules import Joined, JoinedByHead, Matrix, Patch, Same, Vector, Vocabulary


def numbers(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    'rule, public, ours',
    [
        (Vector(), [(6,)], [(2, 3)]),
        (Vector((1, 1, -1)), [(1, 1, 6)], [(6,)]),
        (Vector((1,)), [(1,)], [()]),
        (Same(), [(2, 3)], [(2, 3)]),
        (Matrix(), [(6, 4)], [(4, 2, 3)]),
        (Matrix(2), [(4, 6)], [(2, 3, 4)]),
        (Patch(), [(5, 3, 2, 2)], [(12, 5)]),
        (Vocabulary((5, 2)), [(5, 3), (2, 3)], [(8, 3)]),
        (Vocabulary((7,), transposed=True), [(7, 3)], [(3, 8)]),
        (Joined(Matrix()), [(10, 4)], [(4, 3, 2), (4, 1, 2), (4, 1, 2)]),
        (Joined(Vector()), [(12,)], [(2, 2), (2, 2), (2, 2)]),
        (JoinedByHead(2, Matrix()), [(18, 4)], [(4, 2, 3), (4, 2, 3), (4, 2, 3)]),
        (JoinedByHead(2, Vector()), [(18,)], [(2, 3), (2, 3), (2, 3)]),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, list) else None,
)
def test_a_rule_is_its_own_inverse(rule, public, ours):
    tensors = [numbers(*shape) for shape in public]
    found = rule.read(tensors, ours)
    assert [x.shape for x in found] == ours
    for tensor, again in zip(tensors, rule.write(found), strict=True):
        np.testing.assert_array_equal(tensor, again)


def test_literal_places():
    """Heads of two entries: [q0 q0 k0 k0 v0 v0 q1 q1 ...] by head, [q0 q0 q1 q1 k0 ...] joined."""
    shapes = [(2, 2)] * 3
    by_head = [x.tolist() for x in JoinedByHead(2, Vector()).read([numbers(12)], shapes)]
    assert by_head == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    joined = [x.tolist() for x in Joined(Vector()).read([numbers(12)], shapes)]
    assert joined == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    # Row 1, column 0, channel 2 of output 0.
    assert Patch().read([numbers(1, 3, 2, 2)], [(12, 1)])[0][1 * 6 + 0 * 3 + 2, 0] == 2 * 4 + 1 * 2 + 0


TABLE = Table(
    (
        Entry('blocks/w', 'h.{layer}.weight', Matrix(), layers=[1, 3]),
        Entry('scale', 'norm.weight', also=('ln.weight',)),
    ),
    ((r'.*inv_freq', 'computed'),),
)
SHAPES = {'blocks/w': (2, 3, 2), 'scale': (4,)}


def tensors(**changes):
    some = {'h.1.weight': numbers(2, 3), 'h.3.weight': -numbers(2, 3), 'norm.weight': numbers(4), **changes}
    return {key: tensor for key, tensor in some.items() if tensor is not None}


def test_every_name_is_accounted_for():
    given = tensors(**{'rope.inv_freq': numbers(2), 'ln.weight': numbers(4)})
    params, account = to_ours(TABLE, given, SHAPES)
    assert account.ignored == {'rope.inv_freq': 'computed'}
    assert sorted(account.used) == ['h.1.weight', 'h.3.weight', 'ln.weight', 'norm.weight']
    np.testing.assert_array_equal(params['blocks/w'][1], -numbers(2, 3).T)
    again = dict(to_public(TABLE, params))
    assert again.keys() == set(account.used)
    for key, tensor in again.items():
        np.testing.assert_array_equal(tensor, given[key])


@pytest.mark.parametrize(
    'given, shapes, words',
    [
        (tensors(**{'h.3.weight': None}), SHAPES, 'lacks: h.3.weight'),
        (tensors(**{'h.2.weight': numbers(2, 3)}), SHAPES, 'no parameter takes: h.2.weight'),
        (tensors(), {**SHAPES, 'head': (2,)}, 'no tensor gives: head'),
        (tensors(), {'blocks/w': (2, 3, 2)}, 'the model lacks: scale'),
        (tensors(), {**SHAPES, 'blocks/w': (3, 3, 2)}, '3 blocks in the model, 2 in the table'),
        (tensors(**{'norm.weight': numbers(5)}), SHAPES, r'norm.weight \(5,\)'),
        (tensors(**{'ln.weight': numbers(4) + 1}), SHAPES, 'ln.weight and norm.weight should be one'),
    ],
)
def test_what_does_not_fit_is_named(given, shapes, words):
    with pytest.raises(WeightsError, match=words):
        to_ours(TABLE, given, shapes)


@pytest.mark.parametrize('shard_bytes, files', [(10**9, ['model.safetensors']), (40, 3)])
def test_files_come_back(tmp_path, shard_bytes, files):
    given = {
        'a.x': numbers(2, 3).T,
        'a.y': np.float32(2.5).reshape(()),
        'b.z': numbers(3, 5, dtype=ml_dtypes.bfloat16),
        'b.i': numbers(4, dtype=np.int64),
    }
    save(tmp_path, given.items(), shard_bytes)
    names = sorted(p.name for p in tmp_path.glob('*.safetensors'))
    assert names == files if isinstance(files, list) else len(names) == files
    found = Checkpoint(tmp_path)
    assert found.keys() == given.keys()
    for key, tensor in given.items():
        assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape
        np.testing.assert_array_equal(found[key], tensor)
    assert set(Checkpoint(tmp_path, 'a.')) == {'x', 'y'}


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='safetensors'):
        Checkpoint(tmp_path)
