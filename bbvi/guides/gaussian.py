"""`FullRank`: one Gaussian over all continuous sites, and what joint families share.

A joint family draws one auxiliary vector; the sites are its parts, mapped to their
supports. `joint_program` writes such a guide around any distribution of the vector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to

from bbvi._types import Array, Key, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import (
    INITIAL_SCALE,
    Gaussian,
    Guide,
    continuous_of,
    continuous_refusal,
    dimension,
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
from bbvi.guides.triangles import (
    TriangularNormal,
    dim_of,
    product,
    triangle,
    tril_of,
    tril_units,
    tril_vector,
)

MAX_DIM = 1_000
"""Largest dimension of a full-rank Gaussian: its parameters grow with the square."""
CALM = 8
"""Rows of a triangle whose entries may move as far as all other parameters."""
JOINT = "_joint"
"""Name of the auxiliary site that holds all continuous sites, unconstrained."""
LOC, TRIL = f"{JOINT}.loc", f"{JOINT}.scale_tril"


@dataclass(frozen=True)
class FullRank(Guide):
    r"""A Gaussian with full covariance over all continuous sites, tables for the rest.

    $$(T_1^{-1}(z_1), \dots, T_n^{-1}(z_n)) \sim
      \mathrm{Normal}(\text{loc}, L L^\top)$$

    with $T_i$ NumPyro's transform from unconstrained space to the support of site
    $i$ and $L$ lower triangular, positive diagonal. $d + d (d + 1) / 2$ parameters and
    $O(d^2)$ a draw; up to 1,000 dimensions. Sites in subsampled plates and masked sites
    are refused: one joint density cannot carry their scale. So are sites along which
    the log density jumps: a score function needs them drawn on their own.

    Example:
        >>> import bbvi
        >>> bbvi.guides.FullRank()
        FullRank()

    References:
        Kucukelbir et al. (2017), Automatic differentiation variational inference,
        section 2.4 (full-rank Gaussian).
    """

    draws_jointly = True
    is_gaussian = True

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        return joint_refusals(self, analysis, names, MAX_DIM)

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        return joint_program(analysis, names, dense, self._place, self.centre)

    def placing(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        """The same program around a vector of any density, given as `JOINT`."""
        return joint_program(analysis, names, _given, self._place)

    def _place(self, *given: Any) -> Any:
        """State a site at its part of the vector."""
        return place(*given)

    def retract(self, params: Params, step: Params) -> Params:
        r"""Steps in units of q: $\text{loc} + L a$ and $L (I + B)$, $B$ triangular."""
        moved = super().retract(params, step)
        if LOC in params:
            moved[LOC] = params[LOC] + triangle(params[TRIL]) @ step[LOC]
            moved[TRIL] = product(params[TRIL], turn_of(step[TRIL]))
        return moved

    def units(self, params: Params) -> Params:
        """Standard deviations for locations and rows of L, 1 for log diagonals."""
        units = {**jax.tree.map(np.ones_like, params), **discrete_units(params)}
        if LOC in params:
            sd = np.sqrt(np.sum(tril_of(params[TRIL], np.size(params[LOC])) ** 2, 1))
            units[LOC], units[TRIL] = sd, tril_units(sd)
        return units

    def distance(self, params: Params, other: Params) -> float:
        return location_distance(params, other, self.units(params))

    def gaussian(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        sites = continuous_of(analysis, names)
        if not sites:
            return None
        scale = tril_of(params[TRIL], np.size(params[LOC]))
        return Gaussian(
            loc=by_site(analysis, sites, params[LOC]),
            scale=by_site(analysis, sites, np.sqrt(np.sum(scale**2, 1))),
            covariance=lambda: scale @ scale.T,
        )

    def start_from(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        params: Params,
        other: Gaussian,
    ) -> Params:
        tril = np.linalg.cholesky(other.covariance())
        return {**params, LOC: flat_of(other.loc), TRIL: tril_vector(tril)}


def dense(init: Callable[[Key], Array], dim: int) -> dist.Distribution:
    """State the parameters of a Gaussian with full covariance; the Gaussian."""
    loc = numpyro.param(LOC, init)
    tril = numpyro.param(TRIL, tril_vector(INITIAL_SCALE * np.eye(dim, dtype="f")))
    return TriangularNormal(loc, tril)


def _given(_: Callable[[Key], Array], dim: int) -> dist.Distribution:
    """What stands for the density of a vector that is given from outside."""
    return dist.ImproperUniform(dist.constraints.real_vector, (), (dim,))


def joint_refusals(
    guide: Guide, analysis: Analysis, names: tuple[str, ...], limit: int
) -> list[str]:
    """Why one vector cannot hold the continuous sites, or has too many dimensions."""
    found = site_refusals(guide, analysis, names)
    if found:
        return found
    continuous = continuous_of(analysis, names)
    for site in continuous:
        if site.is_masked or analysis.plate_scale(site.name) != 1:
            what = "masked" if site.is_masked else "subsampled"
            found.append(
                f"{site.describe} is {what}, which {guide!r} cannot carry: use "
                f"guides.MeanField()"
            )
        found.append(jump_refusal(guide, analysis, site))
    dim = dimension(analysis, continuous)
    if dim > limit:
        found.append(
            f"{guide!r} would have {dim} dimensions, more than {limit}: use "
            f"guides.MeanField()"
        )
    return [refusal for refusal in found if refusal]


def site_refusals(
    guide: Guide, analysis: Analysis, names: tuple[str, ...]
) -> list[str]:
    """Why sites have no factor, or bounds that are drawn after them."""
    sites = [analysis.sites[name] for name in names]
    discrete = [site.name for site in sites if site.is_discrete]
    found = []
    for site in sites:
        refusal = discrete_refusal if site.is_discrete else continuous_refusal
        found.append(refusal(site))
        late = [n for n in analysis.bounds.get(site.name, ()) if n in discrete]
        if late and not site.is_discrete:
            found.append(
                f"the support of {site.describe} depends on {', '.join(late)}, "
                f"drawn after it in {guide!r}: use guides.MeanField()"
            )
    return [refusal for refusal in found if refusal]


def jump_refusal(guide: Guide, analysis: Analysis, site: Site) -> str | None:
    """Why a site along which the log density jumps cannot be part of a joint draw."""
    if site.name not in analysis.jumps:
        return None
    return (
        f"{site.describe} needs a score function ({analysis.jumps[site.name]}), and "
        f"{guide!r} draws it together with others: use guides.MeanField()"
    )


def joint_program(
    analysis: Analysis,
    names: tuple[str, ...],
    joint: Callable[[Callable[[Key], Array], int], dist.Distribution],
    placing: Callable[..., Any],
    centre: Callable[..., Values] = prior_centre,
) -> Callable[..., Any]:
    """A guide that draws all continuous sites as parts of one vector.

    Args:
        analysis: Of the model.
        names: The sites of q.
        joint: ``joint(init, dim)`` states the parameters of the vector's distribution
            and returns it; ``init(key)`` is where its location starts.
        placing: How a site is stated at its part of the vector, see `place`.
        centre: Where starts lie, see `Guide.centre`.
    """
    continuous = continuous_of(analysis, names)
    discrete = [analysis.sites[n] for n in names if analysis.sites[n].is_discrete]
    shapes = {s.name: unconstrained_shape(analysis, s) for s in continuous}
    dim = dimension(analysis, continuous)

    def guide(**kwargs: Any) -> Values:
        values: Values = {}
        if dim:
            factor = joint(partial_loc(analysis, continuous, kwargs, centre), dim)
            flat = numpyro.sample(JOINT, factor, infer={"is_auxiliary": True})
            start = 0
            for site in continuous:
                size = prod(shapes[site.name])
                part = flat[start : start + size].reshape(shapes[site.name])
                values[site.name] = placing(analysis, site, part, kwargs, values)
                start += size
        for site in discrete:
            values[site.name] = sample_discrete(analysis, site, {}, kwargs, values)
        return values

    return guide


def partial_loc(
    analysis: Analysis,
    sites: list[Site],
    kwargs: dict[str, Any],
    centre: Callable[..., Values] = prior_centre,
) -> Callable[[Key], Array]:
    """Where the joint location of some sites starts, given a key."""

    def init(key: Key) -> Array:
        centres = centre(analysis, tuple(site.name for site in sites), kwargs)
        middle = jnp.concatenate([centres[site.name].ravel() for site in sites])
        return initial_loc(middle, jax.random.normal(key, middle.shape))

    return init


def place(
    analysis: Analysis, site: Site, part: Any, kwargs: dict[str, Any], values: Values
) -> Any:
    """A site's part of a joint draw, constrained, with its Jacobian's density."""
    transform = biject_to(support_of(analysis, site, kwargs, values))
    value = transform(part)
    log_jacobian = transform.log_abs_det_jacobian(part, value)
    batch_ndim = len(site.shape) - site.event_dim
    extra = tuple(range(batch_ndim, jnp.ndim(log_jacobian)))
    log_density = -jnp.sum(log_jacobian, extra)
    return numpyro.sample(site.name, exactly(site, value, log_density))


def exactly(site: Site, value: Array, log_density: Array) -> dist.Distribution:
    """A statement of what a site's value is, given the vector."""
    given = value, log_density, site.event_dim
    return dist.Delta(*given, validate_args=False)


def turn_of(step: Array, shrink: float | None = None) -> Array:
    """The vector of $I + B$ for a step, the entries below the diagonal shrunk.

    The optimizer moves all coordinates by about as much at once, and a triangle of $n$
    rows of equal entries stretches some direction by $n / 2$ times their size: beyond
    ``CALM`` rows they are made smaller by as much, unless ``shrink`` says by how much.
    """
    dim = dim_of(step)
    shrink = shrink or max(1.0, dim / CALM)
    if shrink == 1 or dim == 1:
        return step
    return jnp.concatenate([step[..., :-dim] / shrink, step[..., -dim:]], -1)


def flat_of(values: dict[str, np.ndarray]) -> np.ndarray:
    """Values of sites one after the other."""
    return np.concatenate([np.ravel(value) for value in values.values()])


def by_site(analysis: Analysis, sites: list[Site], flat: Any) -> dict[str, np.ndarray]:
    """The parts of a vector that belong to each site, in their shapes."""
    shapes = [unconstrained_shape(analysis, site) for site in sites]
    ends = np.cumsum([prod(shape) for shape in shapes])
    parts = np.split(np.asarray(flat, np.float64), ends[:-1])
    return {
        site.name: part.reshape(shape)
        for site, shape, part in zip(sites, shapes, parts, strict=True)
    }
