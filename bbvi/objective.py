"""`loss`: one Monte-Carlo estimate of the negative ELBO with sound gradients.

Everything here is pure and runs inside the compiled program. `Objective` draws the
particles, which share a minibatch, and adds to the bound, for the gradient only, the
surrogates of the sites that are not differentiated through.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.lax import stop_gradient
from numpyro import handlers
from numpyro.distributions.distribution import MaskedDistribution

from bbvi._types import BATCH_STREAM, MODEL_STREAM, Array, Data, Key, Params, Values
from bbvi.analysis.tracing import (
    Trace,
    log_density,
    refine,
    run,
    scaled,
    unmask,
)
from bbvi.analysis.windows import colours
from bbvi.estimators import LocalExpectation, Reparameterized, ScoreFunction
from bbvi.estimators.score import in_blocks, leave_one_out, reached_cost
from bbvi.estimators.summation import model_terms
from bbvi.joint import GUIDE_TERM, constrain, run_guide
from bbvi.nodes import entropy
from bbvi.planning import Plan

Costs = dict[str, Array]


class Info(NamedTuple):
    """What a loss saw.

    Attributes:
        elbo: The bound's estimate, the mean over particles.
        terms: Mean sum of every cost term by name.
        costs: Mean over particles of the costs that each score site reaches.
    """

    elbo: Array
    terms: Costs
    costs: Costs


class _Particle(NamedTuple):
    elbo: Array
    surrogate: Array
    terms: Costs
    scores: Costs
    costs: Costs


@dataclass(frozen=True)
class Objective:
    """The negative ELBO of a plan; what `bbvi.loss` returns.

    Attributes:
        plan: The plan.
    """

    plan: Plan

    def __call__(
        self,
        params: Params,
        key: Key,
        data: Data,
        baselines: Costs | None = None,
    ) -> tuple[Array, Info]:
        """Return ``(value, info)``.

        Args:
            params: Unconstrained, as from ``plan.init``.
            key: Of the minibatch and the particles.
            data: The model's arguments, at the shapes of the plan.
            baselines: With one particle, what to subtract from the costs of each score
                site: anything that does not depend on ``key``, such as a running
                average of ``info.costs``. With more, the particles are each other's.
        """
        constrained = constrain(self.plan.parameters, params)
        return self.at(constrained, key, data, baselines)

    def at(
        self,
        constrained: Params,
        key: Key,
        data: Data,
        baselines: Costs | None = None,
    ) -> tuple[Array, Info]:
        """``(value, info)`` at constrained values of the parameters."""
        plan = self.plan
        kwargs = plan.analysis.arguments.bind(data)
        given = {**constrained, **minibatch(plan, key)}

        def particle(key: Key) -> _Particle:
            return _run_particle(plan, kwargs, key, given)

        if plan.num_particles == 1:
            seen = jax.tree.map(lambda x: x[None], particle(key))
        else:
            seen = jax.vmap(particle)(jax.random.split(key, plan.num_particles))
        surrogate = jnp.mean(seen.surrogate)
        for name, log_q in seen.scores.items():
            cost = stop_gradient(seen.costs[name])
            if plan.num_particles > 1:
                baseline = leave_one_out(cost)
            else:
                baseline = (baselines or {}).get(name, 0.0)
            surrogate += jnp.sum(log_q * (cost - baseline)) / plan.num_particles
        elbo = jnp.mean(seen.elbo)
        value = -(elbo + (surrogate - stop_gradient(surrogate)))
        info = Info(elbo, _mean(seen.terms), _mean(seen.costs))
        return value, stop_gradient(info)


def loss(plan: Plan) -> Objective:
    """The negative ELBO of a plan as a pure function, for one's own loop.

    ``loss(params, key, data) -> (value, info)``; `jax.jit`, `jax.grad` and `jax.vmap`
    work on it. The gradient of ``value`` is an unbiased estimate of the gradient of
    the negative ELBO; ``info.elbo`` is the bound itself.

    Args:
        plan: From `bbvi.plan`; ``params = plan.init(key)`` starts it.

    Returns:
        The loss.

    Example:
        >>> import bbvi, jax, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> data = {"y": 0.5}
        >>> plan = bbvi.plan(model, data)
        >>> params = plan.init(jax.random.key(0))
        >>> gradient, info = jax.grad(bbvi.loss(plan), has_aux=True)(
        ...     params, jax.random.key(1), data)
        >>> sorted(gradient)
        ['mu.loc', 'mu.scale']
    """
    return Objective(plan)


def _mean(costs: Costs) -> Costs:
    return {name: jnp.mean(cost, 0) for name, cost in costs.items()}


def model_stream(plan: Plan, key: Key) -> Key:
    """Key of a model's own draws; no work where it makes none."""
    if not plan.analysis.draws_itself:
        return key
    return jax.random.fold_in(key, MODEL_STREAM)


def minibatch(plan: Plan, key: Key) -> Values:
    """Indices of the subsampled plates, one draw for all particles."""
    indices: Values = {}
    if not plan.analysis.subsampled:
        return indices
    key = jax.random.fold_in(key, BATCH_STREAM)
    with handlers.block(), handlers.seed(rng_seed=key):
        for plate in plan.analysis.subsampled.values():
            with numpyro.plate(plate.name, plate.size, plate.subsample_size) as index:
                indices[plate.name] = index
    return indices


def _run_particle(plan: Plan, kwargs: Any, key: Key, given: Values) -> _Particle:
    guide_key, model_key = key, model_stream(plan, key)
    scored = plan.sites_of(ScoreFunction)
    guide = run_guide(plan.program, kwargs, guide_key, given, scored)
    draws = {name: guide[name]["value"] for name in plan.nodes}
    values = {**given, **draws}
    analysis = plan.analysis
    terms, model = model_terms(analysis, plan.groups, kwargs, model_key, values)
    reached = {term: found for term, found in plan.influence.items() if term in terms}
    surrogate = jnp.zeros(())
    for name in plan.sites_of(LocalExpectation):

        def evaluate(value: Array, name: str = name) -> Costs:
            changed = {**values, name: value}
            found, _ = model_terms(analysis, plan.groups, kwargs, model_key, changed)
            return {t: found[t] for t in reached if name in reached[t]}

        surrogate += _local_expectation(plan, name, guide[name], model, terms, evaluate)
    landing = _landing(plan, kwargs, guide_key, given, draws)
    for name in plan.nodes:
        term = _guide_term(plan, name, guide, model, landing)
        terms[GUIDE_TERM.format(name)] = term
    scores, costs = {}, {}
    for name in scored:
        fn = unmask(refine(guide[name]["fn"]))
        scores[name] = fn.log_prob(draws[name])
        shape = jnp.shape(scores[name])
        reach = {t: f[name] for t, f in plan.influence.items() if name in f}
        own = (name, GUIDE_TERM.format(name))
        reach = in_blocks(reach, own, jnp.shape(draws[name]))
        costs[name] = sum(reached_cost(terms[t], f, shape) for t, f in reach.items())
    sums = {name: jnp.sum(term) for name, term in terms.items()}
    elbo = sum(sums.values(), start=jnp.zeros(()))
    return _Particle(elbo, surrogate, sums, scores, costs)


def _landing(
    plan: Plan, kwargs: Any, key: Key, given: Values, draws: Values
) -> Trace | None:
    """The guide at the draws with its parameters held, for sticking the landing."""
    if not any(_sticks(plan, name) for name in plan.nodes):
        return None
    held = {**jax.tree.map(stop_gradient, given), **draws}
    guide = run(plan.program, kwargs, key, held)
    return {name: {**site, "intermediates": []} for name, site in guide.items()}


def _sticks(plan: Plan, name: str) -> bool:
    choice = plan.choices.get(name)
    if choice is None:  # the joint draw of several sites sticks if one of them does
        return any(_sticks(plan, other) for other in plan.choices)
    estimator = choice.estimator
    return isinstance(estimator, Reparameterized) and estimator.stick_the_landing


def _guide_term(
    plan: Plan, name: str, guide: Trace, model: Trace, landing: Trace | None
) -> Array:
    """What a statement of the guide adds to the bound: ``-log q``, or the entropy."""
    site = guide[name]
    choice = plan.choices.get(name)
    pathwise = choice is None or isinstance(choice.estimator, Reparameterized)
    mirrored = plan.guide.mirrors_model and name in model
    masked = mirrored and isinstance(model[name]["fn"], MaskedDistribution)
    known = None if masked else entropy(site)
    if not pathwise:
        term = -stop_gradient(log_q_of(site, model.get(name) if masked else None))
    elif landing is not None and _sticks(plan, name):
        term = -log_q_of(landing[name], model.get(name) if masked else None)
    elif known is not None:
        term = known
    else:
        term = -log_q_of(site, model.get(name) if masked else None)
    return scaled(term, model[name] if mirrored else site)


def log_q_of(site: Any, masking: Any) -> Array:
    """Log density of a statement of the guide, under the mask of the model's site."""
    if masking is None:
        return log_density(site)
    mask = copy(masking["fn"])
    mask.base_dist = site["fn"]
    return mask.log_prob(site["value"])


def _local_expectation(
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
