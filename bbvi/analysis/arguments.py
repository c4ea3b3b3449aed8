"""The model's arguments: which are arrays of the compiled program, which are static.

Everything about them that can be wrong is checked here on the host, before a model
is traced or anything compiles.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._types import Data


@dataclass(frozen=True)
class Arguments:
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
        ValueError: Values that are NaN or infinite, all in one message.
    """
    named = _by_name(model, data)
    arrays, static, problems = {}, {}, []
    for name, value in named.items():
        value = np.asarray(value) if type(value) is float else value
        value = jax.tree.map(_to_array, value, is_leaf=lambda x: isinstance(x, list))
        leaves = jax.tree.leaves(value)
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


def _by_name(model: Callable[..., Any], data: Any) -> dict[str, Any]:
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
            return dict(signature.bind(*data).arguments)
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
    except ValueError:
        return value
    return array if array.dtype.kind in "biuf" else value


def _canonical(value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    array = np.asarray(value)
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
        if array.dtype.kind not in "biufc":
            problems.append(
                f"argument {name!r} has dtype {array.dtype}: pass numbers, or codes "
                f"for categories"
            )
            continue
        if array.dtype.kind not in "fc":
            continue
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            problems.append(
                f"argument {name!r} has {len(bad)} values that are NaN or infinite, "
                f"the first at index {where}: drop them, or put any finite number "
                f"there and pass a mask to numpyro.handlers.mask"
            )
    return problems


def _report(head: str, problems: list[str]) -> str:
    return f"{head}:\n" + "\n".join(f"  - {problem}" for problem in problems)
