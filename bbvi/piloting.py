"""`pilot`: the control variates of scored sites, compared on the model itself."""

import time
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._counts import read_count
from bbvi._keys import read_key
from bbvi._types import Array, Data, Key, Params
from bbvi.choosing import Choice
from bbvi.estimators import DoubleControl, Estimator, RunningAverage, ScoreFunction
from bbvi.objective import Costs, Objective
from bbvi.planning import Plan, PlanError, make_plan

_REPEATS = 3


class _Trial(NamedTuple):
    """What a gradient costs: its second moment and its seconds."""

    plan: Plan
    moment: float
    seconds: float

    @property
    def work(self) -> float:
        """The least is best; a gradient that is not finite is worst."""
        work = self.moment * self.seconds
        return work if np.isfinite(work) else np.inf

    def __str__(self) -> str:
        return f"E|gradient|^2 {self.moment:.3g} x {self.seconds * 1e6:.3g} us"


def pilot(
    plan: Plan, params: Params | None = None, *, seed: Any = 0, num_gradients: int = 100
) -> Plan:
    r"""The plan with the control variates of its scored sites chosen by measurement.

    Of every control variate that is sound and affordable at a site, that with the least

    $$\hat E |\nabla|^2 \; T$$

    is taken, $\nabla$ the gradient of the loss in its unconstrained parameters, all
    sites together, and $T$ the seconds that it takes. Several scored sites are settled
    one after the other. Which is best may change as the parameters move, so measure at
    those of a fit, too. `LearnedBaseline`, which must be told its features, is not
    tried.

    Args:
        plan: From `bbvi.plan`.
        params: Where to measure, such as ``fit.params``; default ``plan.init``.
        seed: An int or a JAX key.
        num_gradients: Gradients behind each second moment.

    Returns:
        The plan; the reasons of scored sites, and of what they rejected, are the
        figures. ``bbvi.fit(model, data, estimators=plan.estimators)`` fits with it.
        Cost: a compilation and ``4 * num_gradients`` gradients for each control variate
        of each scored site.

    Raises:
        TypeError: Of a wrong type.
        ValueError: ``params`` are not those of the plan, or give no finite
            gradient.

    Example:
        >>> import bbvi, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     z = numpyro.sample("z", dist.Bernoulli(0.3))
        ...     numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)
        >>> asked = {"z": bbvi.estimators.ScoreFunction()}
        >>> plan = bbvi.plan(model, {"y": 1.1}, estimators=asked)
        >>> sorted(bbvi.pilot(plan, num_gradients=10).estimators)
        ['z']

    References:
        Geffner and Domke (2020), A rule for gradient estimator selection, with an
        application to variational inference.
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"pilot takes a plan, bbvi.pilot(bbvi.plan(model, data)); found "
            f"{type(plan).__name__}"
        )
    key = read_key(seed)
    read_count("num_gradients", num_gradients)
    first, second = jax.random.split(key)
    params = plan.init(first) if params is None else params
    if set(params) != set(plan.parameters):
        raise ValueError(
            f"params must be those of the plan, as from plan.init or fit.params, "
            f"{sorted(plan.parameters)}; found {sorted(params)}"
        )
    keys = jax.random.split(second, num_gradients)
    data = jax.device_put(plan.analysis.arguments.arrays)
    for name in plan.sites_of(ScoreFunction):
        if name in plan.analysis.latents:
            plan = _settled(plan, name, partial(_tried, params, keys, data))
    return plan


def _settled(plan: Plan, name: str, tried: Any) -> Plan:
    """The plan with the best control variate of one site."""
    chosen = plan.choices[name].estimator
    extra = ScoreFunction(control_variate=DoubleControl())
    trials: dict[Estimator, _Trial] = {}
    for estimator in dict.fromkeys((chosen, *plan.choices[name].ties, extra)):
        other = _with(plan, name, estimator)
        if other is not None:
            trials[estimator] = tried(other)
    best, trial = min(trials.items(), key=lambda item: item[1].work)
    if not np.isfinite(trial.work):
        raise ValueError(
            f"no control variate of site {name!r} has a finite gradient at these "
            f"params: pass those of a fit, bbvi.pilot(plan, fit.params)"
        )
    others = {e: f"in the pilot {t}" for e, t in trials.items() if e != best}
    rejected = plan.choices[name].rejected
    why = trial.plan.choices[name].reason.removeprefix("as asked; ")
    reason = f"{why}; best in a pilot of {len(trials)}: {trial}"
    choice = Choice(best, reason, {**others, **rejected}, tuple(others))
    return replace(trial.plan, choices={**plan.choices, name: choice})


def _with(plan: Plan, name: str, estimator: Estimator) -> Plan | None:
    """The plan with another estimator at a site, or None where that is unsound."""
    estimators = {**plan.estimators, name: estimator}
    try:
        made = make_plan(plan.analysis, plan.guide, estimators, plan.num_particles)
    except PlanError:
        return None
    return replace(made, guide_reason=plan.guide_reason)


def _tried(params: Params, keys: Key, data: Data, plan: Plan) -> _Trial:
    objective = Objective(plan)
    baselines = _averages(objective, params, keys, data)

    @jax.jit
    def moment(params: Params, keys: Key, data: Data, baselines: Costs) -> Array:
        def one(key: Key) -> Array:
            grads, _ = jax.grad(objective, has_aux=True)(params, key, data, baselines)
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))

        return jnp.mean(jax.lax.map(one, keys))

    found = float(moment(params, keys, data, baselines))
    seconds = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        moment(params, keys, data, baselines).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return _Trial(plan, found, min(seconds) / len(keys))


def _averages(
    objective: Objective, params: Params, keys: Key, data: Data
) -> dict[str, Array]:
    """Average costs of the sites that take off a running one, at other draws."""
    plan = objective.plan
    names = [
        name
        for name in plan.sites_of(ScoreFunction)
        if isinstance(
            plan.choices[name].estimator.control(plan.num_particles), RunningAverage
        )
    ]
    if not names:
        return {}

    @jax.jit
    def costs(params: Params, keys: Key, data: Data) -> Costs:
        def one(key: Key) -> Costs:
            return objective(params, jax.random.fold_in(key, 1), data)[1].costs

        return jax.tree.map(lambda x: jnp.mean(x, 0), jax.lax.map(one, keys))

    found = costs(params, keys, data)
    return {name: found[name] for name in names}
