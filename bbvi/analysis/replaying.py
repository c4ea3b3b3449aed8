"""Run a jaxpr so that it also says which way each of its breaks went.

Every tracked equation adds a checksum of its discrete output (a comparison's booleans,
the integers of ``floor`` or ``argmax``, the order of ``sort``) to a *mark* of its own,
which is carried through calls, branches and loops. Two points with equal marks went
the same way everywhere; between two with different marks, the break flips.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from bbvi._types import Array
from bbvi.analysis.primitives import CALLS, opened
from bbvi.analysis.smoothness import Place, inner_of, scan_counts

MAX_TURNS = 2_000
"""Most turns of a loop that could go on for ever at an odd point."""

_PRINTS = frozenset(("debug_callback", "debug_print"))
_CUSTOM = frozenset(("custom_jvp_call", "custom_vjp_call"))
_FACTOR = 1_664_525


def replay(
    closed: Any, tracked: Mapping[Place, int]
) -> Callable[..., tuple[list[Array], Array]]:
    """The function of a jaxpr, with the marks of its tracked equations.

    Args:
        closed: From `jax.make_jaxpr`.
        tracked: Number of each tracked equation by its place, from 0 on.

    Returns:
        ``(*inputs) -> (outputs, marks)`` with marks of shape ``(len(tracked),)`` and
        type uint32. Derivative rules of the jaxpr's own are dropped on the way to a
        tracked equation: it is made for values.
    """
    runner = _Runner(tracked)

    def run(*inputs: Any) -> tuple[list[Array], Array]:
        marks = jnp.zeros(len(tracked), jnp.uint32)
        return runner.through(closed.jaxpr, closed.consts, inputs, (), marks)

    return run


class _Runner:
    def __init__(self, tracked: Mapping[Place, int]) -> None:
        self.tracked = tracked
        self.above = {place[:i] for place in tracked for i in range(len(place))}

    def through(
        self,
        jaxpr: Any,
        consts: Sequence[Any],
        inputs: Sequence[Any],
        place: Place,
        marks: Array,
    ) -> tuple[list[Any], Array]:
        env = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        for number, eqn in enumerate(jaxpr.eqns):
            values = [v.val if isinstance(v, Literal) else env[v] for v in eqn.invars]
            at = (*place, number)
            if at in self.tracked:
                outs, way = _run_tracked(eqn, values)
                marks = self.add(marks, at, way)
            elif at in self.above or _loops(eqn):
                outs, marks = self.inside(eqn, values, at, marks)
            else:
                outs = [] if eqn.primitive.name in _PRINTS else _bind(eqn, values)
            env.update(zip(eqn.outvars, outs, strict=True))
        outs = [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]
        return outs, marks

    def add(self, marks: Array, place: Place, way: Array) -> Array:
        """Mix a checksum into the mark of a place, so that order matters."""
        at = marks.at[self.tracked[place]]
        return at.set(marks[self.tracked[place]] * jnp.uint32(_FACTOR) + way)

    def inside(
        self, eqn: Any, values: Sequence[Any], place: Place, marks: Array
    ) -> tuple[list[Any], Array]:
        """Run an equation that holds tracked ones."""
        name = eqn.primitive.name
        if name == "scan":
            return self.scan(eqn, values, place, marks)
        if name == "while":
            return self.loop(eqn, values, place, marks)
        if name == "cond":
            return self.cond(eqn, values, place, marks)
        if name not in CALLS and name not in _CUSTOM:
            raise NotImplementedError(f"breaks inside {name} cannot be followed")
        inner = inner_of(eqn)
        place = (*place, 0) if name in _CUSTOM else place
        return self.closed(inner, values, place, marks)

    def closed(
        self, inner: Any, values: Sequence[Any], place: Place, marks: Array
    ) -> tuple[list[Any], Array]:
        consts = getattr(inner, "consts", ())
        return self.through(opened(inner), consts, values, place, marks)

    def scan(
        self, eqn: Any, values: Sequence[Any], place: Place, marks: Array
    ) -> tuple[list[Any], Array]:
        num_consts, num_carry = scan_counts(eqn)
        stop = num_consts + num_carry
        consts, xs = list(values[:num_consts]), list(values[stop:])
        body = eqn.params["jaxpr"]

        def step(carry: Any, x: Any) -> Any:
            carry, marks = carry
            outs, marks = self.closed(body, [*consts, *carry, *x], place, marks)
            return (outs[:num_carry], marks), outs[num_carry:]

        (carry, marks), ys = lax.scan(
            step,
            (list(values[num_consts:stop]), marks),
            xs,
            length=eqn.params["length"],
            reverse=eqn.params["reverse"],
        )
        return [*carry, *ys], marks

    def loop(
        self, eqn: Any, values: Sequence[Any], place: Place, marks: Array
    ) -> tuple[list[Any], Array]:
        start = eqn.params["cond_nconsts"]
        stop = start + eqn.params["body_nconsts"]
        asked, consts = list(values[:start]), list(values[start:stop])
        cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]

        def goes_on(state: Any) -> Array:
            carry, marks, turn = state
            asks, _ = self.closed(cond, [*asked, *carry], (*place, 0), marks)
            return asks[0] & (turn < MAX_TURNS)

        def step(state: Any) -> Any:
            carry, marks, turn = state
            _, marks = self.closed(cond, [*asked, *carry], (*place, 0), marks)
            outs, marks = self.closed(body, [*consts, *carry], (*place, 1), marks)
            return outs, marks, turn + 1

        state = (list(values[stop:]), marks, 0)
        return lax.while_loop(goes_on, step, state)[:2]

    def cond(
        self, eqn: Any, values: Sequence[Any], place: Place, marks: Array
    ) -> tuple[list[Any], Array]:
        branches = [
            lambda marks, *v, i=i, branch=branch: self.closed(
                branch, v, (*place, i), marks
            )
            for i, branch in enumerate(eqn.params["branches"])
        ]
        return lax.switch(values[0], branches, marks, *values[1:])


def _loops(eqn: Any) -> bool:
    """Whether an equation holds a loop that might not end, and can be run inside."""
    if eqn.primitive.name == "while":
        return True
    if eqn.primitive.name == "cond":
        inner = eqn.params["branches"]
    elif eqn.primitive.name in _CUSTOM | CALLS | {"scan"}:
        inner = (inner_of(eqn),)
    else:
        return False
    return any(_loops(e) for jaxpr in inner if jaxpr for e in opened(jaxpr).eqns)


def _bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    bound = eqn.primitive.get_bind_params(eqn.params)  # a pair in older versions of JAX
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    outs = eqn.primitive.bind(*functions, *values, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _run_tracked(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], Array]:
    """Outputs of an equation and a checksum of the way it went."""
    outs = _bind(eqn, values)
    name = eqn.primitive.name
    if name == "rem":
        return outs, _checksum(jnp.trunc(values[0] / values[1]))
    if name == "atan2":
        return outs, _checksum((values[0] < 0) & (values[1] < 0))
    if name == "sort":
        params = eqn.params
        order = lax.broadcasted_iota(jnp.int32, values[0].shape, params["dimension"])
        ordered = lax.sort(
            (*values, order),
            dimension=params["dimension"],
            is_stable=params["is_stable"],
            num_keys=params["num_keys"],
        )
        return outs, _checksum(ordered[-1])
    steps = [x for x in outs if not jnp.issubdtype(x.dtype, jnp.inexact)] or outs
    return outs, sum((_checksum(x) for x in steps), jnp.uint32(0))


def _checksum(way: Array) -> Array:
    """A number that differs, but for one time in 2^32, if any element does."""
    if jnp.issubdtype(way.dtype, jnp.floating):
        way = lax.bitcast_convert_type(way.astype(jnp.float32), jnp.uint32)
    way = way.astype(jnp.uint32).ravel()
    weights = jnp.arange(1, way.size + 1, dtype=jnp.uint32)
    for factor in (2_654_435_761, 2_246_822_519):
        weights = weights * jnp.uint32(factor)
        weights = weights ^ (weights >> 15)
    return jnp.sum((way + jnp.uint32(1)) * (weights | 1), dtype=jnp.uint32)
