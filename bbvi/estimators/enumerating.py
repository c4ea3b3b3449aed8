"""`SumAndSample`: the likeliest values are summed, the others sampled."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import stop_gradient
from numpyro.distributions import Distribution, constraints

from bbvi._types import Array
from bbvi.analysis import Site
from bbvi.estimators.base import Situation
from bbvi.estimators.controls import ControlVariate, Scored, leave_one_out


@dataclass(frozen=True, repr=False)
class SumAndSample(ControlVariate):
    r"""Sum over likely values of each element, sample the others.

    $$\sum_{v \in C_i} \nabla_\lambda q(z_i = v)\, (f_i(v, z_{-i}) - b_i) +
      1[z_i \notin C_i]\, \nabla_\lambda \log q(z_i)\, (f_i(z) - b_i)$$

    with $C_i$ a set of values that q finds likely, chosen without regard to the draws:
    of a finite site the likeliest, of a countable one consecutive numbers around the
    mean. The two parts add up to the expectation over all values, and $b_i$, the mean
    of the other particles or a running average, has expectation zero in their sum. The
    paper draws the sampled value from outside of C; here it is the particle's own, as
    other sites see it too. Elements that share no cost term are changed together.
    Cost: ``num_values`` evaluations of the model, times the colours.

    Args:
        num_values: Size of $C_i$.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.SumAndSample(num_values=8)
        SumAndSample(num_values=8)

    References:
        Liu, Regier, Tripuraneni, Jordan and McAuliffe (2019), Rao-Blackwellized
        stochastic gradients for discrete distributions, section 3.
    """

    num_values: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.num_values, bool) or not isinstance(self.num_values, int):
            raise TypeError(f"num_values must be an int; found {self.num_values!r}")
        if self.num_values < 1:
            raise ValueError(f"num_values must be at least 1; found {self.num_values}")

    def refusal(self, situation: Situation) -> str | None:
        if not situation.site.is_discrete:
            return "it is continuous, its values cannot be summed"
        drawn = situation.drawn or situation.site
        if drawn.values is None and lowest(drawn) is None:
            return "its factor's values are neither few and known nor 0, 1, 2, ..."
        if situation.feeds:
            return (
                f"later draws of the guide ({', '.join(situation.feeds)}) depend on "
                f"its value"
            )
        return None

    def reason(self, situation: Situation) -> str:
        every = (situation.drawn or situation.site).values
        if every is not None and len(every) <= self.num_values:
            return "all its values summed"
        return f"{self.num_values} likely values summed, the others sampled"

    def cost(self, situation: Situation) -> int:
        every = (situation.drawn or situation.site).values
        most = self.num_values if every is None else len(every)
        return min(self.num_values, most) * situation.colours

    def surrogate(self, scored: Scored) -> Array:
        baseline = 0.0 if scored.baseline is None else scored.baseline
        if scored.num_particles > 1:
            baseline = leave_one_out(scored.cost)
        gain = scored.cost - baseline
        gains = scored.costs - jnp.expand_dims(
            jnp.broadcast_to(baseline, gain.shape), 1
        )
        gains = jnp.where(scored.log_probs > -jnp.inf, gains, 0.0)
        summed = jnp.sum(jnp.exp(scored.log_probs) * stop_gradient(gains))
        sampled = jnp.where(scored.is_summed, 0.0, gain)
        return summed / scored.num_particles + scored.times(sampled)


def lowest(site: Site) -> int | None:
    """Where the consecutive values of a countable site begin; None for other sites."""
    support = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not isinstance(support, constraints.integer_greater_than):
        return None
    low = support.lower_bound
    return int(low) if isinstance(low, int | np.integer) else None


def likely_values(
    site: Site, fn: Distribution, shape: tuple[int, ...], number: int
) -> Array:
    """Different values of each element that q finds likely, ``(number, *shape)``.

    Args:
        site: The statement of the guide.
        fn: Its distribution, unmasked and below ``to_event``.
        shape: Of the site's value.
        number: How many; no more than the site has.
    """
    places = (-1, *(1,) * len(shape))
    if site.values is None:
        low = lowest(site)
        first = jnp.round(_mean(fn, shape)) - number // 2
        first = jnp.where(jnp.isfinite(first), jnp.maximum(first, low), low)
        steps = jnp.arange(number, dtype=site.dtype).reshape(places)
        return stop_gradient(first).astype(site.dtype) + steps
    every = jnp.asarray(site.values, site.dtype).reshape(places)
    every = jnp.broadcast_to(every, (len(site.values), *shape))
    if number >= len(every):
        return every
    weight = jnp.moveaxis(stop_gradient(jax.vmap(fn.log_prob)(every)), 0, -1)
    _, chosen = lax.top_k(weight, number)
    return jnp.take_along_axis(every, jnp.moveaxis(chosen, -1, 0), 0)


def _mean(fn: Distribution, shape: tuple[int, ...]) -> Array:
    """Mean of q, or NaN where it is not known."""
    try:
        return jnp.broadcast_to(fn.mean, shape)
    except NotImplementedError:
        return jnp.full(shape, jnp.nan)
