"""Where starts lie: around values that a user gives, or where another fit ended.

`read_init` checks what is given, `origin_of` moves it to the coordinates of a family,
and `member_at` makes the member of the family there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi._types import Data, Key, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.analysis.structure import name_of
from bbvi.guides import Custom, Guide
from bbvi.guides.base import (
    INITIAL_SCALE,
    Gaussian,
    continuous_of,
    element_support,
    full_shape,
)
from bbvi.guides.gaussian import by_site, flat_of
from bbvi.optimize.loop import unravel
from bbvi.planning import Plan
from bbvi.programs import Programs
from bbvi.watching import flat

HERE = slice(None, None, 2)
"""Starts that lie around given values: the first, and every other.

The others lie where they would, so that a better place, or one as good, is seen.
"""
NARROW = 0.01
"""Standard deviation of q at given values, and of starts around them."""
SHOWN = 4
"""Numbers of a given value that a message shows."""


class Origin(NamedTuple):
    """A point around which starts lie.

    Attributes:
        values: What a user has given.
        loc: Coordinates of the continuous sites, one site after the other.
        is_given: Which of them are given; the others are the prior's.
    """

    values: Values
    loc: NDArray[Any]
    is_given: NDArray[Any]

    @property
    def scale(self) -> NDArray[Any]:
        """Standard deviations of q at its start there."""
        return np.where(self.is_given, NARROW, INITIAL_SCALE)

    def around(self, noise: NDArray[Any]) -> NDArray[Any]:
        """Places of starts: the first at the given values themselves, others near.

        Args:
            noise: Standard normal, ``(num_starts, d)``.
        """
        locs = self.loc + np.where(self.is_given, NARROW, 1.0) * noise
        locs[:1, self.is_given] = self.loc[self.is_given]
        return locs


def starts_of(
    plan: Plan, programs: Programs, origin: Origin | None, key: Key, data: Data
) -> NDArray[Any]:
    """Parameters of the starts of stochastic gradients, ``(num_starts, ...)``."""
    vectors = jax.device_get(programs.starts(key, data))
    if origin is None:
        return vectors
    vectors = np.array(vectors)
    sites = continuous_of(plan.analysis, plan.drawn)
    scale = origin.scale
    noise = generator_of(key).standard_normal((len(vectors[HERE]), len(scale)))
    for vector, loc in zip(vectors[HERE], origin.around(noise), strict=True):
        at = Gaussian(
            by_site(plan.analysis, sites, loc),
            by_site(plan.analysis, sites, scale),
            lambda: np.diag(scale**2),
        )
        vector[:] = flat(member_at(plan, unravel(vector, programs.like), at))
    return vectors


def member_at(plan: Plan, params: Params, at: Gaussian) -> Params:
    """The member of the family at a Gaussian, other parameters as they are."""
    made = plan.guide.start_from(plan.analysis, plan.drawn, params, at)
    return jax.tree.map(lambda new, old: np.asarray(new, old.dtype), made, params)


def generator_of(key: Key) -> np.random.Generator:
    """Random numbers of the host's own, for a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def origin_of(
    plan: Plan, programs: Programs, init: Values, data: Data
) -> Origin | None:
    """Given values as a place in the coordinates of the family; None if none are given.

    Raises:
        ValueError: A value is outside of a support that moves with other sites, or on
            the edge of its support.
    """
    if not init:
        return None
    centres = jax.device_get(programs.centre(init, data))
    sites = continuous_of(plan.analysis, plan.drawn)
    found = {site.name: np.asarray(centres[site.name], np.float64) for site in sites}
    _raise_if(
        plan.analysis,
        [
            _outside(site, init[site.name], "inside")
            for site in sites
            if site.name in init and not np.isfinite(found[site.name]).all()
        ],
    )
    is_given = {name: np.full(x.shape, name in init) for name, x in found.items()}
    return Origin(init, flat_of(found), flat_of(is_given))


def read_init(analysis: Analysis, guide: Any, init: Any) -> Values:
    """Values of continuous sites over whole plates, checked.

    Raises:
        TypeError: It is no mapping.
        ValueError: What is wrong with it, all in one message.
    """
    if init is None:
        return {}
    latents = analysis.latents
    if not isinstance(init, Mapping):
        raise TypeError(
            f"init must map sites to values, such as {{{next(iter(latents))!r}: 0.5}}; "
            f"found {type(init).__name__}"
        )
    problems = _guide_problems(guide) if init else []
    values = {}
    for name, value in init.items():
        site = latents.get(name)
        if site is None:
            problems.append(
                f"init names {name!r}, which is no latent site; the latent sites are "
                f"{', '.join(latents)}"
            )
        elif site.is_discrete:
            problems.append(
                f"{site.describe} is discrete, and init is for continuous sites: leave "
                f"it out"
            )
        else:
            read = _read_value(analysis, site, value)
            if isinstance(read, str):
                problems.append(read)
            else:
                values[name] = read
    _raise_if(analysis, problems)
    return values


def _guide_problems(guide: Any) -> list[str]:
    """Why a guide, as it was given, cannot begin there."""
    if isinstance(guide, Custom) or (callable(guide) and not isinstance(guide, type)):
        return [
            "the guide is a function, whose numpyro.param statements say where it "
            "starts: give the values there, numpyro.param(name, value)"
        ]
    if isinstance(guide, Guide) and type(guide).start_from is Guide.start_from:
        return [f"{guide!r} has no start_from, without which it cannot begin at init"]
    return []


def _read_value(analysis: Analysis, site: Site, value: Any) -> NDArray[Any] | str:
    """A value at its whole shape, or what is wrong with it."""
    try:
        array = np.asarray(value)
        read = array.astype(np.float64, casting="same_kind")
    except (TypeError, ValueError):
        return f"the init of {site.describe} must be real numbers; found {value!r}"
    shape = full_shape(analysis, site)
    try:
        whole = np.broadcast_to(read, shape)
    except ValueError:
        return (
            f"the init of {site.describe} has shape {read.shape}, which does not "
            f"broadcast to the site's {shape}"
        )
    if not np.isfinite(whole).all():
        return f"the init of {site.describe} is {_shown(read)}: give finite numbers"
    if site.static_support and not np.all(site.support(whole)):
        return _outside(site, read, "in")
    return whole


def _outside(site: Site, value: NDArray[Any], where: str) -> str:
    support = element_support(site.support)
    return f"the init of {site.describe} is {_shown(value)}, not {where} {support}"


def _shown(value: NDArray[Any]) -> str:
    return np.array2string(np.asarray(value), threshold=SHOWN, edgeitems=SHOWN // 2)


def _raise_if(analysis: Analysis, problems: list[str]) -> None:
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ValueError(f"{name_of(analysis.model)} cannot be fitted:\n{lines}")
