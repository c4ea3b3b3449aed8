"""Integers that are known before a program runs: constants, and loop counters.

Indexing inside a loop is followed only where the index is known: NumPyro's `scan`
carries a counter and reads ``value[i]`` at it. A `Known` is a constant array, or a
`Count`: the position in a loop plus a constant, in every element of the variable.
Data and latents are never known, whatever their values.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from bbvi.analysis.windows import Loop

LARGEST = 1 << 20
"""Constants of more elements are not kept."""


class Count(NamedTuple):
    """Position in a loop, from 0 in storage order, plus an offset.

    Attributes:
        loop: The loop.
        offset: Added to the position.
    """

    loop: Loop
    offset: int


Known = np.ndarray | Count


def constant(value: Any) -> Known | None:
    """The array of a literal or a constant of a jaxpr, if it is of integers."""
    if isinstance(value, jax.core.Tracer):
        return None
    plain = "i" if isinstance(value, (bool, int)) else None
    kind = getattr(getattr(value, "dtype", None), "kind", plain)
    if kind not in _INTEGERS or not 0 < np.size(value) <= LARGEST:
        return None
    return np.asarray(value)


def of_variable(var: Any, env: dict[Any, Known | None]) -> Known | None:
    """What is known of an input of an equation."""
    return constant(var.val) if isinstance(var, Literal) else env.get(var)


def same(first: Known | None, second: Known | None) -> bool:
    """Whether two are known to be equal."""
    if isinstance(first, Count) or isinstance(second, Count):
        return first == second if type(first) is type(second) else False
    return first is not None and second is not None and np.array_equal(first, second)


def bounds(known: Known) -> tuple[int, int]:
    """Smallest and largest value; of a counter over the whole loop."""
    if isinstance(known, Count):
        return known.offset, known.offset + known.loop.length - 1
    return int(known.min()), int(known.max())


def single(known: Known | None) -> int | None:
    """The value of a constant whose elements are all equal."""
    if not isinstance(known, np.ndarray) or not known.size:
        return None
    low, high = bounds(known)
    return low if low == high else None


def evaluate(eqn: Any, reads: Sequence[Known | None]) -> Known | None:
    """What is known of the result of an equation.

    Args:
        eqn: With one output.
        reads: What is known of its inputs.
    """
    aval = eqn.outvars[0].aval
    dtype: Any = getattr(aval, "dtype", None)
    if getattr(dtype, "kind", None) not in _INTEGERS:
        return None
    if not 0 < prod(aval.shape) <= LARGEST:
        return None
    if reads and all(read is None for read in reads):
        return None
    name = eqn.primitive.name
    if all(isinstance(read, np.ndarray) for read in reads):
        return _folded(name, eqn, reads)
    found = _COUNTING[name](*reads) if name in _COUNTING else None
    if isinstance(found, bool):
        return np.full(aval.shape, found, dtype)
    if isinstance(found, Count):
        limits = None if dtype.kind == "b" else np.iinfo(dtype)
        low, high = bounds(found)
        inside = limits is not None and limits.min <= low and high <= limits.max
        return found if inside else None
    return found


def _folded(name: str, eqn: Any, reads: Sequence[Any]) -> np.ndarray | None:
    aval, params = eqn.outvars[0].aval, eqn.params
    if name in _NUMPY:
        found = _NUMPY[name](*reads)
        return None if found is None else np.asarray(found).astype(aval.dtype)
    if name == "iota":
        shape = [1] * len(aval.shape)
        shape[params["dimension"]] = -1
        steps = np.arange(aval.shape[params["dimension"]], dtype=aval.dtype)
        return np.broadcast_to(steps.reshape(shape), aval.shape)
    if name == "broadcast_in_dim":
        shape = [1] * len(aval.shape)
        for axis, size in zip(
            params["broadcast_dimensions"], reads[0].shape, strict=True
        ):
            shape[axis] = size
        return np.broadcast_to(reads[0].reshape(shape), aval.shape)
    if name == "convert_element_type" or name in _MOVES:
        return reads[0].astype(aval.dtype).reshape(aval.shape)
    if name == "concatenate":
        return np.concatenate(reads, params["dimension"])
    if name == "select_n" and len(reads) == 3:
        return np.where(reads[0], reads[2], reads[1])
    return None


def _add(first: Any, second: Any) -> Any:
    if isinstance(second, Count):
        first, second = second, first
    step = single(second)
    if step is None or not isinstance(first, Count):
        return None
    return Count(first.loop, first.offset + step)


def _sub(first: Any, second: Any) -> Any:
    step = single(second)
    if step is None or not isinstance(first, Count):
        return None
    return Count(first.loop, first.offset - step)


def _less(first: Any, second: Any) -> bool | None:
    """Decided where it is the same at every position."""
    if first is None or second is None:
        return None
    (low, high), (bottom, top) = bounds(first), bounds(second)
    if high < bottom:
        return True
    return False if low >= top else None


def _at_most(first: Any, second: Any) -> bool | None:
    more = _less(second, first)
    return None if more is None else not more


def _select(which: Any, *cases: Any) -> Any:
    chosen = single(which)
    return None if chosen is None else cases[chosen]


def _clamp(low: Any, known: Any, high: Any) -> Any:
    inside = _at_most(low, known) and _at_most(known, high)
    return known if inside else None


def _rem(first: Any, second: Any) -> Any:
    inside = _at_most(np.zeros(1), first) and _less(first, second)
    return first if inside else None


def _and(*reads: Any) -> bool | None:
    return False if any(single(read) == 0 for read in reads) else None


def _unchanged(known: Any) -> Any:
    return known


_INTEGERS = frozenset("biu")
_MOVES = ("broadcast_in_dim", "reshape", "squeeze", "copy", "copy_p")
_COUNTING: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "lt": _less,
    "le": _at_most,
    "gt": lambda x, y: _less(y, x),
    "ge": lambda x, y: _at_most(y, x),
    "select_n": _select,
    "clamp": _clamp,
    "rem": _rem,
    "and": _and,
    "convert_element_type": _unchanged,
    **dict.fromkeys(_MOVES, _unchanged),
}
_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "rem": lambda x, y: np.fmod(x, y) if np.all(y) else None,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "clamp": lambda low, x, high: np.clip(x, low, high),
}
