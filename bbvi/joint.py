"""Guide and model run together: draws of q and what they influence.

`run_guide` draws from q inside a trace, and `joint_influence` walks guide and model as
one program, so that dependence through later draws of the guide is seen.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from bbvi._types import MODEL_STREAM, Array, Key, Params, Values
from bbvi.analysis import Analysis, Parameter
from bbvi.analysis.dependence import influences
from bbvi.analysis.fingerprints import fingerprint
from bbvi.analysis.settling import Program, find_jumps
from bbvi.analysis.structure import Jump
from bbvi.analysis.tracing import (
    Trace,
    log_density,
    run,
    unmasked_density,
)
from bbvi.analysis.windows import Influences, covers, move
from bbvi.estimators.elimination import Group
from bbvi.estimators.implicit import follow, is_implicit
from bbvi.estimators.summation import model_terms
from bbvi.guides.handlers import Couple, Tap
from bbvi.nodes import Node

GUIDE_TERM = "q({})"
"""Name of the cost term that a statement of the guide contributes."""


class _Carry(Messenger):
    """Stop gradients at the named draws, so that their scores alone carry them.

    All other draws carry theirs; where the sampler has none, the implicit one.
    """

    def __init__(self, detached: tuple[str, ...]) -> None:
        super().__init__()
        self.detached = detached

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        detached = msg["name"] in self.detached
        if detached or is_implicit(msg["fn"]):
            draw = jax.lax.stop_gradient(msg["value"])
            msg["value"] = draw if detached else follow(msg["fn"], draw)
            msg["intermediates"] = []


def run_guide(
    program: Callable[..., Any],
    kwargs: Mapping[str, Any],
    key: Key,
    values: Values,
    detached: tuple[str, ...] = (),
    uniforms: Values | None = None,
) -> Trace:
    """A draw of q: the guide's trace, with gradients stopped at ``detached`` draws.

    Bernoulli statements named in ``uniforms`` are drawn from those numbers.
    """
    with Couple(uniforms or {}), _Carry(detached):
        return run(program, kwargs, key, values)


def joint_influence(
    analysis: Analysis,
    program: Callable[..., Any],
    nodes: dict[str, Node],
    parameters: dict[str, Parameter],
    groups: tuple[Group, ...],
    *,
    trusted: bool,
) -> tuple[
    dict[str, Influences],
    dict[str, tuple[str, ...]],
    dict[str, Jump],
    Callable[[], str],
]:
    """Influence of every draw of the guide on every cost term of guide and model.

    Args:
        analysis: Of the model.
        program: The guide.
        nodes: Its statements.
        parameters: Of guide and model.
        groups: Sites that are summed out of the model.
        trusted: Whether the guide's own densities are known not to jump, and its draws
            not to be used before the taps take hold.

    Returns:
        ``{term: {node: influence}}``, for every node the later nodes whose draws it
        feeds (itself too, where that happens inside ``scan``), for nodes along which
        a log density of model or guide jumps where that is, and what finds a
        fingerprint of guide and model together.
    """
    arguments = analysis.arguments

    def outputs(inputs: Any, params: Any, arrays: Any) -> dict[str, Any]:
        key, kwargs = jax.random.key(0), arguments.bind(arrays)
        with Tap(inputs):
            guide = run(program, kwargs, key, params)
        draws = {n: guide[n]["value"] for n in nodes}
        indices = {n: s["value"] for n, s in guide.items() if s["type"] == "plate"}
        values = {**params, **indices, **draws}
        terms, _ = model_terms(analysis, groups, kwargs, key, values)
        for name in nodes:
            terms[GUIDE_TERM.format(name)] = log_density(guide[name])
        looked_at = () if trusted else nodes
        given = run(program, kwargs, key, {**params, **inputs}) if looked_at else {}
        return {
            "direct": {n: unmasked_density(given[n]) for n in looked_at},
            "tapped": {n: unmasked_density(guide[n]) for n in looked_at},
            "terms": terms,
            "values": draws,
        }

    inputs = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in nodes.items()}
    params = {n: p.shape for n, p in parameters.items()}
    closed, shape = jax.make_jaxpr(outputs, return_shape=True)(
        inputs, params, arguments.shapes
    )
    found = influences(closed, jax.tree.flatten({n: n for n in inputs})[0])
    names = [jax.tree.flatten({n: n for n in shape[k]})[0] for k in sorted(shape)]
    found = iter(found)
    direct, tapped, influence, drawn = (
        {n: next(found) for n in group} for group in names
    )
    for name in nodes:
        site, term = analysis.sites.get(name), GUIDE_TERM.format(name)
        if site is not None and site.is_masked:
            ndim = len(site.shape) - site.event_dim
            influence[term] = _on_leading_axes(influence[term], ndim)
    feeds = {
        name: tuple(other for other in nodes if other != name and name in drawn[other])
        for name in nodes
    }
    for name, later in _hidden_feeds(direct, tapped, feeds).items():
        feeds[name] = (*(n for n in nodes if n in later and n != name), name)
        mixed = (None,) * len(nodes[name].shape)
        for term, reaching in influence.items():
            if reaching.keys() & feeds[name]:
                influence[term] = {**reaching, name: mixed}
    jumps = {n: jump for n, jump in analysis.jumps.items() if n in nodes}
    if not trusted:
        sites = {n: node.site for n, node in nodes.items()}
        guide = Program(
            program, arguments, sites, parameters, analysis.plates, unmasked_density
        )
        jumps = {**find_jumps(guide, closed, sorted(nodes), sorted(direct)), **jumps}
    identify = cache(partial(fingerprint, closed, nodes, parameters, groups))
    return influence, feeds, jumps, identify


def _on_leading_axes(influence: Influences, ndim: int) -> Influences:
    """Influence on an array once its axes from ``ndim`` on have been summed."""
    return move(influence, lambda a: a if a < ndim else None)


def _hidden_feeds(
    direct: dict[str, Influences],
    tapped: dict[str, Influences],
    feeds: dict[str, tuple[str, ...]],
) -> dict[str, set[str]]:
    """Draws whose use inside the guide the taps do not see, and what they feed.

    A tap takes hold after a statement; inside ``scan``, and of what it returns, later
    draws use the value before. ``direct`` is the influence of values that are given
    from outside, which reaches there too, so that what it has beyond the taps is
    such a use.
    """
    hidden: dict[str, set[str]] = {}
    for later, found in direct.items():
        for name, axes in found.items():
            known = tapped[later].get(name)
            if known is None or not covers(known, axes):
                hidden.setdefault(name, set()).add(later)
    for later in hidden.values():
        while True:
            more = {n for o in later for n in (*feeds[o], *hidden.get(o, ()))} - later
            if not more:
                break
            later |= more
    return hidden


def relaxing_problem(
    analysis: Analysis,
    nodes: Mapping[str, Node],
    parameters: Mapping[str, Parameter],
    groups: tuple[Group, ...],
    name: str,
) -> str:
    """Why the model takes no fractions at a site, as a clause; empty if it does.

    The model is traced once, and its gradient in the site.
    """
    arguments = analysis.arguments

    def total(relaxed: Any, values: Any, params: Any, arrays: Any) -> Any:
        kwargs, given = arguments.bind(arrays), {**params, **values, name: relaxed}
        terms, _ = model_terms(analysis, groups, kwargs, jax.random.key(0), given)
        return sum(map(jnp.sum, terms.values()))

    values = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in nodes.items()}
    params = {n: parameter.shape for n, parameter in parameters.items()}
    relaxed = jax.ShapeDtypeStruct(nodes[name].shape, jnp.result_type(float))
    try:
        jax.eval_shape(jax.grad(total), relaxed, values, params, arguments.shapes)
    except (TypeError, ValueError, IndexError) as error:
        why = str(error).splitlines()[0]
        return f"the model takes no fractions there ({type(error).__name__}: {why})"
    return ""


def constrain(parameters: dict[str, Parameter], params: Params) -> Params:
    """Constrained values of unconstrained parameters."""
    return {
        name: jax.tree.map(biject_to(parameter.constraint), params[name])
        for name, parameter in parameters.items()
    }


def initial_params(
    model: Callable[..., Any],
    program: Callable[..., Any],
    parameters: dict[str, Parameter],
    kwargs: Mapping[str, Any],
    key: Key,
) -> Params:
    """Initial values that guide and model give their parameters, unconstrained."""
    guide = run(program, kwargs, key, {})
    draws = {
        n: s["value"] for n, s in guide.items() if s["type"] in ("sample", "plate")
    }
    found = guide
    if any(name not in guide for name in parameters):
        key = jax.random.fold_in(key, MODEL_STREAM)
        found = {**run(model, kwargs, key, draws), **guide}
    return unconstrained(parameters, {n: found[n]["value"] for n in parameters})


def unconstrained(parameters: dict[str, Parameter], values: Params) -> Params:
    """Parameters on the real line."""

    def moved(name: str, value: Any) -> Array:
        return biject_to(parameters[name].constraint).inv(jnp.asarray(value))

    return {n: jax.tree.map(partial(moved, n), x) for n, x in values.items()}


def with_full_plates(
    program: Callable[..., Any], analysis: Analysis
) -> Callable[..., Any]:
    """The program over all elements of its subsampled plates."""
    if not analysis.subsampled:
        return program
    indices = {n: jnp.arange(p.size) for n, p in analysis.subsampled.items()}

    def whole(**kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            with handlers.substitute(data=indices):
                return program(**kwargs)

    return whole
