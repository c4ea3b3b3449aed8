"""`Structured`: a Gaussian over the globals, and one for each row of a plate."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.scipy.linalg import solve_triangular

from bbvi._types import Array, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.guides.base import (
    Gaussian,
    Guide,
    continuous_of,
    dimension,
    minibatch,
    unconstrained_shape,
)
from bbvi.guides.discrete import (
    discrete_units,
    location_distance,
    sample_discrete,
)
from bbvi.guides.gaussian import (
    JOINT,
    LOC,
    MAX_DIM,
    TRIL,
    by_site,
    dense,
    flat_of,
    jump_refusal,
    partial_loc,
    place,
    site_refusals,
    turn_of,
)
from bbvi.guides.rows import ROWS, Block, read_blocks
from bbvi.guides.triangles import product, triangle, tril_of, tril_units, tril_vector

MAX_ROW = 200
"""Most unconstrained elements of one row."""
MAX_PARAMETERS = 20_000_000
"""Most parameters of all rows together."""


@dataclass(frozen=True)
class Structured(Guide):
    r"""A Gaussian with full covariance over the globals, and one for each row.

    Sites outside all plates are global, $u = (T_i^{-1}(z_i))_i$; sites inside plates
    are local, and $v_r$ holds those of row $r$ of exactly the same plates:

    $$u \sim \mathrm{Normal}(\mu, L L^\top), \qquad
      v_r \mid u \sim \mathrm{Normal}(m_r + C_r L^{-1} (u - \mu),\; L_r L_r^\top)$$

    with $T_i$ NumPyro's transform from unconstrained space to the support of site $i$.
    A row is regressed on the standardised globals: slopes $A_r = C_r L^{-1}$. With
    $g$ globals, $n$ rows and $l$ elements a row, $n l (1 + g + (l + 1) / 2)$ parameters
    and as many operations a draw: linear in the rows. Rows of nested or crossed plates
    are cells, independent given the globals. Sites in minibatches are carried, their
    factor scaled as the plate scales the model; masked sites and other scales are
    refused. Discrete sites have tables.

    Example:
        >>> import bbvi
        >>> bbvi.guides.Structured()
        Structured()

    References:
        Tan and Nott (2018), Gaussian variational approximation with sparse precision
        matrices, section 3.1; Kim et al. (2024), Provably scalable black-box
        variational inference with structured variational families, eq. 7.
    """

    draws_jointly = True

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        found = site_refusals(self, analysis, names)
        if found:
            return found
        wide = "which Structured() cannot carry: use guides.MeanField()"
        for site in continuous_of(analysis, names):
            if site.is_masked:
                found.append(f"{site.describe} is masked, {wide}")
            found.append(jump_refusal(self, analysis, site))
        globals_, blocks = read_blocks(analysis, names)
        dim = dimension(analysis, globals_)
        if dim > MAX_DIM:
            found.append(f"{dim} global dimensions, more than {MAX_DIM}, {wide}")
        for block in blocks:
            number = prod(block.shape) * block.size * (1 + dim + (block.size + 1) / 2)
            if block.size > MAX_ROW or number > MAX_PARAMETERS:
                found.append(
                    f"the rows of plate {block.where} have {block.size} elements each "
                    f"and {number:.0f} parameters, {wide}"
                )
        return [refusal for refusal in found if refusal]

    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        globals_, blocks = read_blocks(analysis, names)
        continuous = continuous_of(analysis, names)
        discrete = [analysis.sites[n] for n in names if analysis.sites[n].is_discrete]
        dim = dimension(analysis, globals_)

        def guide(**kwargs: Any) -> Values:
            indices = minibatch(analysis, names)
            noise, parts = jnp.zeros(0), {}
            if dim:
                joint = dense(partial_loc(analysis, globals_, kwargs), dim)
                flat = numpyro.sample(JOINT, joint, infer={"is_auxiliary": True})
                noise = solve_triangular(joint.scale_tril, flat - joint.loc, lower=True)
                parts = _split(analysis, globals_, flat)
            for block in blocks:
                row = block.draw(analysis, noise, indices, kwargs)
                parts |= block.split(analysis, row)
            values: Values = {}
            for site in continuous:
                given = {**indices, **values}
                part = parts[site.name]
                values[site.name] = place(analysis, site, part, kwargs, given)
            for site in discrete:
                given = {**indices, **values}
                values[site.name] = sample_discrete(
                    analysis, site, indices, kwargs, given
                )
            return values

        return guide

    def retract(self, params: Params, step: Params) -> Params:
        r"""Steps in units of q, those of `FullRank` within the structure.

        $\mu + L a$, $L (I + B)$, and for a row $m + C a + L_r a_r$,
        $C (I + B) + L_r B_C$, $L_r (I + B_r)$: what moves the globals takes the rows
        along.
        """
        moved = super().retract(params, step)
        if LOC in params:
            turn = turn_of(step[TRIL])
            moved[LOC] = params[LOC] + triangle(params[TRIL]) @ step[LOC]
            moved[TRIL] = product(params[TRIL], turn)
        for loc, slope, tril in _row_names(params):
            shrink = sum(np.shape(params[slope])[-2:]) ** 0.5
            own = triangle(params[tril])
            moved[loc] = params[loc] + jnp.einsum("...ij,...j->...i", own, step[loc])
            moved[tril] = product(params[tril], turn_of(step[tril], shrink))
            if LOC in params:
                moved[loc] += params[slope] @ step[LOC]
                moved[slope] = (
                    params[slope] @ triangle(turn) + own @ step[slope] / shrink
                )
        return moved

    def units(self, params: Params) -> Params:
        """Standard deviations for locations and their rows, 1 for log diagonals."""
        units = {**jax.tree.map(np.ones_like, params), **discrete_units(params)}
        if LOC in params:
            sd = np.sqrt(np.sum(tril_of(params[TRIL], np.size(params[LOC])) ** 2, 1))
            units[LOC], units[TRIL] = sd, tril_units(sd)
        for loc, slope, tril in _row_names(params):
            sd = _row_deviations(params, slope, tril)
            units[loc], units[tril] = sd, tril_units(sd)
            units[slope] = np.broadcast_to(sd[..., None], np.shape(params[slope]))
        return units

    def distance(self, params: Params, other: Params) -> float:
        return location_distance(params, other, self.units(params))

    def gaussian(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        globals_, blocks = read_blocks(analysis, names)
        sites = continuous_of(analysis, names)
        if not sites:
            return None
        units = self.units(params)
        loc, scale = ({}, {})
        if globals_:
            loc |= by_site(analysis, globals_, params[LOC])
            scale |= by_site(analysis, globals_, units[LOC])
        for block in blocks:
            name = f"{block.name}.loc"
            loc |= block.split(analysis, np.asarray(params[name], np.float64), np)
            scale |= block.split(analysis, units[name], np)
        return Gaussian(
            loc={site.name: loc[site.name] for site in sites},
            scale={site.name: scale[site.name] for site in sites},
            covariance=lambda: _covariance(analysis, sites, globals_, blocks, params),
        )

    def start_from(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        params: Params,
        other: Gaussian,
    ) -> Params:
        globals_, blocks = read_blocks(analysis, names)
        started = dict(params)
        if globals_:
            scale = flat_of({s.name: other.scale[s.name] for s in globals_})
            started[LOC] = flat_of({s.name: other.loc[s.name] for s in globals_})
            started[TRIL] = tril_vector(np.diag(scale))
        for block in blocks:
            scale = block.join(analysis, other.scale, np)
            started[f"{block.name}.loc"] = block.join(analysis, other.loc, np)
            started[f"{block.name}.scale_tril"] = tril_vector(
                scale[..., None] * np.eye(block.size)
            )
        return started


def _split(analysis: Analysis, sites: list[Site], flat: Array) -> Values:
    shapes = [unconstrained_shape(analysis, site) for site in sites]
    ends = np.cumsum([0, *map(prod, shapes)])
    return {
        site.name: flat[start:end].reshape(shape)
        for site, shape, (start, end) in zip(sites, shapes, pairwise(ends), strict=True)
    }


def _row_names(params: Params) -> list[tuple[str, str, str]]:
    """Names of location, slope and triangle of every block of rows."""
    blocks = [
        name.removesuffix(".slope")
        for name in params
        if name.startswith(ROWS) and name.endswith(".slope")
    ]
    return [(f"{b}.loc", f"{b}.slope", f"{b}.scale_tril") for b in blocks]


def _row_deviations(params: Params, slope: str, tril: str) -> np.ndarray:
    """Standard deviation of every local element, globals drawn too."""
    through = np.asarray(params[slope], np.float64)
    own = tril_of(params[tril], through.shape[-2])
    return np.sqrt(np.sum(through**2, -1) + np.sum(own**2, -1))


def _covariance(
    analysis: Analysis,
    sites: list[Site],
    globals_: list[Site],
    blocks: list[Block],
    params: Params,
) -> np.ndarray:
    """Of all continuous sites, in their order: root times root transposed."""
    dim_all, dim = dimension(analysis, sites), dimension(analysis, globals_)
    root, order, start = np.zeros((dim_all, dim_all)), {}, dim
    if globals_:
        root[:dim, :dim] = tril_of(params[TRIL], dim)
        order |= by_site(analysis, globals_, np.arange(dim))
    for block in blocks:
        size = prod(block.shape) * block.size
        places = np.arange(start, start + size)
        order |= block.split(analysis, places.reshape(*block.shape, -1), np)
        slope = np.asarray(params[f"{block.name}.slope"], np.float64)
        root[places, :dim] = slope.reshape(size, dim)
        own = tril_of(params[f"{block.name}.scale_tril"], block.size)
        for row, tril in zip(
            places.reshape(-1, block.size),
            own.reshape(-1, block.size, block.size),
            strict=True,
        ):
            root[np.ix_(row, row)] = tril
        start += size
    chosen = flat_of({site.name: order[site.name] for site in sites}).astype(int)
    return (root @ root.T)[np.ix_(chosen, chosen)]
