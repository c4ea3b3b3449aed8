"""Integers that are known before a program runs: constants, and what loops count.

Indexing inside a loop is followed only where the index is known: NumPyro's `scan`
carries a counter and reads ``value[i]`` at it. A `Known` is a constant array, or the
`Turns` of a loop: one number for each turn, in every element of the variable. Data and
latents are never known, whatever their values.
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


class Turns(NamedTuple):
    """What all elements of a variable are at each turn of a loop.

    Attributes:
        loop: The loop.
        values: At its positions, in storage order.
    """

    loop: Loop
    values: np.ndarray


Known = np.ndarray | Turns


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
    if isinstance(first, Turns) and isinstance(second, Turns):
        return first.loop is second.loop and same(first.values, second.values)
    if not (isinstance(first, np.ndarray) and isinstance(second, np.ndarray)):
        return False
    return np.array_equal(first, second)


def single(known: Known | None) -> int | None:
    """The value of a constant whose elements are all equal."""
    if not isinstance(known, np.ndarray) or not known.size:
        return None
    low, high = int(known.min()), int(known.max())
    return low if low == high else None


def each_turn(known: Known | None, loop: Loop) -> np.ndarray | None:
    """What a variable is at each turn of a loop, if all its elements are the same."""
    if isinstance(known, Turns):
        return known.values if known.loop is loop else None
    if single(known) is None:
        return None
    return np.broadcast_to(known.ravel()[:1], (loop.length,))


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
    name = eqn.primitive.name
    chosen = single(reads[0]) if name == "select_n" else None
    if chosen is not None:
        return reads[1 + chosen]
    if any(read is None for read in reads):
        return None
    loop = next((read.loop for read in reads if isinstance(read, Turns)), None)
    with np.errstate(over="ignore"):
        if loop is None:
            return _folded(name, eqn, reads)
        return _counted(name, eqn, reads, loop)


def _counted(
    name: str, eqn: Any, reads: Sequence[Known | None], loop: Loop
) -> Known | None:
    """The result of an operation on each element, at every turn."""
    turns = [each_turn(read, loop) for read in reads]
    if any(turn is None for turn in turns):
        return None
    found = turns[0] if name in _MOVES else _NUMPY.get(name, _unknown)(*turns)
    if found is None:
        return None
    aval = eqn.outvars[0].aval
    found = np.asarray(found).astype(aval.dtype)
    if np.all(found == found[:1]):
        return np.full(aval.shape, found[0])
    return Turns(loop, found)


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
    if name in _MOVES:
        return reads[0].astype(aval.dtype).reshape(aval.shape)
    if name == "concatenate":
        return np.concatenate(reads, params["dimension"])
    return None


def _selected(which: Any, no: Any, yes: Any, *more: Any) -> Any:
    return None if more else np.where(which, yes, no)


def _unknown(*_: Any) -> None:
    return None


_INTEGERS = frozenset("biu")
_MOVES = frozenset(
    ("broadcast_in_dim", "convert_element_type", "copy", "copy_p", "reshape", "squeeze")
)
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
    "select_n": _selected,
}
