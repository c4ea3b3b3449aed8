"""Trace a program on abstract values and turn what it did into records.

Errors that a program raises on the way are explained: Python control flow on traced
values, shapes that do not fit, names used twice.
"""

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.errors import (
    ConcretizationTypeError,
    TracerArrayConversionError,
    TracerBoolConversionError,
    TracerIntegerConversionError,
)
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.distribution import MaskedDistribution

from bbvi.analysis.arguments import Arguments
from bbvi.analysis.structure import Parameter, Plate, Site, name_of
from bbvi.analysis.tracing import Trace, has_atoms, kind_of, run, unwrap

_CONTROL_FLOW = (
    TracerBoolConversionError,
    TracerIntegerConversionError,
    TracerArrayConversionError,
    ConcretizationTypeError,
)


def read_parameters(trace: Trace) -> dict[str, Parameter]:
    """The ``numpyro.param`` sites of a trace."""
    return {
        name: Parameter(
            name,
            site["kwargs"].get("constraint", constraints.real),
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)),
                site["value"],
            ),
        )
        for name, site in trace.items()
        if site["type"] == "param"
    }


def moving_constraints(parameters: Mapping[str, Parameter]) -> list[str]:
    """Problems of parameters whose constraint is computed inside the program."""
    return [
        f"parameter {name!r} has a constraint that is computed from latents or from "
        f"the data inside the program: give it a fixed one, and transform its value"
        for name, parameter in parameters.items()
        if any(
            isinstance(leaf, jax.core.Tracer)
            for leaf in jax.tree.leaves(parameter.constraint)
        )
    ]


def read_plates(trace: Trace) -> dict[str, Plate]:
    """The plates of a trace; an unused plate has dim 0.

    Those inside ``scan`` are known by the sites that they hold.
    """
    frames = {
        frame.name: frame
        for site in trace.values()
        for frame in site.get("cond_indep_stack", ())
    }
    plates = {}
    for name, site in trace.items():
        if site["type"] == "plate":
            size, subsample_size = site["args"][0], jnp.shape(site["value"])[0]
            dim = frames[name].dim if name in frames else 0
            plates[name] = Plate(name, int(size), int(subsample_size), dim)
    inside = {n: Plate(n, f.size, f.size, f.dim) for n, f in frames.items()}
    return {**plates, **{n: p for n, p in inside.items() if n not in plates}}


def trace_abstractly(
    program: Callable[..., Any],
    arguments: Arguments,
    reading: Callable[[Trace, Any], Any],
    values: Mapping[str, Any] | None = None,
) -> Any:
    """``reading(trace, arrays)`` of a program run on tracers, with errors explained.

    Args:
        program: Model or guide.
        arguments: Its arguments, of which the arrays are abstract.
        reading: Takes the trace and the tracers of the arrays.
        values: Abstract values of sites.

    Returns:
        What ``reading`` returns; it must not hold tracers.

    Raises:
        ValueError: The program cannot be traced; says why and where.
    """
    found = []
    arrays = arguments.shapes

    def wrapped(arrays: Any, values: Any) -> None:
        drawn = draw_improper(program)
        trace = run(drawn, arguments.join(arrays), jax.random.key(0), values)
        found.append(reading(trace, arrays))

    try:
        jax.eval_shape(wrapped, arrays, dict(values or {}))
    except _CONTROL_FLOW as error:
        raise ValueError(
            f"{name_of(program)} uses the value of a latent or of a data array in "
            f"Python{_line(error, program)}: branches, range() and NumPy calls need "
            f"values, and there are only traced ones. Use jnp.where, jax.lax.cond or "
            f"numpyro.contrib.control_flow.scan; pass sizes as ints or read them off "
            f"array shapes"
        ) from error
    except AssertionError as error:
        if "unique names" in str(error):
            raise ValueError(f"{name_of(program)}: {error}: rename one site") from error
        raise ValueError(_failed(program, error, arrays)) from error
    except Exception as error:
        raise ValueError(_failed(program, error, arrays)) from error
    return found[0]


def draw_improper(program: Callable[..., Any]) -> Callable[..., Any]:
    """Give a feasible value to sites that cannot be sampled (improper priors)."""

    def feasible(message: dict[str, Any]) -> Any:
        if message["type"] != "sample" or message["is_observed"]:
            return None
        fn = message["fn"]
        if type(unwrap(fn)).__name__ != "ImproperUniform":
            return None
        return fn.support.feasible_like(jnp.zeros(fn.shape()))

    return handlers.substitute(program, substitute_fn=feasible)


def _line(error: BaseException, program: Callable[..., Any]) -> str:
    """Where in the program's own file an error arose."""
    try:
        source = inspect.getsourcefile(inspect.unwrap(program))
    except TypeError:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source]
    return f" at line {own[-1].lineno} ({own[-1].line})" if own else ""


def _failed(program: Callable[..., Any], error: BaseException, arrays: Any) -> str:
    shapes = {n: jax.tree.map(jnp.shape, x) for n, x in arrays.items()}
    return (
        f"{name_of(program)} cannot be run with arrays of shapes {shapes}"
        f"{_line(error, program)}{_place(error)}: {type(error).__name__}: {error}"
    )


def _place(error: BaseException) -> str:
    """The site and the plate that NumPyro was at when an error arose."""
    found = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        if isinstance(values.get("self"), numpyro.plate):
            found["plate"] = values["self"].name
        for message in (values.get("msg"), values.get("initial_msg")):
            if isinstance(message, dict) and message.get("type") == "sample":
                found["site"] = message["name"]
    return "".join(f", {kind} {name!r}" for kind, name in sorted(found.items()))


def read_deterministic(name: str, message: Mapping[str, Any]) -> Site:
    """The record of a traced deterministic, in those plates that its shape follows."""
    shape = jnp.shape(message["value"])
    plates = tuple(
        frame.name
        for frame in message.get("cond_indep_stack", ())
        if len(shape) >= -frame.dim and shape[frame.dim] == frame.size
    )
    dtype = jnp.result_type(message["value"])
    return Site(name, "deterministic", "", shape, 0, dtype, plates)


def read_site(name: str, message: dict[str, Any]) -> Site:
    """The record of a traced sample statement."""
    fn, kind = message["fn"], kind_of(message)
    scale = message["scale"]
    support = None if kind == "factor" else fn.support
    leaves = jax.tree.leaves(support)
    static = not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    return Site(
        name=name,
        kind=kind,
        distribution=type(unwrap(fn)).__name__,
        shape=tuple(jnp.shape(message["value"])),
        event_dim=fn.event_dim,
        dtype=jnp.result_type(message["value"]),
        plates=tuple(frame.name for frame in message["cond_indep_stack"]),
        support=support if static else _without_bounds(support),
        values=_finite_values(support),
        scale=_number(scale),
        is_masked=isinstance(fn, MaskedDistribution),
        has_atoms=has_atoms(fn),
        has_rsample=bool(fn.has_rsample),
        static_support=static,
        infer=dict(message["infer"]),
    )


def _number(scale: Any) -> float | None:
    if scale is None:
        return 1.0
    return float(scale) if isinstance(scale, (int, float)) else None


def _without_bounds(support: Any) -> Any:
    """A support that depends on other values, kept for its kind alone."""
    return jax.tree.map(
        lambda x: np.zeros(jnp.shape(x)) if isinstance(x, jax.core.Tracer) else x,
        support,
    )


def _finite_values(support: Any) -> np.ndarray | None:
    """The values of a finite discrete support whose bounds are known and equal."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, type(constraints.boolean)):
        return np.arange(2)
    if not isinstance(support, constraints.integer_interval):
        return None
    bounds = (support.lower_bound, support.upper_bound)
    if any(isinstance(bound, jax.core.Tracer) for bound in bounds):
        return None
    low, high = (np.unique(np.asarray(bound)) for bound in bounds)
    if low.size != 1 or high.size != 1:
        return None
    return np.arange(int(low[0]), int(high[0]) + 1)
