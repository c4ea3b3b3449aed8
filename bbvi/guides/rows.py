"""`Block`: the rows of a plate, each with a Gaussian given the globals.

A block takes the sites of exactly the same plates apart into rows and puts them
together again; `read_blocks` finds the blocks of a model.
"""

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from bbvi._types import Array, Key, Values
from bbvi.analysis import Analysis, Plate, Site
from bbvi.guides.base import (
    INITIAL_SCALE,
    continuous_of,
    dimension,
    initial_loc,
    prior_centre,
    unconstrained_shape,
)
from bbvi.guides.triangles import TriangularNormal, tril_vector

ROWS = "_rows."
"""Name of the auxiliary site of a plate's rows, before the plates' names."""


class Block(NamedTuple):
    """The sites of exactly the same plates: one Gaussian for each row.

    Attributes:
        plates: Outermost dimension first.
        sites: In the order of the model.
        size: Unconstrained elements of one row.
    """

    plates: tuple[Plate, ...]
    sites: tuple[Site, ...]
    size: int

    @property
    def name(self) -> str:
        """Of the auxiliary site."""
        return ROWS + ".".join(plate.name for plate in self.plates)

    @property
    def where(self) -> str:
        """The plates in words."""
        return ", ".join(repr(plate.name) for plate in self.plates)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows along each plate, all of them."""
        return tuple(plate.size for plate in self.plates)

    @property
    def scale(self) -> float:
        """What a minibatch stands for: the factor of the plates' scales."""
        return prod(plate.size / plate.subsample_size for plate in self.plates)

    def draw(
        self, analysis: Analysis, noise: Array, indices: Values, kwargs: Any
    ) -> Array:
        """State parameters and sample statement of the rows, given the globals."""

        def init(key: Key) -> Array:
            names = tuple(site.name for site in self.sites)
            centres = prior_centre(analysis, names, kwargs)
            keys = jax.random.split(key, len(self.sites))
            starts = {}
            for site, own in zip(self.sites, keys, strict=True):
                jitter = jax.random.normal(own, unconstrained_shape(analysis, site))
                starts[site.name] = initial_loc(centres.get(site.name), jitter)
            return self.join(analysis, starts)

        shape = (*self.shape, self.size)
        loc = numpyro.param(f"{self.name}.loc", init)
        slope = numpyro.param(f"{self.name}.slope", jnp.zeros((*shape, noise.size)))
        small = tril_vector(INITIAL_SCALE * np.eye(self.size, dtype="f"))
        tril = numpyro.param(
            f"{self.name}.scale_tril", np.broadcast_to(small, (*self.shape, small.size))
        )
        loc, slope, tril = (self.rows(x, indices) for x in (loc, slope, tril))
        factor = TriangularNormal(loc + slope @ noise, tril)
        with numpyro.handlers.scale(scale=self.scale):
            return numpyro.sample(self.name, factor, infer={"is_auxiliary": True})

    def rows(self, param: Array, indices: Values) -> Array:
        """The rows of a whole parameter that belong to the minibatch."""
        for axis, plate in enumerate(self.plates):
            if plate.is_subsampled:
                param = jnp.take(param, indices[plate.name], axis)
        return param

    def join(self, analysis: Analysis, values: Any, xp: Any = jnp) -> Any:
        """Values of the sites as rows, ``(*shape, size)``."""
        rows = []
        for site in self.sites:
            axes = self._axes(site)
            value = xp.moveaxis(values[site.name], axes, range(len(axes)))
            rows.append(value.reshape(*value.shape[: len(axes)], -1))
        return xp.concatenate(rows, -1)

    def split(self, analysis: Analysis, rows: Any, xp: Any = jnp) -> dict[str, Any]:
        """Values of the sites, of all rows or of a minibatch of them."""
        values, start, num = {}, 0, len(self.plates)
        for site in self.sites:
            axes, shape = self._axes(site), unconstrained_shape(analysis, site)
            rest = [n for axis, n in enumerate(shape) if axis not in axes]
            part = rows[..., start : start + prod(rest)]
            part = part.reshape(*part.shape[:num], *rest)
            values[site.name] = xp.moveaxis(part, range(num), axes)
            start += prod(rest)
        return values

    def _axes(self, site: Site) -> tuple[int, ...]:
        """The plates' axes in a site's value."""
        batch_ndim = len(site.shape) - site.event_dim
        return tuple(batch_ndim + plate.dim for plate in self.plates)


def read_blocks(
    analysis: Analysis, names: tuple[str, ...]
) -> tuple[list[Site], list[Block]]:
    """The global continuous sites, and the local ones by their plates."""
    globals_: list[Site] = []
    local: dict[tuple[Plate, ...], list[Site]] = {}
    for site in continuous_of(analysis, names):
        plates = plates_of(analysis, site)
        (local.setdefault(plates, []) if plates else globals_).append(site)
    blocks = []
    for plates, sites in local.items():
        num_rows = prod(plate.size for plate in plates)
        size = dimension(analysis, sites) // max(num_rows, 1)
        blocks.append(Block(plates, tuple(sites), size))
    return globals_, blocks


def plates_of(analysis: Analysis, site: Site) -> tuple[Plate, ...]:
    """The plates around a site, outermost dimension first."""
    plates = [analysis.plates[name] for name in site.plates]
    return tuple(sorted(plates, key=lambda plate: plate.dim))
