"""`MeanField`: every element of every site on its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from bbvi._types import Array, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import (
    INITIAL_SCALE,
    Guide,
    initial_loc,
    is_real,
    minibatch,
    rows,
    support_of,
    unconstrained_shape,
)
from bbvi.guides.discrete import discrete_refusal, sample_discrete


@dataclass(frozen=True)
class MeanField(Guide):
    r"""Independent factors: normals for continuous sites, tables for discrete ones.

    $$q(z) = \prod_i q_i(z_i), \qquad
      T_i^{-1}(z_i) \sim \mathrm{Normal}(\text{loc}_i, \text{scale}_i)$$

    with $T_i$ NumPyro's transform from unconstrained space to the site's support. Two
    parameters an element, cost linear in the dimension. It cannot show correlations
    and its standard deviations are too small where the posterior has them.

    Example:
        >>> import bbvi
        >>> bbvi.guides.MeanField()
        MeanField()

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference.
    """

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        sites = [analysis.sites[name] for name in names]
        found = [discrete_refusal(site) for site in sites if site.is_discrete]
        return [refusal for refusal in found if refusal]

    def program(
        self, analysis: Analysis, names: tuple[str, ...]
    ) -> Callable[..., Any]:
        def guide(**kwargs: Any) -> Values:
            indices = minibatch(analysis, names)
            values: Values = {}
            for site in map(analysis.sites.__getitem__, names):
                if site.is_discrete:
                    values[site.name] = sample_discrete(analysis, site, indices)
                else:
                    given = {**indices, **values}
                    support = support_of(analysis, site, kwargs, given)
                    init = initial_loc(analysis, site, kwargs)
                    values[site.name] = _sample_normal(
                        analysis, site, init, support, indices
                    )
            return values

        return guide

    def retract(self, params: Params, step: Params) -> Params:
        """Locations move in units of their scales; scales are logarithms already."""
        moved = super().retract(params, step)
        for name in params:
            if name.endswith(".loc"):
                log_scale = params[name.removesuffix("loc") + "scale"]
                moved[name] = params[name] + jnp.exp(log_scale) * step[name]
        return moved


def _sample_normal(
    analysis: Analysis, site: Site, init: Any, support: Any, indices: Values
) -> Array:
    shape = unconstrained_shape(analysis, site)
    loc = numpyro.param(f"{site.name}.loc", init)
    scale = numpyro.param(
        f"{site.name}.scale",
        lambda _: jnp.full(shape, INITIAL_SCALE),
        constraint=constraints.positive,
    )
    base = dist.Normal(
        rows(analysis, site, loc, indices), rows(analysis, site, scale, indices)
    )
    if is_real(site):
        return numpyro.sample(site.name, base.to_event(site.event_dim))
    transform = biject_to(support)
    inner = transform.domain.event_dim
    factor = dist.TransformedDistribution(base.to_event(inner), transform)
    return numpyro.sample(site.name, factor.to_event(site.event_dim - factor.event_dim))
