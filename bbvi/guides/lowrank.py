"""`LowRank`: one Gaussian over all continuous sites, covariance of low rank."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bbvi._types import Array, Key, Params
from bbvi.analysis import Analysis
from bbvi.guides.base import (
    INITIAL_SCALE,
    Gaussian,
    Guide,
    continuous_of,
)
from bbvi.guides.discrete import discrete_units, location_distance
from bbvi.guides.gaussian import (
    JOINT,
    LOC,
    by_site,
    flat_of,
    joint_program,
    joint_refusals,
    place,
)

MAX_DIM = 100_000
"""Largest dimension of a Gaussian of low rank."""
SCALE, FACTOR = f"{JOINT}.scale", f"{JOINT}.factor"
TILT = 0.1
"""Initial size of the factor's columns, relative to the scales: 0 is a saddle."""

LOOSE = 3.0
"""Units of the factor in standard deviations: how little its drift tells."""


@dataclass(frozen=True)
class LowRank(Guide):
    r"""A Gaussian with covariance diagonal plus low rank over all continuous sites.

    $$(T_1^{-1}(z_1), \dots, T_n^{-1}(z_n)) \sim
      \mathrm{Normal}(\text{loc}, S^2 + W W^\top)$$

    with $T_i$ NumPyro's transform from unconstrained space to the support of site $i$,
    $S$ diagonal (``scale``) and $W$ (``factor``) of ``rank`` columns: the directions
    of strongest correlation, and independent noise. $d (\text{rank} + 2)$ parameters
    and $O(d\,\text{rank}^2)$ a step, up to 100,000 dimensions. Scaled, masked and
    subsampled sites are refused, as by `FullRank`.

    Args:
        rank: Number of columns of $W$, at least 1.

    Raises:
        ValueError: The rank is not a positive int.

    Example:
        >>> import bbvi
        >>> bbvi.guides.LowRank(rank=5)
        LowRank(rank=5)

    References:
        Ong, Nott and Smith (2018), Gaussian variational approximation with a factor
        covariance structure, eq. 4.
    """

    rank: int = 10
    draws_jointly = True

    def __post_init__(self) -> None:
        whole = isinstance(self.rank, (int, np.integer))
        if isinstance(self.rank, bool) or not whole or self.rank < 1:
            raise ValueError(f"rank must be an int of at least 1; found {self.rank!r}")

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        return joint_refusals(self, analysis, names, MAX_DIM)

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        factored = partial(_factored, rank=self.rank)
        return joint_program(analysis, names, factored, place)

    def retract(self, params: Params, step: Params) -> Params:
        r"""Steps in units of q: $\text{loc} + R a$, $W + R B$ and $S e^b$.

        $R$ is the root $S (I + V V^\top)^{1/2}$ of the covariance $R R^\top$, with
        $V = S^{-1} W$: $O(d\,\text{rank}^2)$.
        """
        moved = super().retract(params, step)
        if LOC in params:
            scale = jnp.exp(params[SCALE])[:, None]
            columns = step[FACTOR] / len(scale) ** 0.5
            steps = jnp.concatenate([step[LOC][:, None], columns], 1)
            turned = scale * _times_root(params[FACTOR] / scale, steps)
            moved[LOC] = params[LOC] + turned[:, 0]
            moved[FACTOR] = params[FACTOR] + turned[:, 1:]
        return moved

    def units(self, params: Params) -> Params:
        """Standard deviations for locations, 1 for log scales, more for the factor.

        Its columns are known up to a rotation, and those that nothing needs are flat
        directions of the bound to second order.
        """
        units = {**jax.tree.map(np.ones_like, params), **discrete_units(params)}
        if LOC in params:
            units[LOC] = _deviations(params)
            rows = LOOSE * units[LOC][:, None]
            units[FACTOR] = np.broadcast_to(rows, np.shape(params[FACTOR]))
        return units

    def distance(self, params: Params, other: Params) -> float:
        return location_distance(params, other, self.units(params))

    def gaussian(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        sites = continuous_of(analysis, names)
        if not sites:
            return None
        factor = np.asarray(params[FACTOR], np.float64)
        own = np.exp(2 * np.asarray(params[SCALE], np.float64))
        return Gaussian(
            loc=by_site(analysis, sites, params[LOC]),
            scale=by_site(analysis, sites, _deviations(params)),
            covariance=lambda: np.diag(own) + factor @ factor.T,
        )

    def start_from(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        params: Params,
        other: Gaussian,
    ) -> Params:
        scale = flat_of(other.scale)
        noise = np.random.default_rng(0).normal(size=np.shape(params[FACTOR]))
        return {
            **params,
            LOC: flat_of(other.loc),
            SCALE: np.log(scale),
            FACTOR: TILT * scale[:, None] * noise,
        }


def _factored(init: Callable[[Key], Array], dim: int, rank: int) -> dist.Distribution:
    loc = numpyro.param(LOC, init)
    scale = numpyro.param(
        SCALE,
        lambda _: jnp.full(dim, INITIAL_SCALE),
        constraint=constraints.positive,
    )
    factor = numpyro.param(
        FACTOR,
        lambda key: INITIAL_SCALE * TILT * jax.random.normal(key, (dim, rank)),
    )
    return dist.LowRankMultivariateNormal(loc, factor, scale**2)


def _times_root(factor: Array, vectors: Array) -> Array:
    r"""$(I + V V^\top)^{1/2}$ times vectors, $V$ of shape ``(d, rank)``.

    With $V^\top V = Q \Lambda Q^\top$ the root is $I + V Q K Q^\top V^\top$,
    $K = (\sqrt{1 + \Lambda} - 1) / \Lambda = 1 / (\sqrt{1 + \Lambda} + 1)$.
    """
    size, basis = jnp.linalg.eigh(factor.T @ factor)
    turned = factor @ basis
    gain = 1 / (jnp.sqrt(1 + jnp.maximum(size, 0)) + 1)
    return vectors + turned @ (gain[:, None] * (turned.T @ vectors))


def _deviations(params: Params) -> np.ndarray:
    own = np.exp(2 * np.asarray(params[SCALE], np.float64))
    return np.sqrt(own + np.sum(np.asarray(params[FACTOR], np.float64) ** 2, 1))
