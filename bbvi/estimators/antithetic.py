"""`Antithetic`: particles of Bernoulli sites that avoid each other."""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from bbvi._types import Array, Key
from bbvi.estimators.base import Situation
from bbvi.estimators.controls import ControlVariate, Scored, alone, leave_one_out

PERIOD = 256
"""Coupled elements after which the orders of the particles repeat."""


@dataclass(frozen=True, repr=False)
class Antithetic(ControlVariate):
    r"""Couple the particles of Bernoulli elements, so that they disagree more often.

    Element $i$ draws one number $u_i \sim \mathrm{Uniform}(0, 1)$ for all S particles,

    $$z_{si} = 1[\,(u_i + \pi_i(s) / S) \bmod 1 < p_i\,],$$

    with $\pi_i$ a fixed order of the particles. Each particle alone is an ordinary draw
    of q; of the S particles, floor or ceiling of $S p_i$ are ones, the least spread
    that there is. With the average correlation $\rho_i$ of two particles,

    $$\frac1S \sum_s \nabla_\lambda \log q(z_{si}) \frac{f_i(z_s) -
      \frac{1}{S-1} \sum_{t \ne s} f_i(z_t)}{1 - \rho_i}$$

    is unbiased, since $E[f_i(z_t) \nabla \log q(z_{si})] = \rho_{st} E[f_i(z_t) \nabla
    \log q(z_{ti})]$: the estimator of ARMS for any coupling of pairs, each with its own
    correlation. Two particles are those of DisARM, also known as U2G, and give its
    gradient. Cost: fewer random numbers than independent particles.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.Antithetic()
        Antithetic()

    References:
        Dong, Mnih and Tucker (2020), DisARM, eq. 7; Yin, Ho, Yan, Qian and Zhou
        (2020), Probabilistic best subset selection via gradient-based optimization
        (U2G); Dimitriev and Zhou (2021), ARMS, theorem 1.
    """

    def refusal(self, situation: Situation) -> str | None:
        if not situation.is_bernoulli:
            return f"its factor {situation.factor} is no Bernoulli"
        if situation.is_hidden:
            return "its draws are made inside scan, where they cannot be coupled"
        if situation.fed_by:
            return (
                f"its probabilities depend on other draws "
                f"({', '.join(situation.fed_by)}), which differ between particles"
            )
        return alone(situation)

    def reason(self, situation: Situation) -> str:
        return "minus the mean of the other particles, which are antithetic"

    def surrogate(self, scored: Scored) -> Array:
        rho = correlation(scored.probs, scored.num_particles)
        gain = scored.cost - leave_one_out(scored.cost)
        return scored.times(gain / (1 - rho))


def correlation(probs: Array, num_particles: int) -> Array:
    r"""Average correlation of two coupled particles.

    $Var(\sum_s z_s) = S\, p (1 - p) (1 + (S - 1) \rho)$, where the sum is floor or
    ceiling of $S p$ and so has variance $r (1 - r)$ with $r$ the fraction of $S p$.
    """
    number = num_particles
    rare = jnp.minimum(probs, 1 - probs)
    rest = number * rare - jnp.floor(number * rare)
    is_rare = number * rare < 1
    safe = jnp.where(is_rare, 0.5, rare)
    spread = jnp.where(
        is_rare,
        (1 - number * rare) / (1 - rare),
        rest * (1 - rest) / (number * safe * (1 - safe)),
    )
    return (spread - 1) / (number - 1)


def coupled_uniforms(
    key: Key, shape: tuple[int, ...], num_particles: int, coupled: Collection[int]
) -> Array:
    """Uniform numbers, of which those of one element avoid each other.

    Args:
        key: Common to all particles.
        shape: Of the site.
        num_particles: S.
        coupled: Axes whose elements share costs. Their particles take turns in
            different orders, so that no two particles are opposites in all elements.

    Returns:
        ``(num_particles, *shape)``.
    """
    size = prod(shape[axis] for axis in coupled)
    orders = np.random.default_rng(0)
    columns = [orders.permutation(num_particles) for _ in range(min(size, PERIOD))]
    shift = jnp.asarray(np.stack(columns, 1) / num_particles, jnp.float32)
    shift = jnp.tile(shift, (1, -(-size // PERIOD)))[:, :size]
    kept = [n if axis in coupled else 1 for axis, n in enumerate(shape)]
    turned = jax.random.uniform(key, shape) + shift.reshape(num_particles, *kept)
    return jnp.where(turned >= 1, turned - 1, turned)
