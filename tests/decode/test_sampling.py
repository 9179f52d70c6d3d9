# SPDX-License-Identifier: Apache-2.0
"""The distribution that is drawn from is the formula's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decode.sampling import Decoding, choose, narrow


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def formula(logits, temperature, top_k, top_p):
    """Temperature, the k most probable, then the fewest of those that add up to p, one row in plain Python."""
    p = softmax(logits / temperature)
    order = np.argsort(-p)[: top_k or len(p)]
    kept, total = [], 0.0
    for i in order:
        if total >= top_p:
            break
        kept.append(i)
        total += p[i] / p[order].sum()
    out = np.zeros_like(p)
    out[kept] = p[kept] / p[kept].sum()
    return out


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
@pytest.mark.parametrize('top_k, top_p', [(0, 1.0), (3, 1.0), (0, 0.7), (5, 0.8), (1, 1.0), (0, 1e-6), (99, 0.95)])
def test_narrow(temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32) * 2
    logits[1, 5:] = -np.inf
    how = Decoding(temperature=temperature, top_k=top_k, top_p=top_p)
    found = np.asarray(jax.nn.softmax(narrow(jnp.asarray(logits), how), axis=-1))
    expected = np.stack([formula(row, temperature, top_k, top_p) for row in logits])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_draws_follow_the_distribution():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    how = Decoding(temperature=1.0, top_k=3)
    drawn = np.asarray(choose(jnp.repeat(logits, 8000, axis=0), how, jax.random.key(1)))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 8000, np.array([50, 30, 15, 0]) / 95, atol=0.02)


@pytest.mark.parametrize('wrong', [{'temperature': -1.0}, {'top_p': 0.0}, {'beams': 0}, {'max_new_tokens': 0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Decoding(**wrong).check()
