"""What each primitive of JAX does to influences.

A rule takes an equation of a jaxpr, the influences on its inputs and what is known of
their values, and returns the influences on its outputs. A primitive that has no rule
mixes everything (`mix_all`).
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from bbvi.analysis import indexing
from bbvi.analysis.counting import Known
from bbvi.analysis.windows import Influences, join, mixed, move, union

Rule = Callable[[Any, Sequence[Influences], Sequence[Known | None]], list[Influences]]


def mix_all(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    """The rule of all that is not known."""
    return [mixed(union(reads))] * len(eqn.outvars)


def _elementwise(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    """Operands have the result's shape, or size 1 along axes that are broadcast."""
    out = eqn.outvars[0].aval.shape
    found = []
    for var, read in zip(eqn.invars, reads, strict=True):
        shape = var.aval.shape
        if read and shape and shape != out:
            read = move(read, lambda a, s=shape: a if s[a] == out[a] else None)
        found.append(read)
    return [union(found)] * len(eqn.outvars)


def _each(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    return list(reads)


def _broadcast(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    shape = eqn.invars[0].aval.shape
    dims, sizes = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    kept = {a: b for a, b in enumerate(dims) if shape[a] == sizes[b]}
    return [move(reads[0], kept.get)]


def _reshape(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    if eqn.params.get("dimensions") is not None:
        return mix_all(eqn, reads, _)
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    places = {(prod(new[:b]), new[b]): b for b in reversed(range(len(new)))}
    return [move(reads[0], lambda a: places.get((prod(old[:a]), old[a])))]


def _transpose(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    return [move(reads[0], list(eqn.params["permutation"]).index)]


def _dropping(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    """Reductions and squeezes: the named axes go, the others close up."""
    params = eqn.params
    gone = params.get("axes", params.get("dimensions", (params.get("axis"),)))
    left = [a for a in range(len(eqn.invars[0].aval.shape)) if a not in gone]
    found = move(union(reads), lambda a: left.index(a) if a in left else None)
    return [found] * len(eqn.outvars)


def _within(axes_of: Callable[[Any], Sequence[int]]) -> Rule:
    """Operations that mix along some axes and leave the shape's order alone."""

    def rule(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
        along = {a % max(len(eqn.invars[0].aval.shape), 1) for a in axes_of(eqn)}
        found = move(union(reads), lambda a: None if a in along else a)
        return [found] * len(eqn.outvars)

    return rule


def _dot_general(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
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
        out[side] = move(reads[side], places.get)
    return [join(out[0], out[1])]


def _stack(eqn: Any, reads: Sequence[Influences], _: Any) -> list[Influences]:
    axis = eqn.params["axis"]
    return [move(union(reads), lambda a: a if a < axis else a + 1)]


def _trailing_two(eqn: Any) -> Sequence[int]:
    return (-1, -2)


CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
)
"""Primitives that run one program on their inputs."""
RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _dropping,
    "stack": _stack,
    "unstack": _dropping,
    "slice": indexing.slices,
    "split": indexing.split,
    "pad": indexing.pad,
    "concatenate": indexing.concatenate,
    "dynamic_slice": indexing.dynamic_slice,
    "dynamic_update_slice": indexing.dynamic_update_slice,
    "gather": indexing.gather,
    "conv_general_dilated": indexing.convolution,
    "rev": indexing.reverse,
    "sort": _within(lambda eqn: (eqn.params["dimension"],)),
    "top_k": _within(lambda eqn: (eqn.params.get("axis", -1),)),
    "cholesky": _within(_trailing_two),
    "triangular_solve": _within(_trailing_two),
    "dot_general": _dot_general,
    "optimization_barrier": _each,
}
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
    RULES[f"reduce_{_name}"] = _dropping
for _name in ("argmax", "argmin"):
    RULES[_name] = _dropping
for _name in ("reduce_window", *(f"reduce_window_{n}" for n in ("sum", "max", "min"))):
    RULES[_name] = indexing.reduce_window
for _name in ("", "-add", "-sub", "-mul", "-min", "-max"):
    RULES[f"scatter{_name}"] = indexing.scatter
for _name in ("sum", "prod", "max", "min", "logsumexp"):
    RULES[f"cum{_name}"] = _within(lambda eqn: (eqn.params["axis"],))
RULES |= dict.fromkeys(_ELEMENTWISE.split(), _elementwise)
