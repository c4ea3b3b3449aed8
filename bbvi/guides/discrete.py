"""Factors of q for discrete sites: a table for each element, or a countable family."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bbvi._types import Array, Key, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import full_shape, rows

MAX_CONCENTRATION = 1_000.0
"""Of negative binomials: beyond it they are Poisson, and 32 bits lose the density."""


class Table(dist.Distribution):
    r"""A categorical distribution on ``low, low + 1, ..., low + K - 1``.

    $$q(z = \text{low} + k) = \mathrm{softmax}(\text{logits})_k$$

    Args:
        logits: Unnormalised log probabilities, ``(*batch_shape, K)``.
        low: Smallest value, an int.
    """

    arg_constraints = {"logits": constraints.real_vector}
    pytree_data_fields = ("logits",)
    pytree_aux_fields = ("low",)
    has_enumerate_support = True

    def __init__(
        self, logits: Array, low: int = 0, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.low = logits, low
        super().__init__(jnp.shape(logits)[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        high = self.low + jnp.shape(self.logits)[-1] - 1
        return constraints.integer_interval(self.low, high)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = sample_shape + self.batch_shape
        return self.low + jax.random.categorical(key, self.logits, shape=shape)

    def log_prob(self, value: Array) -> Array:
        return dist.CategoricalLogits(self.logits).log_prob(value - self.low)

    def entropy(self) -> Array:
        return dist.CategoricalLogits(self.logits).entropy()

    def enumerate_support(self, expand: bool = True) -> Array:  # noqa: FBT001, FBT002
        values = dist.CategoricalLogits(self.logits).enumerate_support(expand)
        return self.low + values


def is_countable(site: Site) -> bool:
    """Whether a discrete site takes the values 0, 1, 2, ... without an end."""
    support = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.nonnegative_integer))


def discrete_refusal(site: Site) -> str | None:
    """Why no factor for a discrete site exists, or None."""
    if site.values is not None or is_countable(site):
        return None
    return (
        f"{site.describe} has a support ({site.support}) for which there is no factor "
        f"of q: discrete sites need one known finite support for all elements (with "
        f"counts given as ints, not arrays) or the non-negative integers; write a "
        f"guide for it and pass guide=..."
    )


def sample_discrete(analysis: Analysis, site: Site, indices: Values) -> Array:
    """State parameters and sample statement of a discrete site.

    Finite sites get a logit for each value (one in all for two values); countable
    ones a negative binomial with its own mean and concentration in each element,
    which holds the Poisson as its limit.
    """
    shape, name = full_shape(analysis, site), site.name
    if site.values is None:
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
        factor = dist.NegativeBinomial2(
            rows(analysis, site, mean, indices),
            jnp.minimum(concentration, MAX_CONCENTRATION),
            validate_args=False,
        )
    elif len(site.values) == 2 and site.values[0] == 0:
        logits = numpyro.param(f"{name}.logits", _jitter(shape))
        factor = dist.BernoulliLogits(
            rows(analysis, site, logits, indices), validate_args=False
        )
    else:
        logits = numpyro.param(f"{name}.table", _jitter((*shape, len(site.values))))
        logits = rows(analysis, site, logits, indices)
        factor = Table(logits, int(site.values[0]), validate_args=False)
    return numpyro.sample(name, factor.to_event(site.event_dim))


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
