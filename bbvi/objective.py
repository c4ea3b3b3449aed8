"""`loss`: one Monte-Carlo estimate of the negative ELBO with sound gradients.

Everything here is pure and runs inside the compiled program. `Objective` draws the
particles, which share a minibatch, and adds to the bound, for the gradient only, the
surrogates of the sites that are not differentiated through.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jax.lax import stop_gradient
from numpyro import handlers
from numpyro.distributions.distribution import MaskedDistribution

from bbvi._keys import beside
from bbvi._types import BATCH_STREAM, MODEL_STREAM, Array, Data, Key, Params, Values
from bbvi.analysis.tracing import Trace, run
from bbvi.estimators import LocalExpectation, Reparameterized, ScoreFunction
from bbvi.estimators.controls import Scored
from bbvi.estimators.summation import model_terms
from bbvi.joint import GUIDE_TERM, constrain, run_guide
from bbvi.nodes import entropy
from bbvi.planning import Plan
from bbvi.surrogates import (
    Draw,
    local_expectation,
    score_surrogate,
    scored_site,
    uniforms,
)

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
    surrogate: Array
    terms: Costs
    scored: dict[str, Scored]


@dataclass(frozen=True, eq=False)  # as a function, it is told apart by what it is
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
            baselines: With `RunningAverage`, what to subtract from the costs of each
                score site: anything that does not depend on ``key``, such as a running
                average of ``info.costs``.
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

        def particle(key: Key, uniforms: Values) -> _Particle:
            return _run_particle(plan, kwargs, key, given, uniforms)

        if plan.num_particles == 1:
            seen = jax.tree.map(lambda x: x[None], particle(key, {}))
        else:
            keys = beside(key, plan.num_particles)
            seen = jax.vmap(particle)(keys, uniforms(plan, key))
        surrogate = jnp.mean(seen.surrogate)
        surrogate += score_surrogate(plan, seen.scored, baselines, kwargs, given)
        terms = {n: jnp.sum(t) / plan.num_particles for n, t in seen.terms.items()}
        elbo = sum(terms.values(), start=jnp.zeros(()))
        value = -(elbo + _slope_alone(surrogate))
        costs = {name: scored.cost for name, scored in seen.scored.items()}
        info = Info(elbo, terms, _mean(costs))
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

    Raises:
        TypeError: It is given anything but a plan.

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
    if not isinstance(plan, Plan):
        raise TypeError(
            f"loss takes a plan, bbvi.loss(bbvi.plan(model, data)); found "
            f"{type(plan).__name__}"
        )
    return Objective(plan)


@jax.custom_jvp
def _slope_alone(x: Array) -> Array:
    """0, with the derivatives of x; x itself is not computed."""
    return jnp.zeros_like(x)


@_slope_alone.defjvp
def _slope_alone_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    return _slope_alone(*primals), *tangents


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


def _run_particle(
    plan: Plan, kwargs: Any, key: Key, given: Values, uniforms: Values
) -> _Particle:
    guide_key, model_key = key, model_stream(plan, key)
    scored = plan.sites_of(ScoreFunction)
    guide = run_guide(plan.program, kwargs, guide_key, given, scored, uniforms)
    draws = {name: guide[name]["value"] for name in plan.nodes}
    values = {**given, **draws}
    analysis = plan.analysis
    terms, model = model_terms(analysis, plan.groups, kwargs, model_key, values)

    def again(changed: Values) -> Costs:
        given = {**values, **changed}
        return model_terms(analysis, plan.groups, kwargs, model_key, given)[0]

    drawn = Draw(plan, guide, model, dict(terms), again)
    surrogate = jnp.zeros(())
    for name in plan.sites_of(LocalExpectation):
        surrogate += local_expectation(drawn, name)
    landing = _landing(plan, kwargs, guide_key, given, draws)
    for name in plan.nodes:
        terms[GUIDE_TERM.format(name)] = _guide_term(drawn, name, landing)
    seen = {name: scored_site(drawn, name, terms) for name in scored}
    return _Particle(surrogate, terms, seen)


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
    is_pathwise = isinstance(estimator, Reparameterized)
    return is_pathwise and estimator.stick_the_landing is True


def _guide_term(draw: Draw, name: str, landing: Trace | None) -> Array:
    """What a statement of the guide adds to the bound: ``-log q``, or the entropy."""
    plan, site = draw.plan, draw.guide[name]
    choice = plan.choices.get(name)
    if choice is not None and not isinstance(choice.estimator, Reparameterized):
        return stop_gradient(draw.own_term(name, site))
    if landing is not None and _sticks(plan, name):
        return draw.own_term(name, landing[name])
    mirrored = plan.guide.mirrors_model and name in draw.model
    masked = mirrored and isinstance(draw.model[name]["fn"], MaskedDistribution)
    known = None if masked else entropy(site)
    if known is None:
        return draw.own_term(name, site)
    return draw.repeated(name, known)
