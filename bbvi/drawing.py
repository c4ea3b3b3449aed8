"""Draws of q with their log densities, on the full data.

Pure, as `bbvi.objective` is. Sites that were summed out of the model are drawn from
their exact conditional.
"""

import warnings
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
from bbvi.estimators.summation import MARGINAL, model_terms, value_table
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
        {**analysis.arguments.static, **analysis.arguments.arrays},
    )
    names = tuple(name for name in full.latents if name not in plan.marginalized)
    program = with_full_plates(plan.guide.program(full, names), analysis)
    return replace(plan, analysis=full, program=program)


def draw(plan: Plan, params: Params, key: Key, data: Data, *, values: bool) -> Draw:
    """One draw of q with its log densities.

    Args:
        plan: Over whole plates, see `whole`.
        params: Unconstrained parameters.
        key: Of the draw.
        data: The model's arguments.
        values: Whether to return the sites' values; sites that were summed out are
            then drawn from their exact conditional, one after the other.

    Returns:
        The draw.
    """
    guide_key, model_key = key, model_stream(plan, key)
    kwargs = plan.analysis.arguments.bind(data)
    constrained = constrain(plan.parameters, params)
    guide = run_guide(plan.program, kwargs, guide_key, constrained)
    draws = {name: guide[name]["value"] for name in plan.nodes}
    given = {**constrained, **draws}
    terms, model = model_terms(
        plan.analysis, plan.marginalized, kwargs, model_key, given
    )
    log_p = sum(map(jnp.sum, terms.values()), start=jnp.zeros(()))
    log_q = jnp.zeros(())
    for name in plan.nodes:
        masked = plan.guide.mirrors_model and name in model
        masked = masked and isinstance(model[name]["fn"], MaskedDistribution)
        log_q += jnp.sum(log_q_of(guide[name], model[name] if masked else None))
    if not values:
        return Draw({}, log_p, log_q, {})
    if plan.marginalized:
        key = jax.random.fold_in(key, CONDITIONAL_STREAM)
    for name in plan.marginalized:
        others = {n: _first(plan, n) for n in plan.marginalized if n not in given}
        table = value_table(plan.analysis, name, kwargs, model_key, {**others, **given})
        key, this = jax.random.split(key)
        site = plan.analysis.sites[name]
        index = jax.random.categorical(this, table, axis=0)
        given[name] = jnp.asarray(site.values, site.dtype)[index]
    model = run(plan.analysis.model, kwargs, model_key, given)
    wanted = [n for n, s in plan.analysis.sites.items() if s.kind in _SHOWN]
    shown = {n: model[n]["value"] for n in wanted}
    return Draw(shown, log_p, log_q, _log_likelihood(plan, model, terms))


def _log_likelihood(plan: Plan, model: Trace, terms: Values) -> Values:
    analysis = plan.analysis
    found = {}
    for name in analysis.of_kind("observed"):
        term = log_density(model[name])
        for summed in plan.marginalized:
            total = terms[MARGINAL.format(summed)]
            alone = analysis.children(summed) == [summed, name]
            if alone and total.shape == term.shape:
                entries = analysis.influence[name][summed]
                in_place = (e in (None, (a, 0, 0)) for a, e in enumerate(entries))
                term = total if all(in_place) else term
        found[name] = term
    return found


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


def _first(plan: Plan, name: str) -> Array:
    site = plan.analysis.sites[name]
    return jnp.full(site.shape, site.values[0], site.dtype)
