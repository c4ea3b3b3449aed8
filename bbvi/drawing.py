"""Draws of q with their log densities, on the full data.

Pure, as `bbvi.objective` is. Sites that were summed out of the model are drawn from
their exact joint conditional.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions.distribution import MaskedDistribution

from bbvi._types import (
    CONDITIONAL_STREAM,
    Array,
    Data,
    Key,
    Params,
    Values,
)
from bbvi.analysis import analyze
from bbvi.analysis.reading import draw_improper
from bbvi.analysis.tracing import Trace, log_density, log_q_of, run
from bbvi.estimators.elimination import eliminate
from bbvi.estimators.summation import draw_summed, model_terms
from bbvi.estimators.tables import factor_tables
from bbvi.guides import FullRank
from bbvi.guides.gaussian import JOINT
from bbvi.joint import constrain, run_guide, with_full_plates
from bbvi.objective import model_stream
from bbvi.planning import Plan


class Draw(NamedTuple):
    """One draw of q, or many along a leading axis.

    Attributes:
        values: Latents, deterministics and their values; discrete ones too.
        log_p: Log joint, sites that were summed out summed.
        log_q: Log density of q.
        log_likelihood: Unsummed log density of every observed site; a site that was
            summed out on its own with one observation each is summed here too.
    """

    values: Values
    log_p: Array
    log_q: Array
    log_likelihood: Values


def whole(plan: Plan) -> Plan:
    """The plan over all elements of its subsampled plates."""
    analysis = plan.analysis
    if not analysis.subsampled:
        return plan
    full = analyze(
        with_full_plates(analysis.model, analysis),
        analysis.arguments.join(analysis.arguments.arrays),
    )
    names = tuple(name for name in full.latents if name not in plan.marginalized)
    program = with_full_plates(plan.guide.program(full, names), analysis)
    groups = eliminate(full, plan.marginalized)
    return replace(plan, analysis=full, program=program, groups=groups)


def draw(plan: Plan, params: Params, key: Key, data: Data, *, values: bool) -> Draw:
    """One draw of q with its log densities.

    Args:
        plan: Over whole plates, see `whole`.
        params: Unconstrained parameters.
        key: Of the draw.
        data: The model's arguments.
        values: Whether to return the sites' values; sites that were summed out are
            then drawn from their exact joint conditional.

    Returns:
        The draw.
    """
    guide_key, model_key = key, model_stream(plan, key)
    kwargs = plan.analysis.arguments.bind(data)
    constrained = constrain(plan.parameters, params)
    guide = run_guide(plan.program, kwargs, guide_key, constrained)
    draws = {name: guide[name]["value"] for name in plan.nodes}
    given = {**constrained, **draws}
    model_at = plan.analysis, plan.groups, kwargs, model_key, given
    tables = factor_tables(*model_at)
    terms, model = model_terms(*model_at, tables)
    log_p = sum(map(jnp.sum, terms.values()), start=jnp.zeros(()))
    log_q = jnp.zeros(())
    for name in plan.nodes:
        masked = plan.guide.mirrors_model and name in model
        masked = masked and isinstance(model[name]["fn"], MaskedDistribution)
        log_q += jnp.sum(log_q_of(guide[name], model[name] if masked else None))
    if not values:
        return Draw({}, log_p, log_q, {})
    if plan.groups:
        own_key = jax.random.fold_in(key, CONDITIONAL_STREAM)
        given |= draw_summed(plan.analysis, plan.groups, tables, own_key)
        model = run(plan.analysis.model, kwargs, model_key, given)
    wanted = [n for n, s in plan.analysis.sites.items() if s.kind in _SHOWN]
    shown = {n: model[n]["value"] for n in wanted}
    return Draw(shown, log_p, log_q, _log_likelihood(plan, model, terms))


def _log_likelihood(plan: Plan, model: Trace, terms: Values) -> Values:
    analysis = plan.analysis
    found = {}
    for name in analysis.of_kind("observed"):
        is_known = name in terms and model[name]["scale"] is None
        term = terms[name] if is_known else log_density(model[name])
        for group in plan.groups:
            if group.factors.keys() == {*group.sites, name} and group.chain is None:
                total, factor = terms[group.term], group.factors[name]
                numbers = dict(zip(factor.axes, factor.numbers, strict=True))
                in_place = [numbers.get(a) for a in range(jnp.ndim(term))]
                if total.shape == term.shape and in_place == [*group.axes[group.last]]:
                    term = total
        found[name] = term
    return found


def log_joint(
    plan: Plan,
    names: tuple[str, ...],
    params: Params,
    data: Data,
    key: Key | None = None,
) -> Callable[[Array], tuple[Array, Values]]:
    """Log joint, and values, as functions of one unconstrained vector.

    Args:
        plan: Over whole plates; all its latents are continuous or summed out.
        names: The continuous sites, in the order of the vector.
        params: For the model's own parameters.
        data: The model's arguments.
        key: Of random numbers that the model draws itself.
    """
    analysis, kwargs = plan.analysis, plan.analysis.arguments.bind(data)
    own = constrain(analysis.parameters, params)
    family = plan.guide if isinstance(plan.guide, FullRank) else FullRank()
    program = family.placing(analysis, names)
    key = jax.random.key(0) if key is None else key

    def of(vector: Array) -> tuple[Array, Values]:
        placed = run(program, kwargs, key, {**own, JOINT: vector})
        values = {name: placed[name]["value"] for name in names}
        terms, _ = model_terms(analysis, plan.groups, kwargs, key, {**own, **values})
        jacobians = [-jnp.sum(placed[name]["fn"].log_density) for name in names]
        return sum(map(jnp.sum, terms.values())) + sum(jacobians), values

    return of


def predict(plan: Plan, params: Params, key: Key, data: Data, drawn: Values) -> Values:
    """All sites of the model, drawn anew given latents.

    Args:
        plan: The plan; its plates are taken whole, at their size under ``data``.
        params: Unconstrained parameters.
        key: Of the draws.
        data: The model's arguments, not needed to be those of the fit.
        drawn: One draw of latent sites; those that are not among them, or have
            another shape under ``data``, are drawn from the model.

    Returns:
        Values by site, latents included.
    """
    given = constrain(plan.parameters, params)
    model = handlers.uncondition(plan.analysis.model)
    first = run(draw_improper(model), data, key, given)
    for name, site in first.items():
        if site["type"] == "plate":
            given[name] = jnp.arange(site["args"][0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="subsample_size does not match")
        anew = run(draw_improper(model), data, key, given)
        same = {n: x for n, x in drawn.items() if x.shape == anew[n]["value"].shape}
        trace = run(model, data, key, {**given, **same})
    kinds = {n: s.kind for n, s in plan.analysis.sites.items()}
    return {
        name: site["value"]
        for name, site in trace.items()
        if kinds.get(name) in (*_SHOWN, "observed")
    }


_SHOWN = ("latent", "deterministic")


def describe(plan: Plan) -> dict[str, Any]:
    """Names of axes, observed values and constants of a model, as NumPy arrays."""
    analysis = plan.analysis
    dims = {}
    for name, site in analysis.sites.items():
        axes: list[str | None] = [None] * len(site.shape)
        batch_ndim = len(site.shape) - site.event_dim
        for plate in map(analysis.plates.__getitem__, site.plates):
            axes[batch_ndim + plate.dim] = plate.name
        for i, label in enumerate(site.infer.get("event_dims", ())):
            axes[batch_ndim + i] = label
        dims[name] = axes
    arrays = analysis.arguments.arrays
    flat = {
        n: np.asarray(x)
        for n, x in arrays.items()
        if not isinstance(x, (dict, list, tuple))
    }
    observed = {n: flat[a] for n, a in analysis.observed.items() if a in flat}
    constant = {n: x for n, x in flat.items() if n not in analysis.observed.values()}
    return {"dims": dims, "observed": observed, "constant": constant}
