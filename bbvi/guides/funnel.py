"""`Funnel`: a full-rank Gaussian, the scales of whose elements move with some sites."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import constraints

from bbvi._types import Array, Key, Params
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import (
    Gaussian,
    continuous_of,
    dimension,
    element_support,
    unconstrained_shape,
)
from bbvi.guides.gaussian import (
    JOINT,
    LOC,
    TRIL,
    FullRank,
    by_site,
    dense,
    joint_program,
)
from bbvi.guides.triangles import TriangularNormal, triangle, tril_of

MAX_SCALES = 20
"""Most elements that the other elements' scales move with by default."""
BEND = f"{JOINT}.bend."
"""Start of the name of a site's part of B; its place in the vector follows."""


@dataclass(frozen=True)
class Funnel(FullRank):
    r"""A full-rank Gaussian, the scales of whose elements move with some sites.

    $$(g, w) \sim \mathrm{Normal}(\text{loc}, L L^\top), \qquad
      v = \text{loc}_v + (w - \text{loc}_v) \odot e^{B (g - \text{loc}_g)}$$

    with $g$ the unconstrained elements of ``sites`` and $v$ those of all others, as in
    `FullRank`. $\log q(g, v)$ is the Gaussian's at $(g, w)$ less
    $\sum_i (B (g - \text{loc}_g))_i$, whose mean is 0: the entropy is the Gaussian's.
    For posteriors that are wider at some values of scale parameters than at others:
    funnels of centred effects, $B > 0$, of effects relative to their scale, $B < 0$,
    and what lies between. With $B = 0$ it is `FullRank`. For $k$ elements of ``sites``
    among $d$, $k (d - k)$ parameters and as many operations a draw beside those of
    `FullRank`; a step takes $O(d^3)$. Beyond 300 dimensions, where there are no Newton
    steps, a fit that begins with it far from the posterior may diverge, and then says
    so; one that moves to it from `FullRank` begins near.

    Args:
        sites: Names of the sites with which the scales of the others move.

    Example:
        >>> import bbvi
        >>> bbvi.guides.Funnel(sites=("tau",))
        Funnel(sites=('tau',))

    References:
        Neal (2003), Slice sampling, section 8 (the funnel); Dinh, Sohl-Dickstein and
        Bengio (2017), Density estimation using Real NVP, eq. 7 (the map, its scale
        log-linear here).
    """

    sites: tuple[str, ...]
    is_gaussian = False

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        found = super().refusals(analysis, names)
        continuous = [site.name for site in continuous_of(analysis, names)]
        found += [
            f"{self!r}: {name!r} is no continuous site of q; use of "
            f"{', '.join(continuous)}"
            for name in self.sites
            if name not in continuous
        ]
        if not self.sites:
            found.append(f"{self!r} names no site: use guides.FullRank()")
        elif {*continuous} <= {*self.sites}:
            found.append(
                f"{self!r} leaves no continuous site whose scale could move: use "
                f"guides.FullRank()"
            )
        return found

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        starts = self._starts(analysis, names)

        def joint(init: Callable[[Key], Array], dim: int) -> dist.Distribution:
            straight, others = dense(init, dim), _others(dim, starts)
            whole = jnp.zeros((dim, dim))
            for start, size in starts.items():
                zeros = jnp.zeros((len(others), size))
                bend = numpyro.param(f"{BEND}{start}", zeros)
                whole = whole.at[others, start : start + size].set(bend)
            return FunnelNormal(straight, whole)

        return joint_program(analysis, names, joint, self._place)

    def _starts(self, analysis: Analysis, names: tuple[str, ...]) -> dict[int, int]:
        """Where in the vector each of the sites begins, and its size."""
        found, start = {}, 0
        for site in continuous_of(analysis, names):
            size = prod(unconstrained_shape(analysis, site))
            if site.name in self.sites and size:
                found[start] = size
            start += size
        return found

    def retract(self, params: Params, step: Params) -> Params:
        r"""Steps in units of q, those of `FullRank`, and for B those given all others.

        With $\sigma_i$ the standard deviation of element $i$ and $c_i$ that given all
        other elements, $B_{ik}$ moves by $A_{ik} c_i / (\sigma_i \sigma_k)$: where
        $g_k$ is off by one deviation, a step of one moves element $i$ by as much as
        the rest leaves it free to move.
        """
        moved = super().retract(params, step)
        starts = _starts_of(params)
        if starts:
            root = triangle(params[TRIL])
            sd = jnp.sqrt(jnp.sum(root**2, 1))
            identity = jnp.eye(len(root), dtype=root.dtype)
            inverse = solve_triangular(root, identity, lower=True)
            free = 1 / (sd * jnp.sqrt(jnp.sum(inverse**2, 0)))
            free = free[_others(len(root), starts), None]
            for start, size in starts.items():
                by = free / sd[start : start + size]
                name = f"{BEND}{start}"
                moved[name] = params[name] + by * step[name]
        return moved

    def units(self, params: Params) -> Params:
        """Those of `FullRank`, and for B what moves a log scale by 1 per deviation."""
        units = super().units(params)
        for start, size in _starts_of(params).items():
            name, sd = f"{BEND}{start}", units[LOC][start : start + size]
            units[name] = np.broadcast_to(1 / sd, np.shape(params[name]))
        return units

    def gaussian(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        mean, covariance = _moments(params)
        sites = continuous_of(analysis, names)
        return Gaussian(
            loc=by_site(analysis, sites, mean),
            scale=by_site(analysis, sites, np.sqrt(np.diagonal(covariance))),
            covariance=lambda: covariance,
        )

    def start_from(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        params: Params,
        other: Gaussian,
    ) -> Params:
        started = super().start_from(analysis, names, params, other)
        starts = _starts_of(params)
        dim, first = np.size(params[LOC]), 0
        straight = np.zeros((dim, sum(starts.values())))
        bend = straight if other.bend is None else other.bend
        for start, size in starts.items():
            part = bend[_others(dim, starts), first : first + size]
            started[f"{BEND}{start}"], first = part, first + size
        return started

    def base(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian:
        straight = super().gaussian(analysis, names, params)
        return straight._replace(bend=_bend_of(params))

    def bending(self, analysis: Analysis, names: tuple[str, ...]) -> np.ndarray:
        return _places(self._starts(analysis, names))


class FunnelNormal(dist.Distribution):
    r"""A Gaussian whose deviations $r$ are multiplied by $e^{B r}$, element by element.

    Args:
        base: The Gaussian, ``(dim,)``.
        bend: $B$, ``(dim, dim)``; an element with a column other than 0 has a row of 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("base", "bend")

    def __init__(self, base: TriangularNormal, bend: Array) -> None:
        self.base, self.bend = base, bend
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        off = self.base.rsample(key, sample_shape) - self.base.loc
        return self.base.loc + off * jnp.exp(off @ self.bend.T)

    def rsample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        off = value - self.base.loc
        log_scale = off @ self.bend.T
        straight = self.base.loc + off * jnp.exp(-log_scale)
        return self.base.log_prob(straight) - jnp.sum(log_scale, -1)

    def entropy(self) -> Array:
        return self.base.entropy()


def scales(analysis: Analysis, names: tuple[str, ...]) -> tuple[str, ...]:
    """Sites on a half-line outside of plates, if others are left and they are few."""
    continuous = continuous_of(analysis, names)
    found = [site for site in continuous if _is_half_line(site) and not site.plates]
    few = dimension(analysis, found) <= MAX_SCALES
    return tuple(s.name for s in found) if few and len(found) < len(continuous) else ()


def _is_half_line(site: Site) -> bool:
    support = element_support(site.support)
    kinds = (constraints.positive, constraints.nonnegative)
    return isinstance(support, tuple(map(type, kinds)))


def _starts_of(params: Params) -> dict[int, int]:
    """As `Funnel._starts`, from the parameters."""
    bends = [name for name in params if name.startswith(BEND)]
    starts = {int(n.removeprefix(BEND)): np.shape(params[n])[1] for n in bends}
    return dict(sorted(starts.items()))


def _places(starts: dict[int, int]) -> np.ndarray:
    """Places of the elements of the sites."""
    places = [np.arange(start, start + size) for start, size in starts.items()]
    return np.concatenate(places)


def _others(dim: int, starts: dict[int, int]) -> np.ndarray:
    """Places of the elements whose scales move."""
    return np.setdiff1d(np.arange(dim), _places(starts))


def _bend_of(params: Params) -> np.ndarray:
    """B, `(dim, k)`, with rows of 0 for the elements of the sites."""
    starts, dim = _starts_of(params), np.size(params[LOC])
    parts = [np.asarray(params[f"{BEND}{start}"], np.float64) for start in starts]
    bend = np.zeros((dim, sum(starts.values())))
    bend[_others(dim, starts)] = np.concatenate(parts, 1)
    return bend


def _moments(params: Params) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and covariance of the vector.

    For jointly Gaussian $r_i, r_j, t$ of mean 0, with $c = \mathrm{Cov}(r, t)$,
    $E[r_i e^t] = c_i e^{\mathrm{Var}(t) / 2}$ and
    $E[r_i r_j e^t] = (\Sigma_{ij} + c_i c_j) e^{\mathrm{Var}(t) / 2}$.
    """
    loc = np.asarray(params[LOC], np.float64)
    root = tril_of(params[TRIL], len(loc))
    bend = np.zeros_like(root)
    bend[:, _places(_starts_of(params))] = _bend_of(params)
    covariance = root @ root.T
    through = covariance @ bend.T  # of r_i with t_j
    between = bend @ through  # of t_i with t_j
    own, spread = np.diagonal(through), np.diagonal(between)
    off = own * np.exp(spread / 2)
    first = own[:, None] + through
    grown = np.exp((spread[:, None] + spread) / 2 + between)
    square = (covariance + first * first.T) * grown
    return loc + off, square - np.outer(off, off)
