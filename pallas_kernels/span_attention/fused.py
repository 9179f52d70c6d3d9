# SPDX-License-Identifier: Apache-2.0
"""What all implementations with a backward pass of their own share: the rule of differentiation, and sinks."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from pallas_kernels.span_attention.tiles import Planned, plain

NOTHING = 1e30  # the log of the sum of a query that sees nothing: exp(score - NOTHING) is zero


@runtime_checkable
class Kernel(Protocol):
    """An implementation with its settings; equal ones compare equal, since jax compiles once for each.

    B rows, L queries, N heads, S keys, K key heads, H head width, Hv width of the values.
    """

    def forward(
        self,
        q: Float[Array, 'B L N H'],
        k: Float[Array, 'B S K H'],
        v: Float[Array, 'B S K Hv'],
        span: Int[Array, 'B L 2'] | Planned,
    ) -> tuple[Float[Array, 'B L N Hv'], Float[Array, 'B L N']]:
        """Returns the output and the log of the sum of each query's exponentials, NOTHING where it sees no key."""

    def backward(
        self,
        q: Float[Array, 'B L N H'],
        k: Float[Array, 'B S K H'],
        v: Float[Array, 'B S K Hv'],
        span: Int[Array, 'B L 2'] | Planned,
        grad: Float[Array, 'B L N Hv'],
        lse: Float[Array, 'B L N'],
        mean: Float[Array, 'B L N'],
    ) -> tuple[Float[Array, 'B L N H'], Float[Array, 'B S K H'], Float[Array, 'B S K Hv']]:
        """Returns the gradients of q, k and v: those of scores are weights * (grad v^T - mean)."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(kernel: Kernel, q, k, v, span):
    """Runs a kernel: (output, log of the sums), differentiable in q, k and v."""
    return kernel.forward(q, k, v, span)


def _forward(kernel, q, k, v, span):
    # The backward pass may keep these two and compute everything else again.
    out, lse = (checkpoint_name(x, 'span_attention') for x in kernel.forward(q, k, v, span))
    return (out, lse), (q, k, v, span, out, lse)


def _backward(kernel, saved, grads):
    q, k, v, span, out, lse = saved
    grad, grad_lse = grads
    # Each query's sum of weights * their gradients, which the softmax subtracts.
    mean = jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32), axis=-1) - grad_lse
    return *kernel.backward(q, k, v, span, grad, lse, mean), None


attention.defvjp(_forward, _backward)


def folded(call):
    """Lets vmap put its axis beside the rows: the list of tiles covers all of them, no loop runs round the kernel.

    Lists that were made before are for fewer rows and are left behind.
    """
    run = jax.custom_batching.custom_vmap(lambda lists, span, *arrays: call(Planned(span, lists), *arrays))

    @run.def_vmap
    def rule(size, batched, lists, *arrays):
        full = [x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(arrays, batched[1:], strict=True)]
        outs = run({}, *(x.reshape(-1, *x.shape[2:]) for x in full))
        return tuple(x.reshape(size, -1, *x.shape[1:]) for x in outs), (True,) * len(outs)

    def either(q, k, v, span, *arrays):
        lists = span.lists if isinstance(span, Planned) else {}
        return run(lists, plain(span), q, k, v, *arrays)

    return either


def with_sinks(
    out: Float[Array, 'B L N Hv'], lse: Float[Array, 'B L N'], sinks: Float[Array, 'N']
) -> tuple[Float[Array, 'B L N Hv'], Float[Array, 'B L N']]:
    """Adds to every query a key of score `sinks[head]` and value zero (gpt-oss): outputs shrink, the sums grow."""
    sinks = jnp.broadcast_to(sinks.astype(jnp.float32), lse.shape)
    seeing = lse < NOTHING
    lse = jnp.where(seeing, lse, sinks)  # finite, so that no gradient is NaN
    total = jnp.where(seeing, jnp.logaddexp(lse, sinks), sinks)
    return (out * jnp.exp(lse - total)[..., None]).astype(out.dtype), total
