"""What summed and scored sites add to the bound, for the gradient only.

Their surrogates have the right gradient and no meaning as numbers; `bbvi.objective`
adds their derivatives alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from numpyro.distributions.distribution import MaskedDistribution

from bbvi._types import COUPLING_STREAM, Array, Key, Values
from bbvi.analysis.colouring import colours, coupled_axes
from bbvi.analysis.tracing import Trace, factor, log_q_of, scaled, unmask
from bbvi.choosing import rows_of
from bbvi.estimators import (
    Antithetic,
    DoubleControl,
    LearnedBaseline,
    OptimalScale,
    ScoreFunction,
    SumAndSample,
)
from bbvi.estimators.antithetic import coupled_uniforms
from bbvi.estimators.controls import ControlVariate, Scored, squared_score
from bbvi.estimators.enumerating import likely_values
from bbvi.estimators.regression import predictions, row_axis
from bbvi.estimators.score import in_blocks, reached_cost
from bbvi.guides.base import subsampled_axes
from bbvi.joint import GUIDE_TERM
from bbvi.planning import Plan

Costs = dict[str, Array]


def controls(plan: Plan) -> dict[str, ControlVariate]:
    """The control variate of every scored site."""
    return {
        name: plan.choices[name].estimator.control(plan.num_particles)
        for name in plan.sites_of(ScoreFunction)
    }


def uniforms(plan: Plan, key: Key) -> Values:
    """Numbers from which coupled sites are drawn, ``(num_particles, *shape)`` each."""
    names = [n for n, c in controls(plan).items() if isinstance(c, Antithetic)]
    found: Values = {}
    if not names:
        return found
    key = jax.random.fold_in(key, COUPLING_STREAM)
    for name, own in zip(names, jax.random.split(key, len(names)), strict=True):
        shape = plan.nodes[name].shape
        reached = [f[name] for f in plan.influence.values() if name in f]
        coupled = coupled_axes(reached, shape)
        found[name] = coupled_uniforms(own, shape, plan.num_particles, coupled)
    return found


class Draw(NamedTuple):
    """Guide and model of one particle.

    Attributes:
        plan: The plan.
        guide: Trace of the guide.
        model: Trace of the model at the guide's draws.
        terms: Cost terms of the model.
        again: Those terms where some of the draws are changed.
    """

    plan: Plan
    guide: Trace
    model: Trace
    terms: Costs
    again: Callable[[Values], Costs]

    def own_term(self, name: str, site: Mapping[str, Any]) -> Array:
        """``-log q`` of a statement of the guide, with the model's plates and mask."""
        mirrored = self.plan.guide.mirrors_model and name in self.model
        masking = self.model[name] if mirrored else None
        if masking is not None and not isinstance(masking["fn"], MaskedDistribution):
            masking = None
        return self.repeated(name, -log_q_of(site, masking))

    def repeated(self, name: str, term: Array) -> Array:
        """A term of q for all elements that those seen stand for.

        `handlers.scale` around the model is part of the posterior, not of q.
        """
        if self.plan.guide.mirrors_model and name in self.model:
            repeats = self.plan.analysis.plate_scale(name)
            return term if repeats == 1 else term * repeats
        return scaled(term, self.guide[name])

    def reach(self, name: str, terms: Costs) -> Array:
        """The model's terms that each element of a site reaches."""
        shape = jnp.shape(self.guide[name]["value"])
        influence = self.plan.influence
        found = [
            reached_cost(terms[t], influence[t][name], shape) for t in self.on(name)
        ]
        return jnp.broadcast_to(sum(found), shape)

    def on(self, name: str) -> list[str]:
        """Terms of the model that a site reaches."""
        return [t for t in self.terms if name in self.plan.influence.get(t, ())]


def scored_site(draw: Draw, name: str, terms: Costs) -> Scored:
    """What one particle sees of a scored site.

    Args:
        draw: The particle.
        name: Of the site.
        terms: Cost terms of model and guide.
    """
    plan, site = draw.plan, draw.guide[name]
    fn, value = unmask(factor(site)), site["value"]
    log_q = fn.log_prob(value)
    shape = jnp.shape(log_q)
    control = controls(plan)[name]
    if isinstance(control, SumAndSample):
        return _partly_summed(draw, name, log_q, control.num_values)
    reach = {t: f[name] for t, f in plan.influence.items() if name in f}
    reach = in_blocks(reach, (name, GUIDE_TERM.format(name)), jnp.shape(value))
    cost = sum(reached_cost(terms[t], f, shape) for t, f in reach.items())
    seen = Scored(log_q, stop_gradient(cost))
    if isinstance(control, Antithetic):
        seen = seen._replace(probs=stop_gradient(jnp.broadcast_to(fn.mean, shape)))
    if isinstance(control, OptimalScale):
        seen = seen._replace(weight=squared_score(fn, value))
    if isinstance(control, DoubleControl):
        relaxed = value.astype(log_q.dtype)
        mean = jnp.broadcast_to(fn.mean, shape)
        slope = _slope(draw, name, relaxed)
        seen = seen._replace(value=relaxed, mean=mean, slope=slope)
    return seen


def _slope(draw: Draw, name: str, relaxed: Array) -> Array:
    """Gradient of the costs in the relaxed value of a site."""

    def total(relaxed: Array) -> Array:
        terms = draw.again({name: relaxed})
        own = draw.own_term(name, {**draw.guide[name], "value": relaxed})
        return sum((jnp.sum(terms[t]) for t in draw.on(name)), jnp.sum(own))

    return stop_gradient(jax.grad(total)(relaxed))


def _partly_summed(draw: Draw, name: str, log_q: Array, number: int) -> Scored:
    site, node = draw.guide[name], draw.plan.nodes[name]
    fn, value = unmask(factor(site)), site["value"]
    values = likely_values(node.site, fn, jnp.shape(value), number)
    both = jnp.concatenate([value[None], values])
    costs = stop_gradient(_costs_at(draw, name, both))
    return Scored(
        log_q,
        costs[0],
        costs=costs[1:],
        log_probs=jax.vmap(fn.log_prob)(values),
        is_summed=jnp.any(values == value, 0),
    )


def score_surrogate(
    plan: Plan,
    seen: dict[str, Scored],
    baselines: Costs | None,
    kwargs: Mapping[str, Any],
    indices: Values,
) -> Array:
    """Sum over scored sites, of what all particles saw.

    Args:
        plan: The plan.
        seen: By all particles.
        baselines: Running averages of costs.
        kwargs: The model's arguments.
        indices: Of the subsampled plates.
    """
    total = jnp.zeros(())
    for name, control in controls(plan).items():
        scored = seen[name]
        if baselines and name in baselines:
            scored = scored._replace(baseline=baselines[name])
        if isinstance(control, LearnedBaseline):
            features = kwargs[control.features]
            learned = _learned(plan, name, features, scored.cost, indices)
            scored = scored._replace(baseline=learned)
        if isinstance(control, DoubleControl):
            rows = rows_of(plan.analysis, plan.nodes[name], plan.influence)
            axes = tuple(axis for axis, number in enumerate(rows) if number)
            scored = scored._replace(rows=axes)
        if scored.probs is not None:  # the same in all particles
            scored = scored._replace(probs=scored.probs[0])
        total += control.surrogate(scored)
    return total


def _learned(
    plan: Plan, name: str, features: Array, cost: Array, indices: Values
) -> Array:
    """`LearnedBaseline` of every particle."""
    node, analysis = plan.nodes[name], plan.analysis
    axis = row_axis(rows_of(analysis, node, plan.influence), features.shape)
    plates = subsampled_axes(analysis, analysis.latents.get(name) or node.as_site())
    if axis in plates:
        features = jnp.take(features, indices[plates[axis]], 0)

    def learned(cost: Array) -> Array:
        return jnp.moveaxis(predictions(features, jnp.moveaxis(cost, axis, 0)), 0, axis)

    return jax.vmap(learned)(cost)


def local_expectation(draw: Draw, name: str) -> Array:
    """Surrogate whose gradient is that of a site's exact sum under q.

    Value ``r`` lies ``r`` steps beyond the draw, so that the draw itself is the known
    first entry.
    """
    finite = draw.plan.analysis.sites[name].values
    site, value = draw.guide[name], draw.guide[name]["value"]
    num_values, low = len(finite), int(finite[0])
    steps = jnp.arange(num_values).reshape(-1, *(1,) * jnp.ndim(value))
    values = ((value - low + steps) % num_values + low).astype(value.dtype)
    log_q = jax.vmap(unmask(factor(site)).log_prob)(values)
    return jnp.sum(jnp.exp(log_q) * stop_gradient(_costs_at(draw, name, values)))


def _costs_at(draw: Draw, name: str, values: Array) -> Array:
    """What each element of a site costs at several values, ``(number, *shape)``.

    The first is the draw itself, whose costs are known. Elements of one colour share
    no cost and are changed together.
    """
    site = draw.guide[name]
    value, shape = site["value"], jnp.shape(site["value"])
    found = [draw.plan.influence[t][name] for t in draw.on(name)]
    colouring = colours(found, shape)
    each = np.arange(colouring.number).reshape(-1, *(1,) * len(shape))
    own = jnp.asarray(colouring.of(shape) == each)

    def changed(step: Array) -> Array:
        def at(chosen: Array) -> Array:
            terms = draw.again({name: jnp.where(chosen, step, value)})
            return jnp.where(chosen, draw.reach(name, terms), 0)

        return jnp.sum(jax.vmap(at)(own), 0)

    rest = jax.vmap(changed)(values[1:])
    costs = jnp.concatenate([draw.reach(name, draw.terms)[None], rest])
    log_q = jax.vmap(unmask(factor(site)).log_prob)(values)
    mirrored = draw.plan.guide.mirrors_model
    masking = draw.model[name] if mirrored else site
    own_cost = -draw.repeated(name, log_q)
    if unmask(masking["fn"]) is not masking["fn"]:
        masked = mirrored and isinstance(masking["fn"], MaskedDistribution)
        kept = log_q_of(site, masking if masked else None) != 0
        extra = range(1 + jnp.ndim(kept), jnp.ndim(own_cost))
        own_cost = own_cost * jnp.expand_dims(kept, [axis - 1 for axis in extra])
    return costs + own_cost
