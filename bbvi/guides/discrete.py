"""Factors of q for discrete sites: tables, binomials, multinomials, countable ones."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bbvi._types import Array, Key, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.analysis.tracing import unwrap
from bbvi.guides.base import (
    element_support,
    full_shape,
    prior_of,
    rows,
    support_of,
)

MAX_CONCENTRATION = 1_000.0
"""Of negative binomials: beyond it they are Poisson, and 32 bits lose the density."""

_KNOWN = (
    constraints.integer_interval,
    constraints.integer_greater_than,
    constraints.multinomial,
    type(constraints.boolean),
)


class Shifted(dist.Distribution):
    r"""A distribution on 0, 1, ... moved to start at ``low``.

    $$q(z = \text{low} + k) = q_0(k)$$

    Args:
        base: $q_0$, with scalar events, on $0, \dots, n$ or without an end.
        low: Smallest value; broadcasts with the batch shape of ``base``.
    """

    pytree_data_fields = ("base", "low")

    def __init__(
        self, base: dist.Distribution, low: Any, *, validate_args: bool | None = None
    ) -> None:
        self.base, self.low = base, low
        shape = jnp.broadcast_shapes(base.batch_shape, jnp.shape(low))
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        end = getattr(self.base.support, "upper_bound", None)
        if end is None:
            return constraints.integer_greater_than(self.low)
        return constraints.integer_interval(self.low, self.low + end)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        drawn = self.base.expand(self.batch_shape).sample(key, sample_shape)
        return self.low + drawn

    def log_prob(self, value: Array) -> Array:
        return self.base.log_prob(value - self.low)

    def entropy(self) -> Array:
        return jnp.broadcast_to(self.base.entropy(), self.batch_shape)


def discrete_refusal(site: Site) -> str | None:
    """Why no factor for a discrete site exists, or None."""
    support = element_support(site.support)
    if isinstance(support, _KNOWN):
        return None
    return (
        f"{site.describe} has a support ({support}) for which there is no factor of q: "
        f"write a guide for it and pass guide=..."
    )


def sample_discrete(
    analysis: Analysis,
    site: Site,
    indices: Values,
    kwargs: Mapping[str, Any],
    given: Values,
) -> Array:
    """State parameters and sample statement of a discrete site.

    The factor lives on the support that the model gives the site at the draws before
    it. One finite support for all elements: a logit for each value (one in all for two
    values). Bounds that are arrays, or move with other sites: a binomial between them.
    Counts of categories with a given total: a multinomial. No upper bound: a negative
    binomial with its own mean and concentration in each element, which holds the
    Poisson as its limit.

    Args:
        analysis: Of the model.
        site: The site.
        indices: Of the minibatch.
        kwargs: The model's arguments.
        given: Values of the sites before it, and indices.
    """
    factor = _factor(analysis, site, indices, kwargs, given)
    return numpyro.sample(site.name, factor.to_event(site.event_dim - factor.event_dim))


def _factor(
    analysis: Analysis,
    site: Site,
    indices: Values,
    kwargs: Mapping[str, Any],
    given: Values,
) -> dist.Distribution:
    shape, name = full_shape(analysis, site), site.name
    if site.values is not None and not np.array_equal(site.values, [0, 1]):
        logits = numpyro.param(f"{name}.table", _jitter((*shape, len(site.values))))
        logits = rows(analysis, site, logits, indices)
        table = dist.CategoricalLogits(logits, validate_args=False)
        return _shifted(table, int(site.values[0]))
    if site.values is not None:
        logits = numpyro.param(f"{name}.logits", _jitter(shape))
        logits = rows(analysis, site, logits, indices)
        return dist.BernoulliLogits(logits, validate_args=False)
    kind = element_support(site.support)
    if isinstance(kind, constraints.multinomial):
        logits = numpyro.param(f"{name}.table", _jitter(shape))
        logits = rows(analysis, site, logits, indices)
        if site.static_support:
            return dist.MultinomialLogits(logits, kind.upper_bound, validate_args=False)
        prior = unwrap(prior_of(analysis, site, kwargs, given))
        return dist.MultinomialLogits(
            logits,
            prior.total_count,
            total_count_max=prior.total_count_max,
            validate_args=False,
        )
    support = element_support(support_of(analysis, site, kwargs, given))
    if isinstance(kind, constraints.integer_interval):
        logits = numpyro.param(f"{name}.logits", _jitter(shape))
        base = dist.BinomialLogits(
            rows(analysis, site, logits, indices),
            support.upper_bound - support.lower_bound,
            validate_args=False,
        )
    else:
        mean = numpyro.param(
            f"{name}.mean",
            lambda key: jax.random.uniform(key, shape, minval=0.5, maxval=4.0),
            constraint=constraints.positive,
        )
        concentration = numpyro.param(
            f"{name}.concentration",
            lambda _: jnp.full(shape, 10.0),
            constraint=constraints.positive,
        )
        concentration = rows(analysis, site, concentration, indices)
        base = dist.NegativeBinomial2(
            rows(analysis, site, mean, indices),
            jnp.minimum(concentration, MAX_CONCENTRATION),
            validate_args=False,
        )
    return _shifted(base, support.lower_bound)


def _shifted(base: dist.Distribution, low: Any) -> dist.Distribution:
    if isinstance(low, int) and low == 0:
        return base
    return Shifted(base, low, validate_args=False)


def probabilities(params: Params) -> Params:
    """Of each value of the tables among the parameters, by name, as NumPy arrays."""
    found = {}
    for name, logits in params.items():
        if not hasattr(logits, "shape"):  # a nested parameter of the model's own
            continue
        logits = np.asarray(logits, np.float64)
        if name.endswith(".logits"):
            found[name] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        elif name.endswith(".table"):
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            found[name] = weights / weights.sum(-1, keepdims=True)
    return found


def discrete_units(params: Params) -> Params:
    r"""Lengths over which probabilities change noticeably, by parameter.

    $1 / \sqrt{p (1 - p)}$ for the logit of a value of probability $p$: far out nothing
    changes any more, however far logits drift.
    """
    return {
        name: 1 / np.sqrt(np.maximum(p * (1 - p), 1e-12))
        for name, p in probabilities(params).items()
    }


def location_distance(params: Params, other: Params, units: Params) -> float:
    """`Guide.distance` of families whose parameters are locations and tables."""
    ours, theirs = probabilities(params), probabilities(other)
    gaps = [10 * np.abs(ours[name] - theirs[name]) for name in ours]
    gaps += [
        np.abs(params[name] - other[name]) / units[name]
        for name in params
        if name.endswith(".loc") and hasattr(params[name], "shape")
    ]
    return max((float(np.max(gap, initial=0.0)) for gap in gaps), default=0.0)


def _jitter(shape: tuple[int, ...]):  # noqa: ANN202
    return lambda key: 0.1 * jax.random.normal(key, shape)
