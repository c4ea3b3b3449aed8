"""Which elements of an array does each element of a latent influence?

The jaxpr of a function is walked once, forwards. Every variable carries, for each
latent that reaches it, an `Influence`: one entry per axis of the latent, either the
axis of the array with which it is `Aligned`, up to a window of offsets (element ``i``
of the latent touches only indices ``i + low`` to ``i + high`` there) or ``None``,
*mixed* (it may touch everything). Anything the walk does not know is mixed, which is
sound and only costs variance. Sub-programs (``jit``, ``scan``, ``cond``,
``custom_jvp`` ...) are entered; integers that are known in advance, loop counters
among them, are followed, so that what is read at them is followed too.

This is dataflow, so it also sees a plate whose elements are coupled in truth, batch
dimensions without a plate and recursions inside ``scan``; plates are not trusted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from bbvi.analysis.counting import (
    Known,
    Turns,
    constant,
    each_turn,
    evaluate,
    of_variable,
    same,
    single,
)
from bbvi.analysis.rules import CALLS, RULES, mix_all
from bbvi.analysis.windows import (
    Aligned,
    Entry,
    Influences,
    Loop,
    Spans,
    join,
    mixed,
    move,
    settle,
    shifted,
    union,
)

Found = tuple[list[Influences], list[Known | None]]

LONGEST_MEMORY = 4
"""Carries of a loop are followed over so many turns; older memories are mixed."""


def influences(closed: ClosedJaxpr, latents: Sequence[str]) -> list[Influences]:
    """Influence of the first inputs of a jaxpr, the latents, on each of its outputs.

    Args:
        closed: From `jax.make_jaxpr`; only walked, never run.
        latents: Names of its leading inputs.

    Returns:
        For every output ``{latent: influence}``; a latent that cannot reach an output
        is absent. Cost: linear in the number of equations times that of latents.
    """
    start: list[Influences] = [{} for _ in closed.jaxpr.invars]
    shapes = {}
    for i, name in enumerate(latents):
        shape = shapes[name] = closed.jaxpr.invars[i].aval.shape
        start[i] = {
            name: tuple(Aligned(a) if n != 1 else None for a, n in enumerate(shape))
        }
    found, _ = _Walk(shapes).run(closed, start, [None] * len(start))
    return found


class _Walk:
    """Follows influences and known integers through a program and those inside it."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.programs = {
            "scan": self.scan,
            "cond": self.cond,
            "select_n": self.select,
            **dict.fromkeys(CALLS, self.call),
        }

    def run(
        self, program: Any, start: Sequence[Influences], values: Sequence[Known | None]
    ) -> Found:
        jaxpr, consts = _open(program)
        env: dict[Any, Influences] = dict(zip(jaxpr.invars, start, strict=True))
        known = dict(zip(jaxpr.invars, values, strict=True))
        known |= {
            var: constant(const)
            for var, const in zip(jaxpr.constvars, consts, strict=False)
        }

        def read(var: Any) -> Influences:
            return {} if isinstance(var, Literal) else env.get(var, {})

        for eqn in jaxpr.eqns:
            reads = [read(var) for var in eqn.invars]
            given = [of_variable(var, known) for var in eqn.invars]
            outs, values = self.step(eqn, reads, given)
            for var, found in zip(eqn.outvars, outs, strict=True):
                if found:
                    env[var] = settle(found, self.shapes, _spans(var))
            for var, value in zip(eqn.outvars, values, strict=True):
                if value is not None:
                    known[var] = value
            for var in eqn.invars:
                if _is_reference(var):
                    env[var] = mixed(union(reads))
        outs = [read(var) for var in jaxpr.outvars]
        return outs, [of_variable(var, known) for var in jaxpr.outvars]

    def step(
        self, eqn: Any, reads: list[Influences], given: list[Known | None]
    ) -> Found:
        name, num = eqn.primitive.name, len(eqn.outvars)
        nothing: list[Any] = [None] * num
        if any(map(_is_reference, eqn.invars)):
            return mix_all(eqn, reads, given), nothing
        if name in self.programs and (any(reads) or name in CALLS):
            return self.programs[name](eqn, reads, given)
        values = [evaluate(eqn, given)] if num == 1 else nothing
        if not any(reads):
            return [{}] * num, values
        return RULES.get(name, mix_all)(eqn, reads, given), values

    def call(
        self, eqn: Any, reads: list[Influences], given: list[Known | None]
    ) -> Found:
        for field in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            inner = eqn.params.get(field)
            if inner is not None:
                return self.run(inner, reads, given)
        return mix_all(eqn, reads, given), [None] * len(eqn.outvars)

    def cond(
        self, eqn: Any, reads: list[Influences], given: list[Known | None]
    ) -> Found:
        branches = [
            self.run(branch, reads[1:], given[1:])[0]
            for branch in eqn.params["branches"]
        ]
        predicate = mixed(reads[0])
        found = [union([predicate, *outs]) for outs in zip(*branches, strict=True)]
        return found, [None] * len(found)

    def select(
        self, eqn: Any, reads: list[Influences], given: list[Known | None]
    ) -> Found:
        """A case that is known to be chosen at some places reaches only those."""
        if given[0] is not None:
            spans = [
                _where(given[0], case, eqn.outvars[0]) for case in range(len(reads) - 1)
            ]
            reads[1:] = [
                {} if span is None else settle(read, self.shapes, span)
                for span, read in zip(spans, reads[1:], strict=True)
            ]
        return RULES["select_n"](eqn, reads, given), [evaluate(eqn, given)]

    def scan(
        self, eqn: Any, reads: list[Influences], given: list[Known | None]
    ) -> Found:
        """Inside the body a scanned axis is the loop; a carry comes one turn late.

        What a carry holds is found by repetition, from what it holds at first on.
        """
        body, reverse = eqn.params["jaxpr"], eqn.params["reverse"]
        num_consts, num_carry = _scan_counts(eqn, _open(body)[0])
        loop = Loop(eqn.params["length"])
        late = -1 if reverse else 1
        end = num_consts + num_carry
        first = reads[num_consts:end]
        xs = [move(read, lambda a: loop if a == 0 else a - 1) for read in reads[end:]]
        turns = np.arange(loop.length)[:: -1 if reverse else 1]
        begun = given[num_consts:end]
        values = [
            *given[:num_consts],
            *(_counter(value, loop, turns) for value in begun),
            *(_scanned(value, loop) for value in given[end:]),
        ]
        carry, turn = list(first), 0
        while True:
            outs, left = self.run(body, reads[:num_consts] + carry + xs, values)
            kept = [
                _kept(*known, loop, turns)
                for known in zip(
                    values[num_consts:end], begun, left[:num_carry], strict=True
                )
            ]
            if any(map(_differ, kept, values[num_consts:end])):
                values[num_consts:end], carry, turn = kept, list(first), 0
                continue
            after = [
                settle(join(old, _turned(new, loop, late)), self.shapes, _spans(var))
                for old, new, var in zip(
                    carry, outs[:num_carry], eqn.outvars[:num_carry], strict=True
                )
            ]
            if after == carry:
                break
            if turn >= LONGEST_MEMORY:
                after = [_forget(a, b, loop) for a, b in zip(carry, after, strict=True)]
            carry, turn = after, turn + 1
        left_over = outs[:num_carry] if loop.length else first
        final = [_leave(found, loop, None, 0) for found in left_over]
        stacked = [_leave(found, loop, 0, 1) for found in outs[num_carry:]]
        ends = [
            _last(*known, loop, turns)
            for known in zip(kept, begun, left[:num_carry], strict=True)
        ]
        return final + stacked, ends + [None] * len(stacked)


def _open(program: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants."""
    if isinstance(program, ClosedJaxpr):
        return program.jaxpr, program.consts
    return program, ()


def _spans(var: Any) -> Spans:
    """First and last index of a variable's axes."""
    return {axis: (0, size - 1) for axis, size in enumerate(var.aval.shape)}


def _where(which: Known, case: int, var: Any) -> Spans | None:
    """First and last index at which a case is chosen; None if it never is."""
    spans = _spans(var)
    if isinstance(which, Turns):
        turns = np.flatnonzero(which.values == case)
        return {**spans, which.loop: (turns[0], turns[-1])} if turns.size else None
    chosen = np.nonzero(np.broadcast_to(which == case, var.aval.shape or (1,)))
    if not chosen[0].size:
        return None
    ends = [(int(places.min()), int(places.max())) for places in chosen]
    return {axis: ends[axis] for axis in spans}


def _is_reference(var: Any) -> bool:
    """Whether a variable is a mutable array, into which an equation may write."""
    return type(var.aval).__name__ == "AbstractRef"


def _counter(
    begun: Known | None, loop: Loop, turns: np.ndarray, by: int = 1
) -> Known | None:
    """What a carry may hold: one that begins at a constant may count the turns."""
    start = single(begun)
    if start is None or not loop.length or begun.dtype.kind == "b":
        return begun
    return Turns(loop, (start + by * turns).astype(begun.dtype))


def _kept(
    value: Known | None,
    begun: Known | None,
    new: Known | None,
    loop: Loop,
    turns: np.ndarray,
) -> Known | None:
    """What a carry is known to hold, after what one turn makes of it.

    Where it grows, but not by one, that is found out once.
    """
    if not (isinstance(value, Turns) and value.loop is loop):
        return value if same(value, new) else None
    after = each_turn(new, loop)
    if after is None:
        return None
    held = value.values[turns]
    if np.array_equal(held[1:], after[turns][:-1]):
        return value
    by = single(after - value.values)
    if by == 0 or same(new, begun):
        return begun
    if by is None or held[1] - held[0] != 1:
        return None
    return _counter(begun, loop, turns, by)


def _differ(first: Known | None, second: Known | None) -> bool:
    return not (first is second or same(first, second))


def _last(
    value: Known | None,
    begun: Known | None,
    new: Known | None,
    loop: Loop,
    turns: np.ndarray,
) -> Known | None:
    """What a carry is known to hold when the loop ends."""
    if not (isinstance(value, Turns) and value.loop is loop):
        return value
    after: Any = each_turn(new, loop)
    return np.full_like(begun, after[turns[-1]])


def _scanned(value: Known | None, loop: Loop) -> Known | None:
    """What is known of a slice of a scanned array."""
    if value is None or isinstance(value, Turns):
        return value
    if np.all(value == value[:1]):
        return value[0]
    rows = value.reshape(len(value), -1)
    return Turns(loop, rows[:, 0]) if np.all(rows == rows[:, :1]) else None


def _turned(found: Influences, loop: Loop, late: int) -> Influences:
    """A carry that leaves one turn as it enters the next one in storage order."""
    place = Aligned(loop, late, late)
    return _each_entry(found, loop, lambda e: shifted(e, place))


def _leave(found: Influences, loop: Loop, axis: int | None, shift: int) -> Influences:
    """Influences on what comes out of a loop, which becomes an axis or is mixed."""
    moved = move(found, lambda a: a + shift)
    place = None if axis is None else Aligned(axis)
    return _each_entry(
        moved, loop, lambda e: None if place is None else shifted(e, place)
    )


def _each_entry(
    found: Influences, loop: Loop, change: Callable[[Aligned], Entry]
) -> Influences:
    """The influences with those entries changed that run along a loop."""
    return {
        name: tuple(change(e) if e is not None and e.axis is loop else e for e in axes)
        for name, axes in found.items()
    }


def _forget(old: Influences, new: Influences, loop: Loop) -> Influences:
    """Mix what still grows, and what has only just come in along the loop."""
    kept = _leave(new, loop, None, 0)
    for name, axes in old.items():
        pairs = zip(axes, new[name], strict=True)
        kept[name] = tuple(a if a == b else None for a, b in pairs)
    return kept


def _scan_counts(eqn: Any, body: Any) -> tuple[int, int]:
    """How many inputs are constants and how many carries, read off the shapes.

    What is scanned or stacked has one axis less inside; the names of the parameters
    that say so differ between versions of JAX.
    """

    def same_rank(outer: Any, inner: Any) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    num_carry = same_rank(eqn.outvars, body.outvars)
    return same_rank(eqn.invars, body.invars) - num_carry, num_carry
