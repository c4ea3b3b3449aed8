"""`expectation`: the gradient of the expected costs of any stochastic program.

An ELBO is the expectation of `log p - log q`. Here the costs are what the program says
they are, its ``numpyro.factor`` statements, and the densities of its random sites cost
nothing. So the program is its own guide, and the model of its costs, both with masks on
those densities; everything else is `bbvi.planning` and `bbvi.objective`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution
from numpyro.distributions.distribution import Independent
from numpyro.primitives import Messenger

from bbvi._types import Array, Data, Key, Params
from bbvi.analysis import Analysis
from bbvi.analysis.analyzing import examine
from bbvi.analysis.arguments import read_arguments
from bbvi.analysis.dependence import influences
from bbvi.analysis.structure import name_of
from bbvi.analysis.tracing import log_density, run
from bbvi.choosing import Choice
from bbvi.estimators import Estimator, Marginalized, Reparameterized
from bbvi.objective import Costs, Objective
from bbvi.planning import Plan, PlanError, make_plan


class Outcome(NamedTuple):
    """What an estimate of an expectation saw.

    Attributes:
        terms: Mean sum of every factor by name.
        costs: Mean over particles of the costs that each score site reaches.
    """

    terms: Costs
    costs: Costs


@dataclass(frozen=True, repr=False)
class Expectation:
    """Expected costs of a program; what `bbvi.expectation` returns. Print it.

    Attributes:
        plan: The estimators behind it.
    """

    plan: Plan

    def __call__(
        self,
        params: Params,
        key: Key,
        data: Data | None = None,
        baselines: Costs | None = None,
    ) -> tuple[Array, Outcome]:
        """Return ``(value, outcome)``.

        Args:
            params: As from ``init``: unconstrained, which is the value itself where
                ``numpyro.param`` has no constraint.
            key: Of the minibatch and the particles.
            data: The program's arguments.
            baselines: With one particle, what to subtract from the costs of each score
                site: anything that does not depend on ``key``. With more, the particles
                are each other's.
        """
        loss, info = Objective(self.plan)(params, key, data or {}, baselines)
        factors = self.plan.analysis.of_kind("factor")
        return -loss, Outcome({n: info.terms[n] for n in factors}, info.costs)

    @property
    def choices(self) -> dict[str, Choice]:
        """Estimator and reason of every random site that a cost depends on."""
        return self.plan.choices

    def init(self, key: Key) -> Params:
        """Initial parameters, unconstrained, as ``numpyro.param`` gives them."""
        return self.plan.init(key)

    def __repr__(self) -> str:
        lines = repr(self.plan).splitlines()
        return "\n".join(line for line in lines if not line.startswith("guide "))


def expectation(
    program: Callable[..., Any],
    data: Any = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int | None = None,
) -> Expectation:
    r"""The expected sum of a program's factors, with an unbiased gradient.

    $$\nabla_\theta\, E\Big[\sum_c f_c(\theta, z)\Big],\qquad
      z_i \sim p(z_i \mid \mathrm{parents}, \theta)$$

    ``numpyro.sample`` statements are the program's random nodes $z$, ``numpyro.factor``
    terms its costs $f_c$, ``numpyro.param`` its parameters $\theta$: before the nodes,
    after them, or both. A parameter inside a cost gets the direct gradient. One inside
    a distribution gets what is chosen for the node: the exact sum over a finite node
    (`LocalExpectation`), the gradient through the draw (`Reparameterized`), or the
    score times the costs downstream of the node, and of each of its elements, minus a
    baseline (`ScoreFunction`).

    The value is the expectation itself, not a loss: climb it if the costs are rewards,
    or negate it. Plates may be subsampled; their scale enters each cost once.

    Args:
        program: A function with ``numpyro.sample`` and ``numpyro.factor`` statements.
        data: Its arguments, see `bbvi.analyze`.
        estimators: Overrides by site; also readable from ``infer={"bbvi": estimator}``.
        num_particles: Draws of the program in one estimate; default as `bbvi.plan`.

    Returns:
        ``value, outcome = e(params, key, data)``; `jax.jit`, `jax.grad` and `jax.vmap`
        work on it. ``e.init(key)`` gives parameters, ``print(e)`` the reasons.

    Raises:
        PlanError: An override is unsound, or a site has no sound estimator.
        ValueError: The program has no factor, an observed site, or randomness that is
            no site; or what `bbvi.analyze` raises.

    Example:
        >>> import bbvi, jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> def program():
        ...     logits = numpyro.param("logits", jnp.zeros(2))
        ...     action = numpyro.sample("action", dist.Categorical(logits=logits))
        ...     numpyro.factor("reward", jnp.array([10.0, 0.0])[action])
        >>> reward = bbvi.expectation(program)
        >>> params = reward.init(jax.random.key(0))
        >>> slope, _ = jax.grad(reward, has_aux=True)(params, jax.random.key(1))
        >>> print(slope["logits"])
        [ 2.5 -2.5]

    References:
        Schulman, Heess, Weber and Abbeel (2015), Gradient estimation using stochastic
        computation graphs, theorem 1; Williams (1992), Simple statistical
        gradient-following algorithms for connectionist reinforcement learning.
    """
    if not callable(program):
        raise TypeError(
            f"program must be a function with numpyro.sample and numpyro.factor "
            f"statements; found {type(program).__name__}"
        )
    arguments = read_arguments(program, data)
    analysis = examine(_costless(program, _masked), arguments)
    problems = _problems(analysis, estimators or {})
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PlanError(f"{name_of(program)} is no program with costs:\n{lines}")
    guide = _costless(program, _masked_inside)
    plan = make_plan(analysis, guide, estimators, num_particles)
    reached = set().union(*plan.influence.values()) if plan.influence else set()
    choices = {n: _told(c) for n, c in plan.choices.items() if n in reached}
    return Expectation(replace(plan, choices=choices))


class _Costless(Messenger):
    """Change the distributions of random sites, so that their densities are zero."""

    def __init__(self, mask: Callable[[Distribution], Distribution]) -> None:
        super().__init__()
        self.mask = mask

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["fn"] = self.mask(msg["fn"])


def _costless(
    program: Callable[..., Any], mask: Callable[[Distribution], Distribution]
) -> Callable[..., Any]:
    @wraps(program, updated=())
    def costless(**kwargs: Any) -> Any:
        with _Costless(mask):
            return program(**kwargs)

    return costless


def _masked(fn: Distribution) -> Distribution:
    return fn.mask(mask=False)


def _masked_inside(fn: Distribution) -> Distribution:
    """Masked below ``to_event``, where each element keeps a score of its own."""
    if type(fn) is Independent:
        inner = _masked_inside(fn.base_dist)
        return inner.to_event(fn.reinterpreted_batch_ndims)
    return _masked(fn)


def _problems(analysis: Analysis, estimators: Mapping[str, Estimator]) -> list[str]:
    """Why this is no program whose costs have an expectation, as sentences."""
    problems = [
        f"site {name!r} is observed, and its density no cost: write "
        f"numpyro.factor({name!r}, ...)"
        for name in analysis.of_kind("observed")
    ]
    if not analysis.of_kind("factor"):
        problems.append("it has no costs: write numpyro.factor('cost', ...)")
    marked = {n: s.infer.get("bbvi") for n, s in analysis.latents.items()}
    problems += [
        f"site {name!r} cannot use Marginalized(): an expectation has no log joint to "
        f"sum. Use estimators.LocalExpectation(), the exact sum over its values"
        for name, estimator in {**marked, **estimators}.items()
        if isinstance(estimator, Marginalized)
    ]
    noisy = _noisy_costs(analysis) if analysis.draws_itself else []
    problems += [
        f"cost {name!r} depends on random numbers that are no site, such as "
        f"numpyro.prng_key(): draw them in a numpyro.sample statement"
        for name in noisy
    ]
    return problems


def _noisy_costs(analysis: Analysis) -> list[str]:
    """Costs that depend on random numbers even where all sites are given."""
    arguments, factors = analysis.arguments, sorted(analysis.of_kind("factor"))
    values = {
        n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in analysis.latents.items()
    }
    values |= {n: p.shape for n, p in analysis.parameters.items()}
    values |= {
        n: jax.ShapeDtypeStruct((p.subsample_size,), jnp.result_type(int))
        for n, p in analysis.subsampled.items()
    }

    def costs(key: Array, values: Any, arrays: Any) -> list[Array]:
        key = jax.random.wrap_key_data(key)
        trace = run(analysis.model, arguments.bind(arrays), key, values)
        return [log_density(trace[name]) for name in factors]

    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    closed = jax.make_jaxpr(costs)(key, values, arguments.shapes)
    found = influences(closed, ["key"])
    return [n for n, reached in zip(factors, found, strict=True) if "key" in reached]


def _told(choice: Choice) -> Choice:
    """A choice in the words of a program: no model, no guide, no entropy."""
    reason = choice.reason
    if isinstance(choice.estimator, Reparameterized):
        reason = "continuous, with a differentiable sampler"
    return replace(
        choice,
        reason=_in_words(reason),
        rejected={
            estimator: _in_words(why)
            for estimator, why in choice.rejected.items()
            if not isinstance(estimator, Marginalized)
        },
    )


def _in_words(text: str) -> str:
    return text.replace("the guide", "the program").replace(" under q", "")
