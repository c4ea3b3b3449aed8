"""The model's arguments: which are arrays of the compiled program, which are static.

Everything about them that can be wrong is checked here on the host, before a model
is traced or anything compiles.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from numbers import Number
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._types import Data


class Arguments(NamedTuple):
    """Arguments of a model by name.

    Attributes:
        arrays: Pytrees of NumPy arrays, or of `jax.ShapeDtypeStruct` where only the
            shapes are known; arguments of the compiled program.
        static: Everything else (ints, strings, None, objects); part of the program.

    An argument that holds both is in both, each with None where the other has a leaf.
    """

    arrays: dict[str, Any]
    static: dict[str, Any]

    def bind(self, data: Data) -> dict[str, Any]:
        """Keyword arguments of the model, its arrays taken from ``data``, as JAX's."""

        def as_jax(own: Any, given: Any) -> Any:
            return None if own is None else jnp.asarray(given)

        arrays = {name: data[name] for name in self.arrays}
        return self.join(jax.tree.map(as_jax, self.arrays, arrays, is_leaf=_is_none))

    def join(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of the model from ``arrays``, and from what is static."""

        def first(given: Any, own: Any) -> Any:
            return own if given is None else given

        joined = {**self.static, **arrays}
        for name in arrays.keys() & self.static.keys():
            own = self.static[name]
            joined[name] = jax.tree.map(first, arrays[name], own, is_leaf=_is_none)
        return joined

    @property
    def has_values(self) -> bool:
        """Whether the arrays themselves are known, so that they can be checked."""
        leaves = jax.tree.leaves(self.arrays)
        return not any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)

    @property
    def shapes(self) -> dict[str, Any]:
        """The arrays as `jax.ShapeDtypeStruct`."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.arrays
        )


def read_arguments(model: Callable[..., Any], data: Any) -> Arguments:
    """Sort the arguments of ``model`` into arrays and static values.

    Args:
        model: The model; its signature names the arguments.
        data: A mapping of the arguments, a data frame whose columns are passed by
            name, a tuple of positional arguments, or None for a model without any.

    Returns:
        The arguments; arrays have the dtypes that JAX gives them.

    Raises:
        TypeError: Missing, unexpected or badly typed arguments, all in one message.
        ValueError: Values that are NaN or infinite, or that the programs' dtype cannot
            hold; lists of numbers that are no array; all in one message.
    """
    named = by_name(model, data)
    arrays, static, problems = {}, {}, []
    for name, value in named.items():
        value = np.asarray(value) if type(value) is float else value
        value = jax.tree.map(_to_array, value, is_leaf=lambda x: isinstance(x, list))
        leaves = jax.tree.leaves(value)
        problems += _unread_lists(name, value)
        own = jax.tree.map(lambda x: x if _is_array(x) else None, value)
        if any(isinstance(x, jax.core.Tracer) for x in leaves):
            problems.append(f"argument {name!r} is a JAX tracer: call outside of jit")
            continue
        if any(map(_is_array, leaves)):
            problems += _bad_values(name, own)
            arrays[name] = jax.tree.map(_canonical, own)
        if not leaves or not all(map(_is_array, leaves)):
            rest = jax.tree.map(lambda x: None if _is_array(x) else x, value)
            static[name] = rest
    if problems:
        raise ValueError(_report("the data cannot be used", problems))
    return Arguments(arrays, static)


def by_name(
    model: Callable[..., Any], data: Any, *, partial: bool = False
) -> dict[str, Any]:
    """Arguments of a model by name, from any kind of data.

    Args:
        model: The model; its signature names the arguments.
        data: See `read_arguments`.
        partial: Whether arguments may be missing.

    Raises:
        TypeError: Missing or unexpected arguments, or another kind of data.
    """
    signature = inspect.signature(model)
    accepted = {
        name
        for name, p in signature.parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    unnamed = [
        f"argument {name!r} can only be passed by position: give it a name"
        for name, p in signature.parameters.items()
        if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)
    ]
    if unnamed:
        raise TypeError(_report(f"the model takes {signature}", unnamed))
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if data is None:
        data = {}
    if isinstance(data, tuple):
        try:
            bind = signature.bind_partial if partial else signature.bind
            return dict(bind(*data).arguments)
        except TypeError as error:
            raise TypeError(
                f"the model {signature} cannot take {len(data)} positional "
                f"arguments: {error}"
            ) from None
    if hasattr(data, "columns"):
        wanted = [c for c in data.columns if c in accepted or takes_any]
        data = {str(c): np.asarray(data[c]) for c in wanted}
    if not isinstance(data, Mapping):
        raise TypeError(
            f"data must be a mapping of the model's arguments, a data frame or a "
            f"tuple; found {type(data).__name__}. Type bbvi.fit(model, "
            f"{{'name': value, ...}})"
        )
    required = {
        name
        for name in accepted
        if signature.parameters[name].default is inspect.Parameter.empty
    }
    problems = [
        f"argument {name!r} is missing from data"
        for name in sorted(required - set(data))
        if not partial
    ]
    if not takes_any:
        problems += [
            f"data has {name!r}, which the model does not take"
            for name in sorted(set(map(str, data)) - accepted)
        ]
    if problems:
        raise TypeError(_report(f"the model takes {signature}", problems))
    return dict(data)


def _is_none(value: Any) -> bool:
    return value is None


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, jax.Array))


def _to_array(value: Any) -> Any:
    """(Nested) lists of numbers as in JSON, and columns, become arrays."""
    if hasattr(value, "to_numpy") and not hasattr(value, "columns"):
        return value.to_numpy()
    if not isinstance(value, list) or not value:
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return value
    return array if array.dtype.kind in "biuf" else value


def _unread_lists(name: str, value: Any) -> list[str]:
    """Problems of lists of numbers that `_to_array` could not read."""
    problems = []
    for leaf in jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, list)):
        parts = [*_parts(leaf)] if isinstance(leaf, list) else []
        others = [x for x in parts if not isinstance(x, Number)]
        if len(others) == len(parts):  # names, arrays or records
            continue
        if others:
            kind = type(others[0]).__name__.removesuffix("Type")
            found = f"has {kind} among its numbers"
            remedy = "put a number there, with a mask for numpyro.handlers.mask"
        elif any(isinstance(x, complex) for x in parts):
            found = "has complex numbers"
            remedy = "pass their real and imaginary parts"
        elif max(map(abs, parts)) >= 2**63:
            found = "has integers of more than 64 bits"
            remedy = "pass floats"
        else:
            found = "has rows that differ in length"
            remedy = "pad them, with a mask for numpyro.handlers.mask"
        problems.append(
            f"argument {name!r} is a list that {found}: {remedy}, or pass a tuple, "
            f"whose values the model sees as they are"
        )
    return problems


def _parts(value: Any) -> Iterator[Any]:
    """What nested lists and tuples hold."""
    if not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from _parts(part)


def _canonical(value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    array = np.asarray(value)
    with np.errstate(over="ignore"):  # `_bad_values` reports it
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _bad_values(name: str, value: Any) -> list[str]:
    problems = []
    for leaf in jax.tree.leaves(value):
        if np.ma.is_masked(leaf):
            problems.append(
                f"argument {name!r} is a masked array, whose mask would be lost: pass "
                f"x.filled(0), and ~x.mask to numpyro.handlers.mask"
            )
        array = np.asarray(leaf)
        if array.dtype.kind not in "biuf":
            what = "numbers, or codes for categories"
            what = "real and imaginary parts" if array.dtype.kind == "c" else what
            problems.append(f"argument {name!r} has dtype {array.dtype}: pass {what}")
            continue
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            problems.append(
                f"argument {name!r} has {len(bad)} values that are NaN or infinite, "
                f"the first at index {_first(bad)}: drop them, or put any finite "
                f"number there and pass a mask to numpyro.handlers.mask"
            )
            continue
        kept = _canonical(array)
        if kept.dtype == array.dtype:
            continue
        lost = np.isinf(kept) if array.dtype.kind == "f" else kept != array
        bad = np.argwhere(lost)
        if len(bad):
            problems.append(
                f"argument {name!r} has {len(bad)} values that {kept.dtype} cannot "
                f"hold, the first at index {_first(bad)}: change its units or offset, "
                f"or type jax.config.update('jax_enable_x64', True)"
            )
    return problems


def _first(places: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in places[0])


def _report(head: str, problems: list[str]) -> str:
    return f"{head}:\n" + "\n".join(f"  - {problem}" for problem in problems)
