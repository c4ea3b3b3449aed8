"""Which samplers differentiate correctly, as NumPyro's own flags do not always say.

A factor of q is pathwise where the derivative of its draws in every parameter is that
of the distribution. The verdict is by structure: what is built on another
distribution is as good as that one. ``tests/test_distributions.py`` holds it against
exact gradients.
"""

import numpyro.distributions as dist
from numpyro.distributions import Distribution, TransformedDistribution

from bbvi.analysis.tracing import unwrap
from bbvi.estimators.implicit import is_implicit

UNFLAGGED = (
    dist.InverseWishart,
    dist.InverseWishartCholesky,
    dist.Levy,
    dist.Wishart,
    dist.WishartCholesky,
)
"""Samplers that differentiate correctly although NumPyro does not flag them so."""
INVERTIBLE = (
    dist.AsymmetricLaplace,
    dist.AsymmetricLaplaceQuantile,
    dist.Cauchy,
    dist.Dagum,
    dist.Exponential,
    dist.Gompertz,
    dist.Gumbel,
    dist.HalfCauchy,
    dist.HalfNormal,
    dist.Laplace,
    dist.Levy,
    dist.Logistic,
    dist.LogNormal,
    dist.Normal,
    dist.SoftLaplace,
    dist.Uniform,
)
"""Quantile functions in closed form, differentiable in every parameter."""
TRUNCATED = (
    dist.LeftTruncatedDistribution,
    dist.RightTruncatedDistribution,
    dist.TwoSidedTruncatedDistribution,
)


def is_differentiable(fn: Distribution) -> bool:
    """Whether draws of a factor may be differentiated in all of its parameters.

    A distribution of the user's own is taken at its word, ``has_rsample``.
    """
    return is_implicit(fn) or _differentiates(fn)


def _differentiates(fn: Distribution) -> bool:
    """Whether the sampler itself does, without help from `implicit`."""
    fn, kind = unwrap(fn), type(unwrap(fn))
    if kind is dist.EulerMaruyama:
        return _differentiates(fn.init_dist)
    if kind is dist.GaussianCopula:
        return type(unwrap(fn.marginal_dist)) in INVERTIBLE
    if kind in TRUNCATED:
        return type(unwrap(fn.base_dist)) in INVERTIBLE
    if (
        isinstance(fn, TransformedDistribution)
        and kind.has_rsample is TransformedDistribution.has_rsample
    ):
        return _differentiates(fn.base_dist)
    return bool(fn.has_rsample) or kind in UNFLAGGED
