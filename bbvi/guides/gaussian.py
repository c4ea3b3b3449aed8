"""`FullRank`: one Gaussian over all continuous sites together."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from bbvi._types import Array, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import (
    INITIAL_SCALE,
    Guide,
    continuous_refusal,
    initial_loc,
    prior_centre,
    support_of,
    unconstrained_shape,
)
from bbvi.guides.discrete import (
    discrete_refusal,
    discrete_units,
    location_distance,
    sample_discrete,
)

MAX_DIM = 1_000
"""Largest dimension of a full-rank Gaussian: its parameters grow with the square."""
JOINT = "_joint"
"""Name of the auxiliary site that holds all continuous sites, unconstrained."""


@dataclass(frozen=True)
class FullRank(Guide):
    r"""A Gaussian with full covariance over all continuous sites, tables for the rest.

    $$(T_1^{-1}(z_1), \dots, T_n^{-1}(z_n)) \sim
      \mathrm{Normal}(\text{loc}, L L^\top)$$

    with $T_i$ NumPyro's transform from unconstrained space to the support of site
    $i$ and $L$ lower triangular, positive diagonal. $d + d (d + 1) / 2$ parameters and
    $O(d^2)$ a draw; up to 1,000 dimensions. Sites in subsampled plates, scaled or
    masked sites are refused: one joint density cannot carry their scale. So
    are sites along which the log density jumps: a score function needs them drawn on
    their own.

    Example:
        >>> import bbvi
        >>> bbvi.guides.FullRank()
        FullRank()

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference,
        section 2.4 (full-rank Gaussian).
    """

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        found, dim = [], 0
        discrete = [name for name in names if analysis.sites[name].is_discrete]
        for site in map(analysis.sites.__getitem__, names):
            if site.is_discrete:
                found.append(discrete_refusal(site))
                continue
            refusal = continuous_refusal(site)
            found.append(refusal)
            if refusal:
                continue
            late = [n for n in analysis.bounds.get(site.name, ()) if n in discrete]
            if late:
                found.append(
                    f"the support of {site.describe} depends on {', '.join(late)}, "
                    f"drawn after it in FullRank(): use guides.MeanField()"
                )
            dim += prod(unconstrained_shape(analysis, site))
            if site.scale != 1.0 or site.is_masked:
                what = "masked" if site.is_masked else "scaled or subsampled"
                found.append(
                    f"{site.describe} is {what}, which FullRank() cannot carry: use "
                    f"guides.MeanField()"
                )
            if site.name in analysis.jumps:
                found.append(
                    f"{site.describe} needs a score function "
                    f"({analysis.jumps[site.name]}), and FullRank() draws it together "
                    f"with others: use guides.MeanField()"
                )
        if dim > MAX_DIM:
            found.append(
                f"FullRank() would have {dim} dimensions, more than {MAX_DIM}: use "
                f"guides.MeanField()"
            )
        return [refusal for refusal in found if refusal]

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        sites = [analysis.sites[name] for name in names]
        continuous = [site for site in sites if not site.is_discrete]
        discrete = [site for site in sites if site.is_discrete]
        shapes = {s.name: unconstrained_shape(analysis, s) for s in continuous}
        dim = sum(map(prod, shapes.values()))

        def guide(**kwargs: Any) -> Values:
            values: Values = {}
            if dim:
                loc = numpyro.param(
                    f"{JOINT}.loc",
                    lambda key: initial_loc(
                        _flat_centre(analysis, continuous, kwargs),
                        jax.random.normal(key, (dim,)),
                    ),
                )
                scale_tril = numpyro.param(
                    f"{JOINT}.scale_tril",
                    lambda _: INITIAL_SCALE * jnp.eye(dim),
                    constraint=constraints.lower_cholesky,
                )
                joint = dist.MultivariateNormal(
                    loc, scale_tril=scale_tril, validate_args=False
                )
                flat = numpyro.sample(JOINT, joint, infer={"is_auxiliary": True})
                start = 0
                for site in continuous:
                    size = prod(shapes[site.name])
                    part = flat[start : start + size].reshape(shapes[site.name])
                    values[site.name] = _place(analysis, site, part, kwargs, values)
                    start += size
            for site in discrete:
                values[site.name] = sample_discrete(analysis, site, {}, kwargs, values)
            return values

        return guide

    def retract(self, params: Params, step: Params) -> Params:
        r"""Steps in units of q: $\text{loc} + L a$ and $L (I + B)$, $B$ triangular."""
        moved = super().retract(params, step)
        loc, tril = f"{JOINT}.loc", f"{JOINT}.scale_tril"
        if loc in params:
            to_tril = biject_to(constraints.lower_cholesky)
            scale = to_tril(params[tril])
            moved[loc] = params[loc] + scale @ step[loc]
            turn = to_tril(step[tril] / len(params[loc]) ** 0.5)
            moved[tril] = to_tril.inv(scale @ turn)
        return moved

    def units(self, params: Params) -> Params:
        """Standard deviations for locations and rows of L, 1 for log diagonals."""
        units = {**jax.tree.map(np.ones_like, params), **discrete_units(params)}
        loc, tril = f"{JOINT}.loc", f"{JOINT}.scale_tril"
        if loc in params:
            dim, flat = np.size(params[loc]), np.asarray(params[tril])
            scale = np.diag(np.exp(flat[flat.size - dim :]))
            below = np.tril_indices(dim, -1)
            scale[below] = flat[: flat.size - dim]
            sd = np.sqrt(np.sum(scale**2, 1))
            units[loc] = sd
            units[tril] = np.concatenate([sd[below[0]], np.ones(dim)])
        return units

    def centre(self, params: Params, names: tuple[str, ...]) -> Any:
        return np.asarray(params[f"{JOINT}.loc"])

    def around(
        self, params: Params, names: tuple[str, ...], point: Any, precision: Any
    ) -> Params:
        # With reversed axes, as L L^T = P^-1 wants the other triangle of P = U U^T.
        upper = np.linalg.cholesky(np.asarray(precision, np.float64)[::-1, ::-1])
        tril = np.linalg.inv(upper[::-1, ::-1]).T
        below = tril[np.tril_indices(len(tril), -1)]
        flat = np.concatenate([below, np.log(np.diagonal(tril))])
        dtype = np.asarray(params[f"{JOINT}.loc"]).dtype
        return {
            **params,
            f"{JOINT}.loc": np.asarray(point, dtype),
            f"{JOINT}.scale_tril": flat.astype(dtype),
        }

    def distance(self, params: Params, other: Params) -> float:
        return location_distance(params, other, self.units(params))


def _flat_centre(
    analysis: Analysis, sites: list[Site], kwargs: dict[str, Any]
) -> Array:
    centres = prior_centre(analysis, tuple(site.name for site in sites), kwargs)
    return jnp.concatenate([centres[site.name].ravel() for site in sites])


def _place(
    analysis: Analysis, site: Site, part: Any, kwargs: dict[str, Any], values: Values
) -> Any:
    """A site's part of the joint draw, constrained, with its Jacobian's density."""
    transform = biject_to(support_of(analysis, site, kwargs, values))
    value = transform(part)
    log_jacobian = transform.log_abs_det_jacobian(part, value)
    batch_ndim = len(site.shape) - site.event_dim
    extra = tuple(range(batch_ndim, jnp.ndim(log_jacobian)))
    log_density = -jnp.sum(log_jacobian, extra)
    return numpyro.sample(
        site.name, dist.Delta(value, log_density, event_dim=site.event_dim)
    )
