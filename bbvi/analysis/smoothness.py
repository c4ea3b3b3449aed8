"""Where may a function jump, or lose its derivative, along each of its inputs?

The jaxpr of a function is walked once, forwards. Every variable carries a `Flow`: the
inputs along which it varies, and the *breaks* behind it. A break is an equation whose
output jumps while its input moves (``floor``, ``argmax``, a comparison, a conversion to
integers), one that hides a derivative (``stop_gradient``, a derivative rule that is not
JAX's own), or one that has none (callbacks, loops of unknown length, unknown
primitives). Kinks (``max``, ``abs``, ``clip``) are no breaks: a pathwise gradient is
right through them.

A break that reaches an output is only *possible*: ``where(x > 0, x, 0)`` has one and
does not jump. `bbvi.analysis.settling` decides.

References:
    Lee, Rival and Yang (2023), Smoothness analysis for probabilistic programs with
    application to optimised variational inference, POPL: the same question, answered
    by abstract interpretation of Pyro programs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.source_info_util import summarize

from bbvi.analysis.primitives import (
    CALLS,
    COMPARISONS,
    CONTINUOUS,
    HIDING,
    STEPS,
    has_cut,
    in_guard,
    in_support_check,
    is_continuous,
    is_guarded,
    is_library,
    is_trusted,
    opened,
)

FLIPS, HIDES, STOPS = "flips", "hides", "stops"
"""Kinds of breaks: the output jumps, the derivative is hidden, there is none."""

Place = tuple[int, ...]
"""Where an equation stands: its number in each of the nested jaxprs."""


class Flow(NamedTuple):
    """What a variable depends on; sets are bits.

    Attributes:
        inputs: Inputs along which it varies.
        breaks: Breaks on the way to it, by number.
    """

    inputs: int = 0
    breaks: int = 0


class Break(NamedTuple):
    """An equation at which a function may jump or lose its derivative.

    Attributes:
        place: Where it stands.
        primitive: Its name.
        kind: `FLIPS`, `HIDES` or `STOPS`.
        inputs: The function's inputs that move it, a set of bits.
        line: Source file and line.
        is_support: Whether it asks, inside a distribution of NumPyro's, if a value
            lies in the support.
    """

    place: Place
    primitive: str
    kind: str
    inputs: int
    line: str
    is_support: bool = False


def breaks_of(closed: ClosedJaxpr, num_inputs: int) -> list[list[Break]]:
    """Breaks between the first inputs of a jaxpr and each of its outputs.

    Args:
        closed: From `jax.make_jaxpr`; only walked, never run.
        num_inputs: How many of its leading inputs move. Those that are not of a
            floating type do not.

    Returns:
        For every output the breaks that reach it. Cost: linear in the number of
        equations.
    """
    walk, outputs = _walked(closed, num_inputs)
    found = list(walk.found.values())
    return [[b for i, b in enumerate(found) if o.breaks >> i & 1] for o in outputs]


def rounding(closed: ClosedJaxpr, num_inputs: int) -> float:
    """Relative rounding of the numbers that vary with the first inputs of a jaxpr."""
    dtypes = _walked(closed, num_inputs)[0].dtypes
    floats = [d for d in dtypes if d is not None and jnp.issubdtype(d, jnp.inexact)]
    return max((float(jnp.finfo(d).eps) for d in floats), default=2.0**-52)


def _walked(closed: ClosedJaxpr, num_inputs: int) -> "tuple[_Walk, list[Flow]]":
    walk = _Walk()
    start = [
        Flow(1 << i) if i < num_inputs and is_continuous(var) else _NOTHING
        for i, var in enumerate(closed.jaxpr.invars)
    ]
    return walk, walk.through(closed.jaxpr, start, _Where())


def inner_of(eqn: Any) -> Any:
    """The jaxpr that a call runs, or None."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if eqn.params.get(name) is not None:
            return eqn.params[name]
    return None


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many inputs of a scan are constants and how many are carried.

    What is scanned or stacked has one axis less inside; the names of the parameters
    that say so differ between versions of JAX.
    """
    body = opened(eqn.params["jaxpr"])

    def same(outer: Any, inner: Any) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    num_carry = same(eqn.outvars, body.outvars)
    return same(eqn.invars, body.invars) - num_carry, num_carry


_NOTHING = Flow()


class _Where(NamedTuple):
    """Where the walk is.

    Attributes:
        place: Of the equation.
        is_ruled: Inside a function with a derivative rule of its own.
        caller: The call of a library's function that it is inside of. Such functions
            are traced once for all callers, so that tracebacks may be another's.
    """

    place: Place = ()
    is_ruled: bool = False
    caller: Any = None

    def at(self, number: int) -> "_Where":
        return self._replace(place=(*self.place, number))


class _Walk:
    """One walk over a jaxpr and those inside it."""

    def __init__(self) -> None:
        self.found: dict[Place, Break] = {}
        self.numbers: dict[Place, int] = {}
        self.dtypes: set[Any] = set()

    def through(self, jaxpr: Any, reads: Sequence[Flow], where: _Where) -> list[Flow]:
        """Flows of the outputs of a jaxpr from those of its inputs."""
        jaxpr = opened(jaxpr)
        env: dict[Any, Flow] = dict(zip(jaxpr.invars, reads, strict=True))

        def read(var: Any) -> Flow:
            return _NOTHING if isinstance(var, Literal) else env.get(var, _NOTHING)

        for number, eqn in enumerate(jaxpr.eqns):
            flows = [read(var) for var in eqn.invars]
            if all(flow is _NOTHING for flow in flows):
                continue
            outs = _rule_of(eqn)(self, eqn, flows, where.at(number))
            env.update(zip(eqn.outvars, outs, strict=True))
            moved = zip(eqn.outvars, outs, strict=True)
            self.dtypes |= {
                getattr(v.aval, "dtype", None) for v, f in moved if f.inputs
            }
            for var in eqn.invars:
                if type(var.aval).__name__ == "AbstractRef":
                    env[var] = _united(flows)
        return [read(var) for var in jaxpr.outvars]

    def bit(self, eqn: Any, kind: str, inputs: int, where: _Where) -> int:
        """The number of a break, as a bit; inputs grow as loops are walked again."""
        if not inputs:
            return 0
        known = self.found.get(where.place)
        if known is None:
            known = self.found[where.place] = Break(
                place=where.place,
                primitive=eqn.primitive.name,
                kind=kind,
                inputs=inputs,
                line=_line(where.caller or eqn),
                is_support=where.caller is None and in_support_check(eqn),
            )
        elif known.inputs | inputs != known.inputs:
            self.found[where.place] = known._replace(inputs=known.inputs | inputs)
        return 1 << self.numbers.setdefault(where.place, len(self.numbers))


Rule = Callable[[_Walk, Any, Sequence[Flow], _Where], list[Flow]]


def _line(eqn: Any) -> str:
    """File and line of the user's code, as in ``model.py:12 (function)``."""
    path, _, function = summarize(eqn.source_info).partition(" ")
    file, _, rest = path.rpartition("/")[2].partition(":")
    return f"{file}:{rest.partition(':')[0]} {function}".strip() if file else ""


def _united(flows: Sequence[Flow]) -> Flow:
    """Everything that any of the flows depends on."""
    inputs = breaks = 0
    for flow in flows:
        inputs |= flow.inputs
        breaks |= flow.breaks
    return Flow(inputs, breaks) if inputs or breaks else _NOTHING


def _rule_of(eqn: Any) -> Rule:
    name = eqn.primitive.name
    if name in _RULES:
        return _RULES[name]
    if name in CONTINUOUS:
        return _stops if has_cut(eqn) else _continuous
    return _unknown


def _continuous(
    walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where
) -> list[Flow]:
    return [_united(flows)] * len(eqn.outvars)


def _breaks(kind: str, *, moves: bool) -> Rule:
    """A break whose output still moves in between, or is constant there."""

    def rule(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
        flow = _united(flows)
        bit = walk.bit(eqn, kind, flow.inputs, where)
        out = Flow(flow.inputs if moves else 0, flow.breaks | bit)
        return [out] * len(eqn.outvars)

    return rule


_flips, _jumps = _breaks(FLIPS, moves=False), _breaks(FLIPS, moves=True)
_hides, _stops = _breaks(HIDES, moves=True), _breaks(STOPS, moves=True)


def _guarded(rule: Rule) -> Rule:
    """No break inside JAX's own continuous functions, where it is a mere guard."""

    def guarded(
        walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where
    ) -> list[Flow]:
        if in_guard(where.caller or eqn):
            moves = rule is _hides
            flow = _united(flows)
            out = flow if moves else Flow(0, flow.breaks)
            return [out] * len(eqn.outvars)
        return rule(walk, eqn, flows, where)

    return guarded


def _converts(
    walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where
) -> list[Flow]:
    rule = _continuous if is_continuous(eqn.outvars[0]) else _flips
    return rule(walk, eqn, flows, where)


def _sorts(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    """The first key sorted is continuous; what it carries along is not."""
    keys = _united(flows[: eqn.params["num_keys"]])
    bit = walk.bit(eqn, FLIPS, keys.inputs, where) if len(flows) > 1 else 0
    carried = [Flow(f.inputs, f.breaks | keys.breaks | bit) for f in flows[1:]]
    return [flows[0], *carried]


def _top_k(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    return [_united(flows), *_flips(walk, eqn, flows, where)[1:]]


def _unknown(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    is_step = eqn.outvars and not any(map(is_continuous, eqn.outvars))
    return (_flips if is_step else _stops)(walk, eqn, flows, where)


def _calls(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    inner = inner_of(eqn)
    if inner is None:
        return _stops(walk, eqn, flows, where)
    if is_guarded(inner):
        return _continuous(walk, eqn, flows, where)
    caller = where.caller or (eqn if is_library(inner) else None)
    return walk.through(inner, flows, where._replace(caller=caller))


def _custom(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    """A derivative rule: a library's and our own are trusted, others are compared."""
    inner = inner_of(eqn)
    if inner is None:
        return _stops(walk, eqn, flows, where)
    if is_trusted(inner):
        return _continuous(walk, eqn, flows, where)
    outs = walk.through(inner, flows, where.at(0)._replace(is_ruled=True))
    bit = walk.bit(eqn, HIDES, _united(flows).inputs, where)
    return [Flow(f.inputs, f.breaks | bit) if f.inputs else f for f in outs]


def _scan(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    num_consts, num_carry = scan_counts(eqn)
    consts, rest = list(flows[:num_consts]), list(flows[num_consts:])
    carry, xs = rest[:num_carry], rest[num_carry:]
    while True:
        outs = walk.through(eqn.params["jaxpr"], [*consts, *carry, *xs], where)
        after = [_united(pair) for pair in zip(carry, outs, strict=False)]
        if after == carry:
            return outs
        carry = after


def _while(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    """What a loop of unknown length carries has no reverse-mode derivative."""
    start = eqn.params["cond_nconsts"]
    stop = start + eqn.params["body_nconsts"]
    asked, consts = list(flows[:start]), list(flows[start:stop])
    carry = list(flows[stop:])
    while True:
        asks = walk.through(eqn.params["cond_jaxpr"], [*asked, *carry], where.at(0))
        outs = walk.through(eqn.params["body_jaxpr"], [*consts, *carry], where.at(1))
        decided = Flow(0, asks[0].breaks)
        after = [_united([*p, decided]) for p in zip(carry, outs, strict=True)]
        if after == carry:
            break
        carry = after
    if where.is_ruled:
        return carry
    bit = walk.bit(eqn, STOPS, _united(carry).inputs, where)
    return [Flow(f.inputs, f.breaks | bit) if f.inputs else f for f in carry]


def _cond(walk: _Walk, eqn: Any, flows: Sequence[Flow], where: _Where) -> list[Flow]:
    branches = [
        walk.through(branch, flows[1:], where.at(i))
        for i, branch in enumerate(eqn.params["branches"])
    ]
    return [_united([flows[0], *outs]) for outs in zip(*branches, strict=True)]


_compares = _guarded(_flips)
_RULES: dict[str, Rule] = {
    "convert_element_type": _converts,
    "sort": _sorts,
    "top_k": _top_k,
    "stop_gradient": _guarded(_hides),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "rem": _jumps,
    "atan2": _jumps,
    "lu": _jumps,
}
_RULES |= dict.fromkeys(COMPARISONS, _compares)
_RULES |= dict.fromkeys(STEPS, _flips)
_RULES |= dict.fromkeys(HIDING, _hides)
_RULES |= dict.fromkeys(CALLS, _calls)
_RULES |= dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), _custom)
