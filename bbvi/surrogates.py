"""What summed and scored sites add to the bound, for the gradient only.

Their surrogates have the right gradient and no meaning as numbers; `bbvi.objective`
adds each as ``s - stop_gradient(s)``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from numpyro.distributions.distribution import MaskedDistribution

from bbvi._types import COUPLING_STREAM, Array, Key, Values
from bbvi.analysis.tracing import Trace, log_q_of, refine, scaled, unmask
from bbvi.analysis.windows import colours, coupled_axes
from bbvi.estimators import Antithetic, OptimalScale, ScoreFunction
from bbvi.estimators.antithetic import coupled_uniforms
from bbvi.estimators.controls import ControlVariate, Scored, squared_score
from bbvi.estimators.score import in_blocks, reached_cost
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
        coupled = {axis for f in reached for axis in coupled_axes(f, shape)}
        found[name] = coupled_uniforms(own, shape, plan.num_particles, coupled)
    return found


def scored_site(plan: Plan, name: str, site: Any, terms: Costs) -> Scored:
    """What one particle sees of a scored site.

    Args:
        plan: The plan.
        name: Of the site.
        site: Its statement in the guide's trace.
        terms: Cost terms of model and guide.
    """
    fn = unmask(refine(site["fn"]))
    log_q = fn.log_prob(site["value"])
    reach = {t: f[name] for t, f in plan.influence.items() if name in f}
    own = (name, GUIDE_TERM.format(name))
    reach = in_blocks(reach, own, jnp.shape(site["value"]))
    shape = jnp.shape(log_q)
    cost = sum(reached_cost(terms[t], f, shape) for t, f in reach.items())
    control = controls(plan)[name]
    seen = Scored(log_q, stop_gradient(cost))
    if isinstance(control, Antithetic):
        seen = seen._replace(probs=stop_gradient(jnp.broadcast_to(fn.mean, shape)))
    if isinstance(control, OptimalScale):
        seen = seen._replace(weight=squared_score(fn, site["value"]))
    return seen


def score_surrogate(
    plan: Plan, seen: dict[str, Scored], baselines: Costs | None
) -> Array:
    """Sum over scored sites, of what all particles saw."""
    total = jnp.zeros(())
    for name, control in controls(plan).items():
        scored = seen[name]
        if baselines and name in baselines:
            scored = scored._replace(baseline=baselines[name])
        if scored.probs is not None:  # the same in all particles
            scored = scored._replace(probs=scored.probs[0])
        total += control.surrogate(scored)
    return total


def local_expectation(
    plan: Plan, name: str, site: Any, model: Trace, terms: Costs, evaluate: Any
) -> Array:
    """Surrogate whose gradient is that of a site's exact sum under q.

    Elements of one colour share no cost and are changed together; value ``r`` steps
    beyond the draw, so that the draw itself is the known first entry.
    """
    finite = plan.analysis.sites[name].values
    value, shape = site["value"], jnp.shape(site["value"])
    num_values, low = len(finite), int(finite[0])
    found = {t: f[name] for t, f in plan.influence.items() if name in f and t in terms}

    def reach(costs: Costs) -> Array:
        total = sum(reached_cost(costs[t], f, shape) for t, f in found.items())
        return jnp.broadcast_to(total, shape)

    steps = jnp.arange(num_values).reshape(-1, *(1,) * len(shape))
    values = (value - low + steps) % num_values + low
    own = _by_colour(shape, colours(found.values(), shape))

    def flipped(step: Array) -> Array:
        def at(chosen: Array) -> Array:
            return jnp.where(chosen, reach(evaluate(jnp.where(chosen, step, value))), 0)

        return jnp.sum(jax.vmap(at)(own), 0)

    rest = jax.vmap(flipped)(values[1:].astype(value.dtype))
    costs = jnp.concatenate([reach(terms)[None], rest])
    fn = unmask(refine(site["fn"]))
    log_q = jax.vmap(fn.log_prob)(values)
    mirrored = plan.guide.mirrors_model
    own_cost = -scaled(log_q, model[name] if mirrored else site)
    masking = model[name] if mirrored else site
    if unmask(masking["fn"]) is not masking["fn"]:
        masked = mirrored and isinstance(masking["fn"], MaskedDistribution)
        kept = log_q_of({**site, "value": value}, masking if masked else None) != 0
        extra = range(1 + jnp.ndim(kept), jnp.ndim(own_cost))
        own_cost = own_cost * jnp.expand_dims(kept, [axis - 1 for axis in extra])
    return jnp.sum(jnp.exp(log_q) * stop_gradient(costs + own_cost))


def _by_colour(shape: tuple[int, ...], numbers: tuple[int, ...]) -> Array:
    """Masks over a site, one for each colour: ``(prod(numbers), *shape)``."""
    chosen = np.ones((1, *shape), bool)
    for axis, number in enumerate(numbers):
        place = [-1 if a == axis else 1 for a in range(len(shape))]
        turn = (np.arange(shape[axis]) % number).reshape(1, *place)
        each = turn == np.arange(number).reshape(-1, *(1,) * (1 + len(shape)))
        chosen = (chosen & each).reshape(len(chosen) * number, *shape)
    return jnp.asarray(chosen)
