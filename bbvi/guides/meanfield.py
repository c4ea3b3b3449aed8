"""`MeanField`: every element of every site on its own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from bbvi._types import Array, Key, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import (
    INITIAL_SCALE,
    Gaussian,
    Guide,
    continuous_of,
    continuous_refusal,
    initial_loc,
    is_real,
    minibatch,
    prior_centre,
    rows,
    support_of,
    unconstrained_shape,
)
from bbvi.guides.discrete import (
    discrete_refusal,
    discrete_units,
    location_distance,
    sample_discrete,
)


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

    is_gaussian = True

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        sites = [analysis.sites[name] for name in names]
        found = [
            discrete_refusal(site) if site.is_discrete else continuous_refusal(site)
            for site in sites
        ]
        return [refusal for refusal in found if refusal]

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        sites = [analysis.sites[name] for name in names]
        continuous = [site for site in sites if not site.is_discrete]

        def guide(**kwargs: Any) -> Values:
            indices = minibatch(analysis, names)
            noise = _standard_normal(continuous)
            centres = cache(lambda: prior_centre(analysis, names, kwargs))
            values: Values = {}
            for site in sites:
                given = {**indices, **values}
                if site.is_discrete:
                    values[site.name] = sample_discrete(
                        analysis, site, indices, kwargs, given
                    )
                    continue
                support = support_of(analysis, site, kwargs, given)

                def init(key: Key, site: Site = site) -> Array:
                    shape = unconstrained_shape(analysis, site)
                    jitter = noise[site.name]
                    if jitter.shape != shape:
                        jitter = jax.random.normal(key, shape)
                    return initial_loc(centres().get(site.name), jitter)

                values[site.name] = _sample_normal(
                    analysis, site, support, indices, init, noise[site.name]
                )
            return values

        return guide

    def retract(self, params: Params, step: Params) -> Params:
        """Locations move in units of their scales; scales are logarithms already."""
        moved = super().retract(params, step)
        for name in params:
            scale = name.removesuffix("loc") + "scale"
            # A model's own parameter may have such a name too, without a scale.
            if name.endswith(".loc") and scale in params:
                moved[name] = params[name] + jnp.exp(params[scale]) * step[name]
        return moved

    def units(self, params: Params) -> Params:
        """Scales for locations, 1 for logarithms of scales and for logits."""
        units = {**jax.tree.map(np.ones_like, params), **discrete_units(params)}
        for name in params:
            scale = name.removesuffix("loc") + "scale"
            if name.endswith(".loc") and scale in params:
                units[name] = np.exp(params[scale])
        return units

    def distance(self, params: Params, other: Params) -> float:
        return location_distance(params, other, self.units(params))

    def gaussian(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        sites = continuous_of(analysis, names)
        loc, scale = (
            {s.name: np.asarray(params[f"{s.name}.{part}"], np.float64) for s in sites}
            for part in ("loc", "scale")
        )
        scale = {name: np.exp(value) for name, value in scale.items()}

        def covariance() -> np.ndarray:
            return np.diag(np.concatenate([x.ravel() for x in scale.values()]) ** 2)

        return Gaussian(loc, scale, covariance) if sites else None

    def start_from(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        params: Params,
        other: Gaussian,
    ) -> Params:
        locs = {f"{name}.loc": x for name, x in other.loc.items()}
        scales = {f"{name}.scale": np.log(x) for name, x in other.scale.items()}
        return {**params, **locs, **scales}


class _Drawn(Messenger):
    """Give a statement the draw that was made for it, with what led to it."""

    def __init__(self, value: Array, intermediates: list[Any]) -> None:
        super().__init__()
        self.value, self.intermediates = value, intermediates

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            msg["value"], msg["intermediates"] = self.value, self.intermediates


def _standard_normal(sites: list[Site]) -> Values:
    """Noise for all sites, made once, as random numbers are slow to compile."""
    shapes = [biject_to(site.support).inverse_shape(site.shape) for site in sites]
    if not shapes:
        return {}
    flat = jax.random.normal(numpyro.prng_key(), (sum(map(prod, shapes)),))
    flat = jax.lax.optimization_barrier(flat)  # not made anew wherever it is used
    ends = list(accumulate(map(prod, shapes)))
    return {
        site.name: flat[end - prod(shape) : end].reshape(shape)
        for site, shape, end in zip(sites, shapes, ends, strict=True)
    }


def _sample_normal(
    analysis: Analysis,
    site: Site,
    support: Any,
    indices: Values,
    init: Callable[[Key], Array],
    noise: Array,
) -> Array:
    shape = unconstrained_shape(analysis, site)
    whole_loc = numpyro.param(f"{site.name}.loc", init)
    whole_scale = numpyro.param(
        f"{site.name}.scale",
        lambda _: jnp.full(shape, INITIAL_SCALE),
        constraint=constraints.positive,
    )
    loc = rows(analysis, site, whole_loc, indices)
    scale = rows(analysis, site, whole_scale, indices)
    base, draw = dist.Normal(loc, scale, validate_args=False), loc + scale * noise
    if is_real(site):
        with _Drawn(draw, []):
            return numpyro.sample(site.name, base.to_event(site.event_dim))
    transform = biject_to(support)
    inner = base.to_event(transform.domain.event_dim)
    factor = dist.TransformedDistribution(inner, transform, validate_args=False)
    factor = factor.to_event(site.event_dim - factor.event_dim)
    with _Drawn(transform(draw), [[draw, None]]):
        return numpyro.sample(site.name, factor)
