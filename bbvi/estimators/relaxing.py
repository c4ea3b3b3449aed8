"""`DoubleControl`: a linear model of the cost, from gradients at other particles."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.lax import stop_gradient

from bbvi._types import Array
from bbvi.estimators.base import Situation
from bbvi.estimators.controls import ControlVariate, Scored, alone, leave_one_out


@dataclass(frozen=True, repr=False)
class DoubleControl(ControlVariate):
    r"""Leave one out, of costs less their first-order change in the draw.

    With $g_s = \nabla f(z_s)$ the gradient of the cost in the relaxed value of a
    Bernoulli site, and $\bar g_{-s}$ its mean over the other particles,

    $$r_s = f(z_s) - a\, \bar g_{-s} \cdot (z_s - p), \qquad
      \frac1S \sum_s \nabla_\lambda \log q(z_s) \Big(r_s - \frac{1}{S-1}
      \sum_{t \ne s} r_t\Big) + \frac aS \sum_s \bar g_{-s} \cdot \nabla_\lambda p.$$

    Neither factor of $\bar g_{-s} \cdot (z_s - p)$ knows the other, so its expectation
    under the score is $\bar g_{-s} \cdot \nabla_\lambda p$, which the last term gives
    back; in the baselines it has mean zero. Any $g$ is unbiased; it helps where the
    cost is nearly linear between 0 and 1. Cost: a gradient of the model in the site.

    Args:
        scale: $a$; the paper learns it, and writes it with the other sign.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.DoubleControl(scale=0.5)
        DoubleControl(scale=0.5)

    References:
        Titsias and Shi (2022), Double control variates for gradient estimation in
        discrete latent variable models, section 3.
    """

    scale: float = 1.0

    def refusal(self, situation: Situation) -> str | None:
        if not situation.is_bernoulli:
            return f"its factor {situation.factor} is no Bernoulli"
        return situation.unrelaxed or alone(situation)

    def reason(self, situation: Situation) -> str:
        return "minus their linear change, and the mean of the other particles"

    def surrogate(self, scored: Scored) -> Array:
        slope = self.scale * leave_one_out(scored.slope)
        linear = slope * stop_gradient(scored.value - scored.mean)
        shared = [a for a in range(linear.ndim) if scored.cost.shape[a] == 1]
        rest = scored.cost - jnp.sum(linear, [a for a in shared if a], keepdims=True)
        known = jnp.sum(expectation(slope, scored.mean)) / scored.num_particles
        return scored.times(rest - leave_one_out(rest)) + known


def expectation(slope: Array, mean: Array) -> Array:
    """Of the linear change under the score, as far as gradients see it."""
    return stop_gradient(slope) * mean
