"""`analyze`: trace a model once for its sites and once for its dependence."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from bbvi._types import Key
from bbvi.analysis.arguments import Arguments, read_arguments
from bbvi.analysis.checks import (
    MISDERIVED,
    check_derived,
    hidden_scale,
    misderived,
    outside_support,
    problems_of,
    unobservable,
)
from bbvi.analysis.dependence import influences
from bbvi.analysis.fingerprints import fingerprint
from bbvi.analysis.reading import (
    moving_constraints,
    read_deterministic,
    read_parameters,
    read_plates,
    read_site,
    trace_abstractly,
)
from bbvi.analysis.settling import Program, find_jumps
from bbvi.analysis.structure import Analysis, name_of
from bbvi.analysis.tracing import Trace, kind_of, log_density, run, sample_sites


def analyze(model: Callable[..., Any], data: Any = None) -> Analysis:
    """What a NumPyro model is: sites, plates, cost terms and what depends on what.

    The model is traced abstractly, twice: nothing compiles and nothing runs on a
    device, but for one tiny check if an observation is computed from the data inside
    the model. Where the log density may jump along a continuous site, that is settled
    with numbers, on the CPU, once `Analysis.jumps` is looked at. Cost: two traces of
    the model; settling takes another, one or two compilations, and some thousand
    evaluations.

    Args:
        model: Any NumPyro model, unmodified.
        data: Its arguments: a mapping by name, a data frame, or a tuple.

    Returns:
        The analysis; print it.

    Raises:
        TypeError: Arguments that are missing, unexpected or of a wrong type.
        ValueError: All other problems of model and data, in one message.

    Example:
        >>> import bbvi, numpyro, numpyro.distributions as dist
        >>> def model(y=None):
        ...     mu = numpyro.sample("mu", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
        >>> bbvi.analyze(model, {"y": 0.3}).children("mu")
        ['mu', 'y']
    """
    if not callable(model):
        raise TypeError(
            f"model must be a function with numpyro.sample statements; found "
            f"{type(model).__name__}"
        )
    analysis = examine(model, read_arguments(model, data))
    if not analysis.latents:
        raise ValueError(
            f"{name_of(model)} cannot be fitted:\n  - it has no latent site, so there "
            f"is nothing to infer: every sample statement has obs="
        )
    return analysis


def examine(
    model: Callable[..., Any], arguments: Arguments, *, checked: bool = True
) -> Analysis:
    """`analyze` with its arguments sorted.

    Args:
        model: The model.
        arguments: Its arguments.
        checked: Whether to look for observations outside of their support.
    """
    sites, plates, parameters, observed, unsettled = _read_model(
        model, arguments, checked=checked
    )
    latents = {n: s for n, s in sites.items() if s.kind == "latent"}
    struct = {n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in latents.items()}
    params = {
        n: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), p.shape)
        for n, p in parameters.items()
    }

    moving = [n for n, s in latents.items() if not s.static_support]
    unsafe = [
        n
        for n, s in sites.items()
        if s.distribution == MISDERIVED and not s.static_support
    ]

    def outputs(values: Any, params: Any, arrays: Any, key: Key) -> dict[str, Any]:
        trace = run(model, arguments.bind(arrays), key, {**values, **params})
        return {
            "cost": {n: log_density(s) for n, s in sample_sites(trace).items()},
            "other": {n: s["value"] for n, s in trace.items()},
            "support": {n: jax.tree.leaves(trace[n]["fn"].support) for n in moving},
            "unsafe": {n: jax.tree.leaves(trace[n]["fn"].support) for n in unsafe},
        }

    closed, shape = jax.make_jaxpr(outputs, return_shape=True)(
        struct, params, arguments.shapes, jax.eval_shape(lambda: jax.random.key(0))
    )
    costs, names = sorted(shape["cost"]), sorted(latents)
    flat = influences(closed, names)
    found = jax.tree.unflatten(jax.tree.structure(shape), flat)
    reach = {n: set().union(*leaves) for n, leaves in found["support"].items()}
    _check_derivatives(model, closed, shape, names, params, unsafe)
    if checked:
        check_derived(model, arguments, plates, unsettled)
    program = Program(model, arguments, latents, parameters, plates)
    return Analysis(
        model=model,
        arguments=arguments,
        sites=sites,
        plates=plates,
        parameters=parameters,
        observed=observed,
        influence={n: found["cost"][n] for n in sites if n in found["cost"]},
        bounds={n: tuple(m for m in latents if m in reach[n]) for n in moving},
        settle=cache(lambda: find_jumps(program, closed, names, costs)),
        shapes={n: tuple(x.shape) for n, x in shape["cost"].items()},
        draws_itself=_is_used(closed.jaxpr, closed.jaxpr.invars[-1]),
        identify=cache(partial(fingerprint, closed, sites, plates)),
    )


def _check_derivatives(
    model: Callable[..., Any],
    closed: Any,
    shape: Any,
    latents: list[str],
    params: Any,
    unsafe: list[str],
) -> None:
    """Refuse latents and parameters in bounds that NumPyro differentiates wrongly."""
    if not unsafe:
        return
    inputs = [
        *latents,
        *(f"parameter {i}" for i, _ in enumerate(jax.tree.leaves(params))),
    ]
    found = jax.tree.unflatten(jax.tree.structure(shape), influences(closed, inputs))
    problems = [
        misderived(f"site {name!r}")
        for name, leaves in found["unsafe"].items()
        if any(leaves)
    ]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ValueError(f"{name_of(model)} cannot be fitted:\n{lines}")


def _is_used(jaxpr: Any, variable: Any) -> bool:
    return any(var is variable for eqn in jaxpr.eqns for var in eqn.invars)


def _read_model(
    model: Callable[..., Any], arguments: Arguments, *, checked: bool
) -> tuple[Any, ...]:
    problems: list[str] = []
    unsettled: list[str] = []

    def reading(trace: Trace, arrays: Any) -> Any:
        leaves = zip(
            jax.tree.leaves(arrays), jax.tree.leaves(arguments.arrays), strict=True
        )
        known = {id(t): np.asarray(a) for t, a in leaves if checked}
        named = {id(tracer): name for name, tracer in arrays.items()}
        sites = {}
        for name, message in trace.items():
            if kind_of(message) == "observed" and (why := unobservable(name, message)):
                problems.append(why)
                continue
            if message["type"] == "sample":
                sites[name] = read_site(name, message)
                problems.extend(problems_of(sites[name], message))
                problems.extend(hidden_scale(sites[name], trace))
            elif message["type"] == "deterministic":
                sites[name] = read_deterministic(name, message)
            if kind_of(message) == "observed":
                if id(message["value"]) in named:
                    observed[name] = named[id(message["value"])]
                settled = outside_support(name, message, known) if checked else []
                problems.extend(settled or ())
                if settled is None:
                    unsettled.append(name)
        return sites, read_plates(trace), read_parameters(trace)

    observed: dict[str, str] = {}
    sites, plates, parameters = trace_abstractly(model, arguments, reading)
    if parameters:  # again, so that a support that moves with them is seen to move
        problems.clear()
        unsettled.clear()
        values = {name: parameter.shape for name, parameter in parameters.items()}
        problems.extend(moving_constraints(parameters))
        sites, plates, _ = trace_abstractly(model, arguments, reading, values)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ValueError(f"{name_of(model)} cannot be fitted:\n{lines}")
    return sites, plates, parameters, observed, unsettled
