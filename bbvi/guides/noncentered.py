"""`NonCentered`: a full-rank Gaussian of sites relative to their priors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpyro

from bbvi._types import Values
from bbvi.analysis import Analysis, Site
from bbvi.analysis.colouring import colours
from bbvi.analysis.tracing import unwrap
from bbvi.guides.base import continuous_of, is_real, prior_centre, prior_of
from bbvi.guides.gaussian import FullRank, exactly, place

LOC_SCALE = frozenset(
    ("Cauchy", "Gumbel", "Laplace", "Logistic", "Normal", "SoftLaplace", "StudentT")
)
"""Distributions that are a location plus a scale times noise."""


@dataclass(frozen=True)
class NonCentered(FullRank):
    r"""A full-rank Gaussian in which some sites stand relative to their priors.

    $$z_i = m_i + s_i \epsilon_i, \qquad (\epsilon_i, \dots, T_j^{-1}(z_j), \dots) \sim
      \mathrm{Normal}(\text{loc}, L L^\top)$$

    with $m_i$ and $s_i$ the location and the scale that the model gives site $i$ at the
    values of the sites before it, and $T_j$ as in `FullRank`. Where the scale of group
    effects is itself uncertain and the groups have few data, the effects' posterior is
    a funnel, which no Gaussian follows; that of $\epsilon$ is nearly one. It is what
    NumPyro's ``LocScaleReparam(0)`` makes of the model, with its sites left as they
    are. Cost: that of `FullRank`; the model is run for each site.

    Args:
        sites: Names of the sites that stand relative to their priors.

    Example:
        >>> import bbvi
        >>> bbvi.guides.NonCentered(sites=("theta",))
        NonCentered(sites=('theta',))

    References:
        Papaspiliopoulos, Roberts and Sköld (2007), A general framework for the
        parametrization of hierarchical models; Gorinova, Moore and Hoffman (2020),
        Automatic reparameterisation of probabilistic programs.
    """

    sites: tuple[str, ...]

    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        found = super().refusals(analysis, names)
        possible = noncentrable(analysis, names)
        return found + [
            f"{self!r}: {name!r} is no site of q whose location or scale other sites "
            f"determine; " + (f"use {possible}" if possible else "use FullRank()")
            for name in self.sites
            if name not in possible
        ]

    def centre(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        kwargs: Mapping[str, Any],
        init: Values | None = None,
    ) -> Values:
        return prior_centre(analysis, names, kwargs, init, self.sites)

    def _place(
        self, analysis: Analysis, site: Site, part: Any, kwargs: Any, values: Values
    ) -> Any:
        if site.name not in self.sites:
            return place(analysis, site, part, kwargs, values)
        prior = unwrap(prior_of(analysis, site, kwargs, values))
        loc, scale = (jnp.broadcast_to(x, site.shape) for x in (prior.loc, prior.scale))
        events = tuple(range(len(site.shape) - site.event_dim, len(site.shape)))
        log_density = -jnp.sum(jnp.log(scale), events)
        value = exactly(site, loc + scale * part, log_density)
        return numpyro.sample(site.name, value)


def noncentrable(analysis: Analysis, names: tuple[str, ...]) -> tuple[str, ...]:
    """Sites of a location-scale law of which other sites of q determine a part.

    Not those whose elements depend on each other, as in a random walk.
    """
    sites = continuous_of(analysis, names)
    continuous = {site.name for site in sites}

    def is_one(site: Site) -> bool:
        reached = analysis.influence[site.name]
        alone = colours([reached[site.name]], site.shape).number == 1
        given = continuous & reached.keys() - {site.name}
        return bool(given) and alone

    return tuple(
        site.name
        for site in sites
        if site.distribution in LOC_SCALE and is_real(site) and is_one(site)
    )
