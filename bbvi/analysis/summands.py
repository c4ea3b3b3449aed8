"""The costs above a final sum: ``factor("obs", x.sum())`` is the costs ``x``.

A cost that is summed before anything reads it belongs to everything that it was summed
over; its summands each belong to what they depend on.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from bbvi._types import Array


class _Sum(NamedTuple):
    """``factor * sum(summed, axes)``, each of `factors` multiplied or divided by."""

    summed: Any
    axes: tuple[int, ...]
    factors: tuple[tuple[str, Any], ...]


def summands(
    outputs: Callable[[], Mapping[str, Array]],
) -> dict[str, tuple[Array, int]]:
    """What the last sum of each output adds up.

    Seen through are ``-x``, and ``x`` times or over what has its shape.

    Args:
        outputs: Pure; arrays by name.

    Returns:
        For each output that ends in a sum, the summands with the axes that are summed
        behind all others, and their number. Cost: one trace of `outputs`.
    """
    closed, shapes = jax.make_jaxpr(lambda: dict(outputs()), return_shape=True)()
    jaxpr = closed.jaxpr
    made = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    ends = zip(jax.tree.leaves({n: n for n in shapes}), jaxpr.outvars, strict=True)
    sums = {name: _last_sum(var, made, (), set()) for name, var in ends}
    sums = {name: found for name, found in sums.items() if found is not None}
    if not sums:
        return {}
    wanted = [v for s in sums.values() for v in (s.summed, *(f for _, f in s.factors))]
    values = iter(_evaluate(closed, wanted, made))
    found = {}
    for name, (_, axes, factors) in sums.items():
        value = next(values)
        value = jnp.moveaxis(value, axes, range(-len(axes), 0))
        for operation, _ in factors:
            factor = jnp.expand_dims(next(values), tuple(range(-len(axes), 0)))
            value = value / factor if operation == "div" else value * factor
        found[name] = (value, len(axes))
    return found


def _last_sum(
    var: Any, made: Mapping[Any, Any], factors: Any, seen: set[Any]
) -> _Sum | None:
    """Through which factors a variable is a sum; what was `seen` is none."""
    eqn = None if isinstance(var, Literal) or var in seen else made.get(var)
    if eqn is None:
        return None
    seen.add(var)
    name, inputs = eqn.primitive.name, eqn.invars
    if name == "reduce_sum" and eqn.params["axes"]:
        return _Sum(inputs[0], tuple(eqn.params["axes"]), factors)
    if name == "neg":
        minus = Literal(np.array(-1, var.aval.dtype), var.aval)
        return _last_sum(inputs[0], made, (*factors, ("mul", minus)), seen)
    if name in ("mul", "div"):
        found = _last_sum(inputs[0], made, (*factors, (name, inputs[1])), seen)
        if found is None and name == "mul":
            found = _last_sum(inputs[1], made, (*factors, (name, inputs[0])), seen)
        return found
    return None


def _evaluate(closed: Any, wanted: list[Any], made: Mapping[Any, Any]) -> list[Array]:
    """Values of some variables of a jaxpr without inputs."""
    asked = {id(v): v for v in wanted if not isinstance(v, Literal)}
    needed, missing = set(), list(asked.values())
    while missing:
        eqn = made.get(missing.pop())
        if eqn is not None and id(eqn) not in needed:
            needed.add(id(eqn))
            missing += [v for v in eqn.invars if not isinstance(v, Literal)]
    jaxpr = closed.jaxpr.replace(
        eqns=[eqn for eqn in closed.jaxpr.eqns if id(eqn) in needed],
        outvars=list(asked.values()),
        debug_info=closed.jaxpr.debug_info._replace(result_paths=None),
    )
    found = dict(zip(asked, jaxpr_as_fun(closed.replace(jaxpr=jaxpr))(), strict=True))
    return [v.val if isinstance(v, Literal) else found[id(v)] for v in wanted]
