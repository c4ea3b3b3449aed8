"""`DoubleControl`: a linear model of the cost, from gradients at other particles."""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from bbvi._types import Array
from bbvi.estimators.base import Situation
from bbvi.estimators.controls import ControlVariate, Scored, alone, leave_one_out

RIDGE = 1e-2
"""Penalty of the squared scale, as a fraction of the gradient's square without it."""


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
    back; in the baselines it has mean zero. Any $g$ is unbiased, and so is any $a$ that
    does not know the draw.

    The gradient is $\hat g_0 + a\, \hat g_1$ with $E[\hat g_1] = 0$, so the scale of
    least variance is $-E[\hat g_0 \cdot \hat g_1] / E|\hat g_1|^2$. Each row $n$, whose
    elements share costs with no other row, learns it from the others,

    $$a_{-n} = -\frac{\sum_{m \ne n} \hat g_{0m} \cdot \hat g_{1m}}
      {\sum_{m \ne n} |\hat g_{1m}|^2 + \epsilon\, |\hat g_{0m}|^2},$$

    with gradients in the logits and a small ridge. It helps where the cost is nearly
    linear between 0 and 1 and q is not yet its best: there the linear part vanishes,
    and so does $a$. Cost: a gradient of the model in the site.

    Args:
        scale: $a$. By default learnt, or 1 where there are no other rows. The paper
            learns one by gradient steps, and writes it with the other sign.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.DoubleControl(scale=0.5)
        DoubleControl(scale=0.5)

    References:
        Titsias and Shi (2022), Double control variates for gradient estimation in
        discrete latent variable models, section 3.
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not np.isfinite(self.scale):
            raise ValueError(f"scale must be finite, or None; found {self.scale!r}")

    def refusal(self, situation: Situation) -> str | None:
        if not situation.is_bernoulli:
            return f"its factor {situation.factor} is no Bernoulli"
        return situation.unrelaxed or alone(situation)

    def reason(self, situation: Situation) -> str:
        sizes = zip(situation.site.shape, situation.rows, strict=True)
        is_learned = self.scale is None and prod(n for n, rows in sizes if rows) > 1
        how = ", scaled as other rows say," if is_learned else ""
        return f"minus their linear change{how} and the mean of the other particles"

    def surrogate(self, scored: Scored) -> Array:
        slope = leave_one_out(scored.slope)
        linear = slope * stop_gradient(scored.value - scored.mean)
        shared = [a for a in range(linear.ndim) if scored.cost.shape[a] == 1]
        change = jnp.sum(linear, [a for a in shared if a], keepdims=True)
        scale = self.scale
        if scale is None:
            scale = stop_gradient(learned_scale(scored, slope, change))
        rest = scored.cost - scale * change
        known = jnp.sum(expectation(scale * slope, scored.mean)) / scored.num_particles
        return scored.times(rest - leave_one_out(rest)) + known


def learned_scale(scored: Scored, slope: Array, change: Array) -> Array | float:
    """Scale of least variance by the other rows, one for each row.

    Args:
        scored: The site.
        slope: Gradient at the other particles.
        change: Linear change of the costs, in their shape.
    """
    mean = scored.mean
    if prod(mean.shape[1 + axis] for axis in scored.rows) == 1:
        return 1.0
    score = scored.value - mean
    plain = jnp.mean(score * (scored.cost - leave_one_out(scored.cost)), 0)
    taken = score * (change - leave_one_out(change))
    added = jnp.mean(slope * mean * (1 - mean) - taken, 0)
    within = [axis for axis in range(plain.ndim) if axis not in scored.rows]
    product, size = (
        of_others(jnp.sum(x, within, keepdims=True))
        for x in (plain * added, added**2 + RIDGE * plain**2)
    )
    return jnp.where(size > 0, -product / jnp.where(size > 0, size, 1.0), 0.0)


def of_others(rows: Array) -> Array:
    """Sum over all rows but the own one, which leaves no rounding error behind."""
    flat = jnp.ravel(rows)
    before = jnp.pad(jnp.cumsum(flat[:-1]), (1, 0))
    after = jnp.pad(jnp.cumsum(flat[:0:-1])[::-1], (0, 1))
    return jnp.reshape(before + after, rows.shape)


def expectation(slope: Array, mean: Array) -> Array:
    """Of the linear change under the score, as far as gradients see it."""
    return stop_gradient(slope) * mean
