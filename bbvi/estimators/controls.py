"""Control variates of `ScoreFunction`: what is taken off the costs, and is unbiased."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from numpyro.distributions import Distribution

from bbvi._types import Array
from bbvi.estimators.base import Option, Situation


class Scored(NamedTuple):
    """One scored site as all particles saw it.

    Gradients are carried by log densities and by ``mean`` only.

    Attributes:
        log_q: Log density of each element's draw, neither scaled nor masked,
            ``(num_particles, *shape)``.
        cost: The costs that each element reaches, broadcastable to that.
        baseline: What is known of ``cost`` without its draw: the average over past
            steps, or `LearnedBaseline`.
        weight: With `OptimalScale`, the squared score of each element.
        probs: With `Antithetic`, the probability of a one, ``shape``.
        value: With `DoubleControl`, the draws; ``mean``, their expectation, carries
            gradients; ``slope``, the gradient of the costs in the draws; ``rows``, axes
            of ``shape`` whose elements share no costs.
        costs: With `SumAndSample`, the costs of likely values, ``(num_particles,
            num_values, *shape)``; ``log_probs``, their log densities, carries
            gradients; ``is_summed``, whether the draw is one of them.
    """

    log_q: Array
    cost: Array
    baseline: Array | None = None
    weight: Array | None = None
    probs: Array | None = None
    value: Array | None = None
    mean: Array | None = None
    slope: Array | None = None
    rows: tuple[int, ...] = ()
    costs: Array | None = None
    log_probs: Array | None = None
    is_summed: Array | None = None

    @property
    def num_particles(self) -> int:
        """Draws of q."""
        return self.cost.shape[0]

    def times(self, gain: Array) -> Array:
        r"""$\frac1S \sum_s \sum_i \log q(z_{si})\, g_{si}$, the gain held."""
        return jnp.sum(self.log_q * stop_gradient(gain)) / self.num_particles


@dataclass(frozen=True, repr=False)
class ControlVariate(Option):
    r"""What `ScoreFunction` takes off the costs.

    Its expectation under the score is zero, or known and added again, so that the
    gradient stays unbiased:

    $$E_q\Big[\sum_i \nabla_\lambda \log q(z_i)\, (f_i(z) - b_i)\Big] +
      \nabla_\lambda \sum_i E_q[b_i]$$
    """

    @abstractmethod
    def refusal(self, situation: Situation) -> str | None:
        """Why it would be wrong here, or None if it is sound."""

    @abstractmethod
    def reason(self, situation: Situation) -> str:
        """What it does, as a clause."""

    def cost(self, situation: Situation) -> int:
        """Evaluations of the model that a particle needs beyond its own."""
        return 0

    @abstractmethod
    def surrogate(self, scored: Scored) -> Array:
        """Scalar whose gradient is that of the bound through the site."""


@dataclass(frozen=True, repr=False)
class LeaveOneOut(ControlVariate):
    r"""Of each particle's cost, take off the mean over the other particles.

    $$\frac1S \sum_s \nabla_\lambda \log q(z_s) \Big(f(z_s) -
      \frac{1}{S-1} \sum_{t \ne s} f(z_t)\Big)$$

    The particles share a minibatch and are drawn independently. Cost: none.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.LeaveOneOut()
        LeaveOneOut()

    References:
        Kool, van Hoof and Welling (2019), Buy 4 REINFORCE samples, get a baseline for
        free, eq. 8.
    """

    def refusal(self, situation: Situation) -> str | None:
        return alone(situation)

    def reason(self, situation: Situation) -> str:
        return "minus the mean of the other particles"

    def surrogate(self, scored: Scored) -> Array:
        return scored.times(scored.cost - leave_one_out(scored.cost))


@dataclass(frozen=True, repr=False)
class RunningAverage(ControlVariate):
    r"""Of each cost, take off its running average over past steps.

    $$b \leftarrow d\, b + (1 - d)\, f(z)$$

    after the step, so that $b$ does not depend on the draw it is taken off from. For
    one particle, which has no others to compare with. In a loop of one's own, pass
    the average as ``baselines`` of the loss. Cost: one number for each cost.

    Args:
        decay: $d$, in [0, 1).

    Example:
        >>> import bbvi
        >>> bbvi.estimators.RunningAverage(decay=0.99)
        RunningAverage(decay=0.99)

    References:
        Mnih and Gregor (2014), Neural variational inference and learning in belief
        networks, section 2.3.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1); found {self.decay!r}")

    def refusal(self, situation: Situation) -> str | None:
        return None

    def reason(self, situation: Situation) -> str:
        return "minus a running average of past steps"

    def surrogate(self, scored: Scored) -> Array:
        baseline = 0.0 if scored.baseline is None else scored.baseline
        return scored.times(scored.cost - baseline)


@dataclass(frozen=True, repr=False)
class OptimalScale(ControlVariate):
    r"""The score times its best scale, found from the other particles.

    $$b_s = a^*_{-s} = \frac{\sum_{t \ne s} f(z_t)\, |h_t|^2}{\sum_{t \ne s} |h_t|^2},
      \qquad h_t = \nabla_\eta \log q(z_t; \eta)$$

    for every element, with η the parameters of its own factor. As $E[h] = 0$, this is
    $a^* = Cov(f h, h) / Var(h)$ of the paper, which takes all particles, the own one
    among them, and so is biased by O(1/S). Where the other particles have no score,
    their plain mean. Cost: the gradient of the factors' log densities.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.OptimalScale()
        OptimalScale()

    References:
        Ranganath, Gerrish and Blei (2014), Black box variational inference, eq. 9.
    """

    def refusal(self, situation: Situation) -> str | None:
        return alone(situation)

    def reason(self, situation: Situation) -> str:
        return "minus the optimal scale over the other particles"

    def surrogate(self, scored: Scored) -> Array:
        weight = jnp.broadcast_to(scored.weight, scored.log_q.shape)
        cost = jnp.broadcast_to(scored.cost, scored.log_q.shape)
        total = leave_one_out(weight)
        scale = leave_one_out(weight * cost) / jnp.where(total > 0, total, 1.0)
        return scored.times(
            cost - jnp.where(total > 0, scale, leave_one_out(scored.cost))
        )


def leave_one_out(cost: Array) -> Array:
    """Mean over the other particles, ``(num_particles, ...)``."""
    return (jnp.sum(cost, 0, keepdims=True) - cost) / (cost.shape[0] - 1)


def squared_score(fn: Distribution, value: Array) -> Array:
    """Squared gradient of each element's log density in its own parameters.

    One for elements whose factor keeps its parameters in another shape.
    """
    shape = jnp.shape(fn.log_prob(value))
    leaves, structure = jax.tree.flatten(fn)
    own = [i for i, x in enumerate(leaves) if jnp.shape(x)[: len(shape)] == shape]
    own = [i for i in own if jnp.issubdtype(jnp.result_type(leaves[i]), jnp.floating)]

    def total(moved: list[Array]) -> Array:
        changed = dict(zip(own, moved, strict=True))
        held = [changed.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jnp.sum(jax.tree.unflatten(structure, held).log_prob(value))

    squares = [
        jnp.sum(slope**2, tuple(range(len(shape), slope.ndim)))
        for slope in jax.grad(total)([leaves[i] for i in own])
    ]
    return stop_gradient(sum(squares)) if squares else jnp.ones(shape)


def alone(situation: Situation) -> str | None:
    """The refusal of a control that needs several particles."""
    if situation.num_particles > 1:
        return None
    return "one particle has no others to compare with"
