# SPDX-License-Identifier: Apache-2.0
"""Counts the multiplications and additions of a training step from its objective alone, part by part.

The convention: a product of [m, k] and [k, n] is 2 m k n FLOPs; everything that is no product counts nothing. Backward,
a product costs as much again for each of its two operands that depends on a trainable parameter: frozen towers cost
their forward pass alone, a frozen decoder before which something is trained costs twice it, trained ones three times.
Attention is two products of each query with every key of the array that it could see; in causal decoders, half of that.
What is computed again (remat) is counted apart, and never useful.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

ATTENTION = 'attention'  # the scope in which mmjax.nn.attention calls its kernel
CAUSAL = 'decoder'  # the scope whose queries see, on average, half the keys of their own row


class Work(NamedTuple):
    """FLOPs of a part."""

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0  # of the forward pass, computed a second time in the backward pass
    attention: float = 0.0  # of forward and backward, how much is queries with keys and weights with values

    @property
    def useful(self) -> float:
        """What a step needs: not what is computed again."""
        return self.forward + self.backward

    @property
    def issued(self) -> float:
        """What the devices compute."""
        return self.forward + self.backward + self.again

    def plus(self, other: 'Work') -> 'Work':
        """Returns the sum."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


def count(function: Callable[..., Any], trained: Any, *others: Any) -> dict[str, Work]:
    """Returns scope -> work of function(trained, *others), a loss, and of its gradient by `trained`.

    Arguments are shapes. A scope is the named scopes around a product, outermost first, joined by '/'.
    """
    jaxpr = jax.make_jaxpr(function)(trained, *others).jaxpr
    own = len(jax.tree.leaves(trained))
    counter = Counter()
    counter.walk(jaxpr, [i < own for i in range(len(jaxpr.invars))], Place())
    return dict(counter.found)


class Place(NamedTuple):
    """Where in a program an equation stands."""

    scope: str = ''
    times: float = 1.0  # how often it runs
    remat: bool = False  # the backward pass computes it again
    counted: bool = True


@dataclasses.dataclass
class Counter:
    """Walks a program, and says of each value whether a trained parameter is in it."""

    found: dict[str, Work] = dataclasses.field(default_factory=lambda: defaultdict(Work))

    def walk(self, jaxpr: Any, inputs: Sequence[bool], place: Place) -> list[bool]:
        """Adds up what a program computes; returns which of its outputs depend on what is trained."""
        trained = dict(zip(jaxpr.invars, inputs, strict=True))
        known = lambda v: not isinstance(v, Literal) and trained.get(v, False)
        for eqn in jaxpr.eqns:
            scope = str(eqn.source_info.name_stack)
            here = place._replace(scope='/'.join(filter(None, (place.scope, scope))))
            outputs = self._equation(eqn, [known(v) for v in eqn.invars], here)
            for v, of_trained in zip(eqn.outvars, outputs, strict=True):
                trained[v] = of_trained and jax.numpy.issubdtype(v.aval.dtype, jax.numpy.inexact)
        return [known(v) for v in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[bool], place: Place) -> list[bool]:
        name, one = eqn.primitive.name, [any(inputs)] * len(eqn.outvars)
        if name == 'dot_general':
            self._add(place, product(eqn), sum(inputs))
        elif name == 'conv_general_dilated':
            self._add(place, convolution(eqn), sum(inputs))
        elif name == 'custom_vjp_call' and ATTENTION in place.scope.split('/'):
            self._attention(eqn, inputs, place)
        elif name == 'stop_gradient':
            return [False] * len(eqn.outvars)
        elif name == 'scan':
            return self._scan(eqn, inputs, place)
        elif name == 'cond':
            return self._cond(eqn, inputs, place)
        elif name == 'while':
            body, consts = eqn.params['body_jaxpr'].jaxpr, eqn.params['cond_nconsts']
            return self._fixed(body, inputs[consts:], eqn.params['body_nconsts'], place)
        elif inner := _inner(eqn):
            again = name in ('remat2', 'checkpoint') and eqn.params['policy'] is None
            return self.walk(inner, inputs, place._replace(remat=place.remat or again))
        return one

    def _scan(self, eqn: Any, inputs: list[bool], place: Place) -> list[bool]:
        p = eqn.params
        place = place._replace(times=place.times * p['length'])
        return self._fixed(p['jaxpr'].jaxpr, inputs, p['num_consts'], place, carried=p['num_carry'])

    def _fixed(
        self, body: Any, inputs: list[bool], consts: int, place: Place, carried: int | None = None
    ) -> list[bool]:
        """Walks a loop's body: what is carried depends on what is trained as soon as it does in any round."""
        carried = len(inputs) - consts if carried is None else carried
        while True:
            outputs = self.walk(body, inputs, place._replace(counted=False))
            after = [a or b for a, b in zip(inputs[consts:], outputs[:carried])]  # noqa: B905, scanned inputs follow
            if after == inputs[consts : consts + carried]:
                return self.walk(body, inputs, place)
            inputs = [*inputs[:consts], *after, *inputs[consts + carried :]]

    def _cond(self, eqn: Any, inputs: list[bool], place: Place) -> list[bool]:
        """Counts the branch that costs most."""
        tried = []
        for branch in eqn.params['branches']:
            counter = Counter()
            outputs = counter.walk(branch.jaxpr, inputs[1:], place)
            tried.append((sum(w.issued for w in counter.found.values()), counter.found, outputs))
        for scope, work in max(tried, key=lambda t: t[0])[1].items():
            self.found[scope] = self.found[scope].plus(work)
        return [any(each) for each in zip(*(t[2] for t in tried), strict=True)]

    def _attention(self, eqn: Any, inputs: list[bool], place: Place) -> None:
        """Counts both products of an attention by the shapes of q [B, L, N, H], k [B, S, K, H] and v [B, S, K, Hv]."""
        q, k, v = (x.aval.shape for x in eqn.invars[:3])
        pairs = float(math.prod(q[:3]) * k[1])
        scope = place.scope.split('/')
        if CAUSAL in scope and q[1] == k[1] and 'gated' not in scope and 'cross' not in scope:
            pairs /= 2
        of_q, of_k, of_v = inputs[:3]
        for flops, operands in ((2 * pairs * q[3], of_q + of_k), (2 * pairs * v[3], (of_q or of_k) + of_v)):
            self._add(place, flops, operands, attention=True)

    def _add(self, place: Place, flops: float, operands: int, *, attention: bool = False) -> None:
        if not place.counted:
            return
        flops *= place.times
        again = flops if place.remat and operands else 0.0
        work = Work(flops, operands * flops, again, (1 + operands) * flops if attention else 0.0)
        scope = '/'.join(
            re.sub(r'\w+\(([^()]*)\)', r'\1', part) for part in place.scope.split('/') if part != ATTENTION
        )
        self.found[scope] = self.found[scope].plus(work)


def product(eqn: Any) -> float:
    """Returns the FLOPs of a dot_general."""
    (contracted, _), _ = eqn.params['dimension_numbers']
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def convolution(eqn: Any) -> float:
    """Returns the FLOPs of a convolution: of each output, a product with a kernel's window of its group."""
    kernel, numbers = eqn.invars[1].aval.shape, eqn.params['dimension_numbers']
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[numbers.rhs_spec[0]]


def by_part(found: Mapping[str, Work], parts: Sequence[str]) -> dict[str, Work]:
    """Returns part -> work, where a scope belongs to the first of its names that is a part, else to 'rest'."""
    summed: dict[str, Work] = defaultdict(Work)
    for scope, work in found.items():
        part = next((name for name in scope.split('/') if name in parts), 'rest')
        summed[part] = summed[part].plus(work)
    return dict(summed)


def _inner(eqn: Any) -> Any:
    """Returns the program that an equation calls with its own inputs, None where it calls none."""
    for name in ('jaxpr', 'call_jaxpr', 'fun_jaxpr', 'call'):
        if (found := eqn.params.get(name)) is not None:
            return getattr(found, 'jaxpr', found)
    return None
