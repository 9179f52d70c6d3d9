# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.optim import Adamw, Group, describe_split, schedule, split

PARAMS = {
    'encoder/blocks/attn/q/kernel': jnp.ones((2, 3)),
    'encoder/norm/scale': jnp.ones(3),
    'connector/linear/kernel': jnp.ones((3, 4)),
    'connector/linear/bias': jnp.ones(4),
    'decoder/xattn/attn_gate': jnp.ones(2),
}


@pytest.mark.parametrize(
    'c, steps, expected',
    [
        (Adamw(peak_lr=1.0, schedule='constant'), 4, {0: 1, 3: 1, 9: 1}),
        (Adamw(peak_lr=1.0, warmup=4, schedule='constant'), 8, {0: 0.25, 3: 1, 4: 1, 7: 1}),
        (Adamw(peak_lr=2.0, schedule='linear'), 4, {0: 2, 2: 1, 4: 0, 5: 0}),
        (Adamw(peak_lr=1.0, warmup=2, schedule='cosine', end=0.1), 6, {1: 1, 2: 1, 4: 0.55, 6: 0.1, 9: 0.1}),
        (Adamw(peak_lr=1.0, warmup=4, schedule='inverse_sqrt'), 100, {3: 1, 4: 1, 16: 0.5, 64: 0.25}),
    ],
)
def test_schedule(c, steps, expected):
    lr = schedule(c, steps)
    np.testing.assert_allclose([lr(s) for s in expected], list(expected.values()), rtol=1e-6, atol=1e-7)


def test_unknown_schedule_names_those_there_are():
    with pytest.raises(ValueError, match="'cosin' is none of constant, linear, cosine, inverse_sqrt"):
        schedule(Adamw(schedule='cosin'), 1)


def test_equals_optax_adamw():
    c = Adamw(peak_lr=1e-2, schedule='constant', weight_decay=0.1, clip=0.5, no_decay=('.*bias',))
    ours, params, theirs_params = c.build(PARAMS, 10), PARAMS, PARAMS
    mask = {p: not p.endswith('bias') for p in PARAMS}
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, 0.9, 0.95, weight_decay=0.1, mask=mask))
    state, their_state = ours.init(params), theirs.init(params)
    for step in range(3):
        grads = {p: jnp.cos(jnp.arange(w.size, dtype=jnp.float32) + step).reshape(w.shape) for p, w in params.items()}
        params, state = ours.update(grads, state, params, jnp.int32(step))
        updates, their_state = theirs.update(grads, their_state, theirs_params)
        theirs_params = optax.apply_updates(theirs_params, updates)
    for p in params:
        np.testing.assert_allclose(params[p], theirs_params[p], rtol=1e-6)


def test_norms_biases_and_gates_do_not_decay_and_groups_say_otherwise():
    c = Adamw(weight_decay=0.1, groups=[Group(('encoder/.*',), lr_scale=0.5), Group(('encoder/norm/.*',), 0.25, 0.2)])
    optimizer = c.build(PARAMS, 1)
    assert list(optimizer.decay.values()) == [0.1, 0.2, 0.1, 0.0, 0.0]
    assert list(optimizer.lr_scale.values()) == [0.5, 0.25, 1.0, 1.0, 1.0]


@pytest.mark.parametrize('pattern', ['conector/.*', 'connector', '.*lora.*'])
def test_a_pattern_without_a_parameter_is_refused(pattern):
    with pytest.raises(
        ValueError, match=r'matches no parameter; the parameters begin with connector/linear, decoder/xattn'
    ):
        split(PARAMS, ('encoder/.*', pattern))
    with pytest.raises(ValueError, match=r'optimizer\.groups'):
        Adamw(groups=[Group((pattern,))]).build(PARAMS, 1)


def test_split_and_its_table():
    train, frozen = split(PARAMS, ('connector/.*', 'decoder/xattn/.*'))
    assert list(train) == ['connector/linear/kernel', 'connector/linear/bias', 'decoder/xattn/attn_gate']
    assert {**train, **frozen}.keys() == PARAMS.keys()
    assert describe_split(train, frozen).splitlines() == [
        '  module     trainable  frozen',
        '  connector         16       0',
        '  decoder            2       0',
        '  encoder            0       9',
        '  all               18       9',
    ]
