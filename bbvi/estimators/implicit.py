r"""Implicit reparameterisation where NumPyro's samplers do not differentiate.

A draw $z$ of a distribution function $F(z; \theta)$ with density $q$ moves by

$$\nabla_\theta z = -\nabla_\theta F(z; \theta) / q(z; \theta)$$

as its parameters do, however it was drawn (Figurnov, Mohamed and Mnih 2018, eq. 5).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import i0e, i1e
from numpyro.distributions import Distribution

from bbvi._types import Array
from bbvi.analysis.tracing import components, unwrap

WITH_CDF = (
    dist.AsymmetricLaplace,
    dist.Cauchy,
    dist.Exponential,
    dist.Gamma,
    dist.Gompertz,
    dist.Gumbel,
    dist.HalfCauchy,
    dist.HalfNormal,
    dist.InverseGamma,
    dist.Laplace,
    dist.Logistic,
    dist.LogNormal,
    dist.Normal,
    dist.SoftLaplace,
    dist.Weibull,
)
"""Components of mixtures: distribution functions differentiable in all parameters."""
NODES = 32
"""Of the Gauss-Legendre rule for von Mises distributions."""
LARGE = 25.0
"""Concentration beyond which the mean resultant length is taken from its series."""


def is_implicit(fn: Distribution) -> bool:
    """Whether `follow` gives the draws of a distribution their derivative.

    It does for von Mises distributions and for mixtures over one dimension whose
    components are all of `WITH_CDF`.
    """
    fn = unwrap(fn)
    if type(fn) is dist.VonMises:
        return True
    if type(fn) not in (dist.MixtureGeneral, dist.MixtureSameFamily) or fn.event_dim:
        return False
    return all(type(part) in WITH_CDF for part in components(fn))


def is_circular(fn: Distribution) -> bool:
    """Whether draws follow a circle: correct only for what is periodic in them."""
    return type(unwrap(fn)) is dist.VonMises


def follow(fn: Distribution, draw: Array) -> Array:
    r"""The draw, with its implicit derivative in the parameters of ``fn``.

    Args:
        fn: A distribution of which `is_implicit` is true.
        draw: Of it; its own derivative is dropped.

    Returns:
        The same values. The derivative costs one evaluation of distribution function
        and density.
    """
    fn = unwrap(fn)
    if type(fn) is dist.VonMises:
        return _turn(draw, fn.loc, fn.concentration)
    return _shift(draw, fn)


@jax.custom_jvp
def _shift(draw: Array, fn: Distribution) -> Array:
    return draw


@_shift.defjvp
def _shift_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    draw, fn = primals
    _, moved = jax.jvp(lambda fn: _mixture_cdf(fn, draw), (fn,), (tangents[1],))
    return _shift(draw, fn), -moved * jnp.exp(-fn.log_prob(draw))


def _mixture_cdf(fn: Distribution, value: Array) -> Array:
    if type(fn) is dist.MixtureSameFamily:
        each = components(fn)[0].cdf(value[..., None])
    else:
        parts = [jnp.broadcast_to(p.cdf(value), value.shape) for p in components(fn)]
        each = jnp.stack(parts, -1)
    return jnp.sum(fn.mixing_distribution.probs * each, -1)


@jax.custom_jvp
def _turn(draw: Array, loc: Array, concentration: Array) -> Array:
    return draw


@_turn.defjvp
def _turn_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    draw, loc, concentration = primals
    angle = jnp.mod(draw - loc + jnp.pi, 2 * jnp.pi) - jnp.pi
    moved = tangents[1] + von_mises_velocity(angle, concentration) * tangents[2]
    return _turn(draw, loc, concentration), jnp.broadcast_to(moved, draw.shape)


def von_mises_velocity(angle: Array, concentration: Array) -> Array:
    r"""How fast a draw of a centred von Mises distribution moves with $\kappa$.

    $$\frac{dz}{d\kappa} = -\frac{1}{q(z)} \frac{\partial}{\partial\kappa}
      \int_0^z q(t)\,dt = -\int_0^z \Big(\cos t - \frac{I_1(\kappa)}{I_0(\kappa)}\Big)
      e^{\kappa (\cos t - \cos z)}\,dt$$

    by Gauss-Legendre quadrature.

    Args:
        angle: In $[-\pi, \pi]$.
        concentration: $\kappa$, positive; shapes broadcast.

    Returns:
        The velocity, of the broadcast shape.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    angle = jnp.asarray(angle)
    kappa = jnp.asarray(concentration)[..., None]
    end = angle[..., None]
    at = 0.5 * end * (1 + nodes.astype(angle.dtype))
    # Differences from 1, which keep their digits at large concentrations.
    x = 1 / kappa
    series = x * (1 / 2 + x * (1 / 8 + x * (1 / 8 + x * 25 / 128)))
    lost = jnp.where(kappa > LARGE, series, 1 - i1e(kappa) / i0e(kappa))
    gap = lost - 2 * jnp.sin(at / 2) ** 2
    rise = 2 * jnp.sin((end + at) / 2) * jnp.sin((end - at) / 2)
    # Draws so far out that the exponential would overflow do not occur.
    growth = jnp.exp(jnp.minimum(kappa * rise, 80.0))
    return -0.5 * angle * jnp.sum(weights.astype(angle.dtype) * gap * growth, -1)
