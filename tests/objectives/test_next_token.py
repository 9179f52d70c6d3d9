# SPDX-License-Identifier: Apache-2.0
"""The loss in chunks against the plain formula, in value and gradient, on one device and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import array
from flax import nnx

from mmjax import sharding
from mmjax.batch import Batch
from mmjax.nn.layers import Linear, Unembedding
from mmjax.objectives.next_token import next_token
from mmjax.sharding import P, w_DV

B, L, D, V = 4, 7, 6, 8
RNG = np.random.default_rng(0)
BATCH = Batch(
    tokens=jnp.asarray(RNG.integers(0, V - 2, (B, L)), jnp.int32),
    weight=jnp.asarray(RNG.choice([0.0, 0.5, 1.0], (B, L)), jnp.float32).at[:, -1].set(5.0),
    span=jnp.zeros((B, L, 2), jnp.int32),
    position=array(B, L, D),  # stands for the model's input here
)


class Probe(nnx.Module):
    """A model whose hidden states are given, with two scores for padding."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.head = Linear(D, V, bias=False, spec=w_DV, rngs=rngs)

    def __call__(self, batch: Batch) -> jax.Array:
        return batch.position

    def logits(self, hidden: jax.Array) -> jax.Array:
        return jnp.where(jnp.arange(V)[None, None] < V - 2, self.head(hidden, jnp.float32), -jnp.inf)

    def unembedding(self) -> Unembedding:
        return Unembedding(self.head.kernel[...], 1, None, V - 2)


def plain(model: Probe, batch: Batch, z_loss: float):
    logits = model.logits(model(batch))[:, :-1]
    labels, weight = batch.tokens[:, 1:], batch.weight[:, :-1]
    total = jnp.log(jnp.exp(logits).sum(-1))
    nll = total - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    sums = dict(nll=nll, z_loss=z_loss * total**2, correct=logits.argmax(-1) == labels)
    sums = {name: (value * weight).sum() for name, value in sums.items()}
    return sums['nll'] + sums['z_loss'], weight.sum(), sums


def smoothed(model: Probe, batch: Batch, share: float):
    """Returns the loss whose targets are partly spread over the words that there are."""
    logits, weight = model.logits(model(batch))[:, :-1, : V - 2], batch.weight[:, :-1]
    target = (1 - share) * jax.nn.one_hot(batch.tokens[:, 1:], V - 2) + share / (V - 2)
    return -((target * jax.nn.log_softmax(logits)).sum(-1) * weight).sum()


@pytest.mark.parametrize('chunk', [None, 3])
def test_label_smoothing(chunk):
    model = make()
    loss, _, sums = next_token(model, BATCH, label_smoothing=0.1, chunk=chunk)
    np.testing.assert_allclose(loss, smoothed(model, BATCH, 0.1), rtol=1e-5)
    _, _, alone = next_token(model, BATCH, chunk=chunk)
    np.testing.assert_allclose(sums['nll'], alone['nll'], rtol=1e-6)


def run(loss, model, batch):
    def scalar(model, hidden):
        total, weight, sums = loss(model, batch._replace(position=hidden))
        return total / weight, (total, weight, sums)

    return jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True))(model, batch.position)


def make(mesh=None) -> Probe:
    return sharding.init_sharded(lambda rngs: Probe(rngs=rngs), jax.random.key(0), mesh)


def close(got, want):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6, err_msg=str(path))


@pytest.mark.parametrize('chunk', [3, None])
def test_chunks_equal_the_plain_formula(chunk):
    want = run(lambda m, b: plain(m, b, 0.1), make(), BATCH)
    assert want[0][1][2]['correct'] > 0
    close(run(lambda m, b: next_token(m, b, z_loss=0.1, chunk=chunk), make(), BATCH), want)


def test_on_a_mesh_with_the_vocabulary_split():
    want = run(lambda m, b: plain(m, b, 0.1), make(), BATCH)
    mesh = sharding.make_mesh(2, 2, 2)
    with sharding.use(mesh):
        batch = jax.tree.map(lambda x: jax.device_put(x, P(sharding.ROWS)), BATCH)
        close(run(lambda m, b: next_token(m, b, z_loss=0.1, chunk=3), make(mesh), batch), want)


def test_all_logits_never_exist_at_once():
    long = 64
    batch = jax.tree.map(lambda x: jnp.repeat(x, -(-long // L), axis=1)[:, :long], BATCH)
    loss = lambda chunk: lambda model: next_token(model, batch, chunk=chunk)[0]
    shapes = lambda chunk: str(jax.make_jaxpr(jax.grad(loss(chunk)))(make()))
    assert f'f32[{B * long},{V}]' not in shapes(16) and f'f32[16,{V}]' in shapes(16)


def test_a_row_of_padding_weighs_nothing():
    batch = BATCH._replace(weight=BATCH.weight.at[1:].set(0.0))
    total, weight, sums = next_token(make(), batch)
    alone = next_token(make(), jax.tree.map(lambda x: x[:1], batch))
    close((total, weight, sums), alone)
    assert all(np.isfinite(x) for x in jax.tree.leaves((total, sums)))
