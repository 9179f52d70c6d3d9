# SPDX-License-Identifier: Apache-2.0
"""The compiled step with the real model: every mesh computes the same loss and the same update."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax import optim, sharding
from mmjax.batch import Batch
from mmjax.models.connector import Mlp as MlpConnector
from mmjax.models.decoder import Decoder
from mmjax.models.fusion import CrossAttention, Splice
from mmjax.models.resampler import Resampler
from mmjax.models.vision import Vit
from mmjax.models.vlm import Vlm
from mmjax.nn.attention import Attention
from mmjax.nn.block import Block, GatedBlock
from mmjax.nn.mlp import Mlp
from mmjax.objectives.next_token import NextToken
from mmjax.optim import Adamw
from mmjax.params import Skeleton, flatten
from mmjax.sharding import ROWS, P
from mmjax.step import build_update, compile_update, init_state

ROW, LENGTH, MEDIA, VOCAB = 8, 12, 2, 40
ATTN, MLP = Attention.Config(heads=4), Mlp.Config(width=32)
BLOCK = Block.Config(attn=ATTN, mlp=MLP)
VIT = Vit.Config(size=(8, 8), patch=4, width=16, depth=2, block=BLOCK)
DECODER = Decoder.Config(
    vocab=VOCAB,
    width=16,
    depth=2,
    block=Block.Config(attn=Attention.Config(heads=4, kv_heads=2), mlp=MLP),
    remat='block',
)
GATED = GatedBlock.Config(attn=ATTN, mlp=MLP, gate_init=0.5)
SYSTEMS = {
    'splice': Vlm.Config(encoder=VIT, connector=MlpConnector.Config(), decoder=DECODER, fusion=Splice.Config()),
    'cross': Vlm.Config(
        encoder=VIT,
        connector=Resampler.Config(depth=1, queries=4, attn=ATTN),
        decoder=DECODER,
        fusion=CrossAttention.Config(block=GATED, every=2),
    ),
}
TRAINABLE = {'splice': ('connector/.*', 'decoder/.*'), 'cross': ('connector/.*', 'decoder/xattn/.*')}


def make_batch(system: str) -> Batch:
    """Returns rows of a picture, text, a picture, text; the first picture's four tokens stand at places 0..3."""
    rng = np.random.default_rng(0)
    place = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROW, LENGTH))
    span = np.stack([np.zeros_like(place), place + 1], axis=-1)
    slot = np.full((ROW, LENGTH), -1, np.int32)
    slot[:, :4], slot[:, 6:10] = np.arange(4), np.arange(4, 8)
    looks = np.where((place < 6)[..., None], np.array([0, 4]), np.array([4, 8])).astype(np.int32)
    return Batch(
        tokens=rng.integers(0, VOCAB, (ROW, LENGTH), dtype=np.int32),
        weight=(rng.random((ROW, LENGTH)) < 0.7).astype(np.float32),
        span=span,
        position=np.array(place),
        slot=slot if system == 'splice' else None,
        media_span=looks if system == 'cross' else None,
        pixels=rng.integers(0, 256, (ROW, MEDIA, 1, 8, 8, 3)).astype(np.uint8),
        media_size=np.broadcast_to(np.array([1, 2, 2], np.int32), (ROW, MEDIA, 3)).copy(),
    )


def run(system: str, shape: tuple[int, int, int], steps: int = 2, dtype: str = 'float32'):
    """Returns the metrics of steps, and what each parameter gained by them."""
    mesh = sharding.make_mesh(*shape)
    with sharding.use(mesh):
        model = sharding.init_sharded(SYSTEMS[system].build, jax.random.key(0), mesh)
        train, frozen = optim.split(flatten(model), TRAINABLE[system])
        before = {p: np.asarray(w) for p, w in train.items()}
        # Plain descent: Adam would blow rounding up to full steps wherever a gradient is almost zero.
        optimizer = Adamw(peak_lr=1.0, schedule='constant', eps=1e3, clip=0.0).build(train, 10)
        state = init_state(optimizer, train, 0.0)
        update = build_update(Skeleton(model), optimizer, NextToken(z_loss=1e-4), accumulate=2, compute_dtype=dtype)
        place = lambda a: jax.device_put(a, NamedSharding(mesh, P(ROWS)))
        batch = jax.tree.map(place, make_batch(system))
        step, _ = compile_update(update, state, frozen, batch)
        metrics = []
        for _ in range(steps):
            state, found = step(state, frozen, batch)
            metrics.append({k: float(v) for k, v in found.items()})
        gained = {p: 1e3 * (np.asarray(w) - before[p]) for p, w in state.train.items()}
    return metrics, gained


@pytest.fixture(scope='module', params=list(SYSTEMS))
def alone(request):
    """The run on one device."""
    return request.param, run(request.param, (1, 1, 1))


@pytest.mark.parametrize('shape', [(2, 2, 2)])
def test_a_mesh_computes_what_one_device_does(alone, shape):
    system, (metrics, gained) = alone
    found, moved = run(system, shape)
    for a, b in zip(found, metrics, strict=True):
        np.testing.assert_allclose([a[k] for k in b], [b[k] for k in b], rtol=1e-5, atol=1e-6)
    for path, w in gained.items():
        assert np.abs(w).max() > 0, f'{path} got no gradient'
        np.testing.assert_allclose(moved[path], w, rtol=1e-3, atol=1e-4, err_msg=path)


def test_bfloat16_keeps_parameters_and_losses_in_float32(alone):
    system, (metrics, _) = alone
    found, moved = run(system, (1, 1, 1), dtype='bfloat16')
    assert all(w.dtype == np.float32 for w in moved.values())
    np.testing.assert_allclose(found[0]['loss'], metrics[0]['loss'], rtol=0.02)
    np.testing.assert_allclose(found[0]['grad_norm'], metrics[0]['grad_norm'], rtol=0.05)
