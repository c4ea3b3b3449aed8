"""Which elements of an array does each element of a latent influence?

The jaxpr of a function is walked once, forwards. Every variable carries, for each
latent that reaches it, an `Influence`: one entry per axis of the latent, either the
axis of the array with which it is *aligned* (element ``i`` of the latent touches
only index ``i`` there) or ``None``, *mixed* (it may touch everything). Anything the
walk does not know is mixed, which is sound and only costs variance. Sub-programs
(``jit``, ``scan``, ``cond``, ``custom_jvp`` ...) are entered.

This is dataflow, so it also sees a plate whose elements are coupled in truth, batch
dimensions without a plate and recursions inside ``scan``; plates are not trusted.
"""

from collections.abc import Callable, Sequence
from itertools import count
from math import prod
from operator import index
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

Axis = Any
"""An axis number, the marker of an enclosing loop, or None for mixed."""
Influence = tuple[Axis, ...]
Influences = dict[str, Influence]
Rule = Callable[[Any, Sequence[Influences]], list[Influences]]

_loops = count()


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
    for i, name in enumerate(latents):
        shape = closed.jaxpr.invars[i].aval.shape
        # An axis of size 1 aligns with nothing: primitives broadcast it unasked.
        start[i] = {name: tuple(a if n != 1 else None for a, n in enumerate(shape))}
    return _walk(closed.jaxpr, start)


def join(first: Influences, second: Influences) -> Influences:
    """The least influence that covers both: axes on which they differ are mixed."""
    joined = dict(first)
    for name, axes in second.items():
        known = joined.get(name)
        joined[name] = (
            axes
            if known is None
            else tuple(a if a == b else None for a, b in zip(known, axes, strict=True))
        )
    return joined


def coupled_axes(influence: Influence, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of a latent of ``shape`` whose elements share elements of the array."""
    return tuple(
        i
        for i, (axis, size) in enumerate(zip(influence, shape, strict=True))
        if axis is None and size > 1
    )


def _walk(jaxpr: Any, start: Sequence[Influences]) -> list[Influences]:
    env: dict[Any, Influences] = dict(zip(jaxpr.invars, start, strict=True))

    def read(var: Any) -> Influences:
        return {} if isinstance(var, Literal) else env.get(var, {})

    for eqn in jaxpr.eqns:
        reads = [read(var) for var in eqn.invars]
        if not any(reads):
            continue
        written = [var for var in eqn.invars if _is_reference(var)]
        rule = _mixed if written else _RULES.get(eqn.primitive.name, _mixed)
        for var, found in zip(eqn.outvars, rule(eqn, reads), strict=True):
            if found:
                env[var] = found
        for var in written:
            env[var] = _move(_union(reads), lambda _: None)
    return [read(var) for var in jaxpr.outvars]


def _is_reference(var: Any) -> bool:
    """Whether a variable is a mutable array, into which an equation may write."""
    return type(var.aval).__name__ == "AbstractRef"


def _move(influences_: Influences, target: Callable[[int], Axis]) -> Influences:
    """Rename axes; the marker of a loop belongs to no axis and stays."""

    def moved(axis: Axis) -> Axis:
        if not isinstance(axis, int):
            return axis
        place = target(axis)
        return None if place is None else place if _is_loop(place) else index(place)

    return {name: tuple(map(moved, axes)) for name, axes in influences_.items()}


def _is_loop(axis: Axis) -> bool:
    return isinstance(axis, tuple)


def _union(reads: Sequence[Influences]) -> Influences:
    united: Influences = {}
    for read in reads:
        united = join(united, read)
    return united


def _mixed(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    everything = _move(_union(reads), lambda _: None)
    return [everything] * len(eqn.outvars)


def _elementwise(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    return [_union(reads)] * len(eqn.outvars)


def _each(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    return list(reads)


def _called(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    for field in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(field)
        if inner is not None:
            return _walk(_open(inner), reads)
    return _mixed(eqn, reads)


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _broadcast(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    shape = eqn.invars[0].aval.shape
    dims, sizes = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    kept = {a: b for a, b in enumerate(dims) if shape[a] == sizes[b]}
    return [_move(reads[0], kept.get)]


def _reshape(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    if eqn.params.get("dimensions") is not None:
        return _mixed(eqn, reads)
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    places = {(prod(new[:b]), new[b]): b for b in reversed(range(len(new)))}
    return [_move(reads[0], lambda a: places.get((prod(old[:a]), old[a])))]


def _transpose(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    return [_move(reads[0], list(eqn.params["permutation"]).index)]


def _dropping(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    """Reductions and squeezes: the named axes go, the others close up."""
    gone = eqn.params.get("axes", eqn.params.get("dimensions"))
    left = [a for a in range(len(eqn.invars[0].aval.shape)) if a not in gone]
    found = _move(_union(reads), lambda a: left.index(a) if a in left else None)
    return [found] * len(eqn.outvars)


def _within(axes_of: Callable[[Any], Sequence[int]]) -> Rule:
    """Operations that mix along some axes and leave the shape's order alone."""

    def rule(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
        mixed = {a % max(len(eqn.invars[0].aval.shape), 1) for a in axes_of(eqn)}
        found = _move(_union(reads), lambda a: None if a in mixed else a)
        return [found] * len(eqn.outvars)

    return rule


def _changed_sizes(eqn: Any) -> list[int]:
    """Axes whose size a slice or a pad changes."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return [a for a, (m, n) in enumerate(zip(old, new, strict=True)) if m != n]


def _padded(eqn: Any) -> list[int]:
    config = eqn.params["padding_config"]
    return [a for a, padding in enumerate(config) if any(padding)]


def _dynamic_slice(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    changed = set(_changed_sizes(eqn))
    kept = _move(reads[0], lambda a: None if a in changed else a)
    starts = _move(_union(reads[1:]), lambda _: None)
    return [join(kept, starts)]


def _dot_general(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    contract, batch = eqn.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in eqn.invars]
    out = {}
    free = len(batch[0])
    for side in (0, 1):
        places = {axis: position for position, axis in enumerate(batch[side])}
        for axis in range(ranks[side]):
            if axis not in places and axis not in contract[side]:
                places[axis] = free
                free += 1
        out[side] = _move(reads[side], places.get)
    return [join(out[0], out[1])]


def _gather(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    numbers = eqn.params["dimension_numbers"]
    operand, indices = (var.aval.shape for var in eqn.invars)
    out_rank = len(eqn.outvars[0].aval.shape)
    batch = [a for a in range(out_rank) if a not in numbers.offset_dims]
    from_indices = dict(enumerate(batch[: len(indices) - 1]))
    gone = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    window = [a for a in range(len(operand)) if a not in gone]
    sizes = eqn.params["slice_sizes"]
    from_operand = {
        a: out
        for a, out in zip(window, sorted(numbers.offset_dims), strict=True)
        if sizes[a] == operand[a]
    }
    pairs = zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    )
    for a, i in pairs:
        from_operand[a] = from_indices.get(i)
    return [join(_move(reads[0], from_operand.get), _move(reads[1], from_indices.get))]


def _scan(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    """Inside the body a scanned axis is the loop itself; a carry forgets which turn."""
    body = _open(eqn.params["jaxpr"])
    num_consts, num_carry = _scan_counts(eqn, body)
    loop = ("loop", next(_loops))
    consts = list(reads[:num_consts])
    carry = list(reads[num_consts : num_consts + num_carry])
    xs = [
        _move(read, lambda a: loop if a == 0 else a - 1)
        for read in reads[num_consts + num_carry :]
    ]

    def leave(found: Influences, axis: Axis, shift: int) -> Influences:
        return {
            name: tuple(
                axis if a == loop else a + shift if isinstance(a, int) else a
                for a in axes
            )
            for name, axes in found.items()
        }

    while True:
        outs = _walk(body, consts + carry + xs)
        after = [
            join(old, leave(new, None, 0))
            for old, new in zip(carry, outs[:num_carry], strict=True)
        ]
        if after == carry:
            return carry + [leave(found, 0, 1) for found in outs[num_carry:]]
        carry = after


def _scan_counts(eqn: Any, body: Any) -> tuple[int, int]:
    """How many inputs are constants and how many carries, read off the shapes.

    What is scanned or stacked has one axis less inside; the names of the parameters
    that say so differ between versions of JAX.
    """

    def same(outer: Any, inner: Any) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    num_carry = same(eqn.outvars, body.outvars)
    return same(eqn.invars, body.invars) - num_carry, num_carry


def _cond(eqn: Any, reads: Sequence[Influences]) -> list[Influences]:
    predicate = _move(reads[0], lambda _: None)
    branches = [_walk(_open(b), reads[1:]) for b in eqn.params["branches"]]
    return [_union([predicate, *outs]) for outs in zip(*branches, strict=True)]


def _trailing_two(eqn: Any) -> Sequence[int]:
    return (-1, -2)


_RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _dropping,
    "slice": _within(_changed_sizes),
    "pad": _within(_padded),
    "rev": _within(lambda eqn: eqn.params["dimensions"]),
    "concatenate": _within(lambda eqn: (eqn.params["dimension"],)),
    "sort": _within(lambda eqn: (eqn.params["dimension"],)),
    "top_k": _within(lambda eqn: (eqn.params.get("axis", -1),)),
    "cholesky": _within(_trailing_two),
    "triangular_solve": _within(_trailing_two),
    "dynamic_slice": _dynamic_slice,
    "dot_general": _dot_general,
    "gather": _gather,
    "scan": _scan,
    "cond": _cond,
    "optimization_barrier": _each,
}
_CALLS = """
jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call
custom_vjp_call_jaxpr
"""
_ELEMENTWISE = """
add sub mul div rem neg exp exp2 log log1p expm1 sin cos tan asin acos atan sinh cosh
tanh asinh acosh atanh atan2 pow integer_pow sqrt rsqrt cbrt square logistic erf erfc
erf_inv lgamma digamma polygamma zeta igamma igammac igamma_grad_a random_gamma_grad
regularized_incomplete_beta bessel_i0e bessel_i1e max min abs sign floor ceil round
is_finite not and or xor eq ne lt le gt ge select_n clamp convert_element_type
reduce_precision nextafter copy copy_p real imag conj complex add_any shift_left
shift_right_logical shift_right_arithmetic population_count clz stop_gradient
"""
for _name in ("sum", "max", "min", "prod", "and", "or", "xor"):
    _RULES[f"reduce_{_name}"] = _dropping
for _name in ("argmax", "argmin"):
    _RULES[_name] = _dropping
for _name in ("sum", "prod", "max", "min", "logsumexp"):
    _RULES[f"cum{_name}"] = _within(lambda eqn: (eqn.params["axis"],))
_RULES |= dict.fromkeys(_CALLS.split(), _called)
_RULES |= dict.fromkeys(_ELEMENTWISE.split(), _elementwise)
