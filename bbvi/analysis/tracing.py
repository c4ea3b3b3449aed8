"""Run a NumPyro program abstractly or inside a trace, and read its log densities.

`run` executes a program with given values; `log_density` gives the unsummed log
density of one site as fine as the model allows, unscaled, so that scale and mask are
applied exactly once by those who sum. `bbvi.objective` uses the same two.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from math import isclose
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions import (
    BernoulliLogits,
    Delta,
    Distribution,
    FoldedDistribution,
    HurdleProbs,
    IntervalCensoredDistribution,
    LeftCensoredDistribution,
    MixtureGeneral,
    MixtureSameFamily,
    RightCensoredDistribution,
    TransformedDistribution,
    Unit,
    constraints,
)
from numpyro.distributions.distribution import (
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
)

from bbvi._keys import Seed
from bbvi._types import Array, Key
from bbvi.analysis.summands import summands

Trace = Mapping[str, dict[str, Any]]
_WRAPPERS = (MaskedDistribution, Independent, ExpandedDistribution)
_CENSORED = (
    IntervalCensoredDistribution,
    LeftCensoredDistribution,
    RightCensoredDistribution,
)


def run(
    program: Callable[..., Any],
    kwargs: Mapping[str, Any],
    key: Key,
    values: Mapping[str, Any],
) -> Trace:
    """The NumPyro trace of ``program(**kwargs)`` with some sites' values given.

    A factor that ends in a sum is an event of its summands.

    Args:
        program: A model or guide.
        kwargs: Its arguments.
        key: For the sites that have no value.
        values: Values by name: latents, parameters, and the indices of plates.
    """

    def again() -> Trace:
        given = handlers.substitute(program, data=dict(values))
        return handlers.trace(Seed(given, key)).get_trace(**kwargs)

    trace = again()
    units = {n: s for n, s in trace.items() if type(s.get("fn")) is Unit}
    if units:
        finer = summands(lambda: _log_factors(again(), units))
        for name, (costs, num_summed) in finer.items():
            trace[name]["fn"] = Unit(costs).to_event(num_summed)
            trace[name]["value"] = jnp.zeros((*jnp.shape(costs), 0))
    return trace


def _log_factors(trace: Trace, names: Iterable[str]) -> dict[str, Array]:
    return {name: trace[name]["fn"].log_factor for name in names}


def refine(distribution: Distribution) -> Distribution:
    """The same density below ``to_event``: one log density for each element."""
    while type(distribution) is Independent:
        distribution = distribution.base_dist
    return distribution


def unwrap(distribution: Any) -> Any:
    """The distribution below masks, ``to_event`` and ``expand``."""
    while isinstance(distribution, _WRAPPERS):
        distribution = distribution.base_dist
    return distribution


def has_atoms(distribution: Any) -> bool:
    """Whether single points of a continuous distribution have positive probability."""
    fn = unwrap(distribution)
    if isinstance(fn, HurdleProbs):
        return not fn.support.is_discrete
    return isinstance(fn, TransformedDistribution) and has_atoms(fn.base_dist)


def unfit(distribution: Any) -> str | None:
    """Why a distribution can be neither a latent nor a factor of q, or None."""
    fn = unwrap(distribution)
    name = type(fn).__name__
    if isinstance(fn, Unit):
        return "a Unit has no value: write numpyro.factor"
    if isinstance(fn, _CENSORED):
        return f"a {name} has censoring, which is for observations: use its base_dist"
    if isinstance(fn, MixtureSameFamily | MixtureGeneral) and any(
        isinstance(part, Delta) or has_atoms(part) for part in components(fn)
    ):
        return (
            f"a {name} of point masses and densities adds the two up as if they were "
            f"alike: draw the component as a site of its own"
        )
    return None


def components(fn: MixtureSameFamily | MixtureGeneral) -> list[Distribution]:
    """Components of a mixture, or the one that is batched."""
    if isinstance(fn, MixtureSameFamily):
        return [unwrap(fn.component_distribution)]
    return [unwrap(part) for part in fn.component_distributions]


def unmask(distribution: Distribution) -> Distribution:
    """The same distribution without masks, for score terms."""
    if isinstance(distribution, MaskedDistribution):
        return unmask(distribution.base_dist)
    if isinstance(distribution, Independent):
        inner = unmask(distribution.base_dist)
        return inner.to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, ExpandedDistribution):
        return unmask(distribution.base_dist).expand(distribution.batch_shape)
    return distribution


@jax.custom_jvp
def _minus(x: Array, y: Array) -> Array:
    r"""$x - y$, where $\infty - \infty$ is 0."""
    return jnp.where(x == y, 0.0, x - y)


@_minus.defjvp
def _minus_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return _minus(*primals), tangents[0] - tangents[1]


class _Binary(BernoulliLogits):
    r"""A Bernoulli whose value is 0 or 1 and is not differentiated.

    $\log\sigma(\pm l) = \pm \frac12 l - \frac12 |l| - \log(1 + e^{-|l|})$. JAX takes 1
    for the slope of $|l|$ at 0, so all derivatives there are those of the form of
    $l \ge 0$, and right. At any other value it is NaN.
    """

    def log_prob(self, value: Array) -> Array:
        logits = jnp.asarray(self.logits, jnp.result_type(self.logits, float))
        sign = jnp.where(value == 1, 1.0, jnp.where(value == 0, -1.0, jnp.nan))
        # With |l| as one variable XLA makes a program for CPUs half as slow again.
        even = 0.5 * jnp.abs(logits) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        return -_minus(even, sign.astype(logits.dtype) * (0.5 * logits))


def _lean(distribution: Distribution, *, is_exact: bool) -> Distribution:
    """The same density in fewer operations.

    Without NumPyro's check that the value lies in the support, if that is all reals: it
    would only tell whether the value is finite, in every step. A Bernoulli at an exact
    value is a `_Binary`, but not below a mask, which may hide any value.
    """
    if isinstance(distribution, _WRAPPERS):
        is_exact &= not isinstance(distribution, MaskedDistribution)
        distribution = copy(distribution)
        distribution.base_dist = _lean(distribution.base_dist, is_exact=is_exact)
    elif is_exact and type(distribution) is BernoulliLogits:
        distribution = _Binary(distribution.logits, validate_args=False)
    elif type(distribution).support in (constraints.real, constraints.real_vector):
        distribution = copy(distribution)
        distribution._validate_args = False
    return distribution


def factor(site: Mapping[str, Any]) -> Distribution:
    """Distribution of a traced site as fine as the model allows."""
    is_drawn = not jnp.issubdtype(jnp.result_type(site["value"]), jnp.floating)
    return _lean(refine(site["fn"]), is_exact=is_drawn or site["is_observed"])


def log_density(site: Mapping[str, Any]) -> Array:
    """Unsummed, unscaled, masked log density of a traced site."""
    fn = factor(site)
    # Of a folded distribution two values of its base lead to the same draw.
    if site["intermediates"] and not isinstance(fn, FoldedDistribution):
        return fn.log_prob(site["value"], site["intermediates"])
    return fn.log_prob(site["value"])


def unmasked_density(site: Mapping[str, Any]) -> Array:
    """`log_density` as it would be without masks."""
    fn = factor(site)
    if unmask(fn) is fn:
        return log_density(site)
    return unmask(fn).log_prob(site["value"])


def log_q_of(site: Mapping[str, Any], masking: Mapping[str, Any] | None) -> Array:
    """Log density of a statement of the guide, under the mask of the model's site."""
    if masking is None:
        return log_density(site)
    mask = copy(masking["fn"])
    mask.base_dist = site["fn"]
    return mask.log_prob(site["value"])


def scaled(log_prob: Array, site: Mapping[str, Any], plate_scale: float = 1.0) -> Array:
    """``log_prob`` times the site's scale, aligned with its batch axes.

    With `plate_scale` given, times what `handlers.scale` adds to it: the power that the
    density is raised to.
    """
    scale = 1 if site["scale"] is None else site["scale"] / plate_scale
    if isinstance(scale, (int, float)) and isclose(scale, 1):
        return log_prob
    if jnp.ndim(scale):
        extra = jnp.ndim(log_prob) - len(site["fn"].batch_shape)
        scale = jnp.reshape(scale, jnp.shape(scale) + (1,) * max(extra, 0))
    return log_prob * scale


def kind_of(site: Mapping[str, Any]) -> str:
    """`latent`, `observed`, `factor`, or the message type of other sites."""
    if site["type"] != "sample":
        return site["type"]
    if not site["is_observed"]:
        return "latent"
    return "factor" if site["infer"].get("is_auxiliary") else "observed"


def sample_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """The sample sites of a trace, in order."""
    return {name: site for name, site in trace.items() if site["type"] == "sample"}
