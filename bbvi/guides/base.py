"""The `Guide` interface, and what the built-in families share.

A guide is a frozen recipe without parameters. Its `program` is a NumPyro guide: a
function with ``numpyro.param`` and ``numpyro.sample`` statements, so that a user's own
guide and ours go through one and the same code.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from bbvi._types import Array, Params, Values
from bbvi.analysis import Analysis, Site
from bbvi.analysis.reading import draw_improper
from bbvi.analysis.tracing import run, unwrap

NEAR_ZERO = -0.674
"""First noise below which, once in four times, a site starts around 0."""
INITIAL_SCALE = 0.1
"""Initial standard deviation of a Gaussian factor, unconstrained units."""


class Gaussian(NamedTuple):
    """A Gaussian over the unconstrained continuous sites.

    Attributes:
        loc: Mean by site, plates at their whole size.
        scale: Standard deviation of each element, given all others or not, as the
            family has it.
        covariance: Makes the whole covariance, ``(d, d)``, sites in order one after
            the other.
        bend: How log scales of all elements move with the deviations of some,
            ``(d, k)``; see `Funnel`.
    """

    loc: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    covariance: Callable[[], np.ndarray]
    bend: np.ndarray | None = None


@dataclass(frozen=True)
class Guide:
    """A variational family q.

    To write your own:
      - make a frozen dataclass whose fields are the options;
      - `refusals` returns sentences for sites that the family cannot carry;
      - `program` returns a NumPyro guide over the named sites, in their order;
      - `retract` takes a step in units of q, where plain addition would not do, and
        `units` gives their lengths;
      - let `is_gaussian` be True if it is the full-rank or the factorised Gaussian and
        `start_from` makes any of them, so that Newton steps can fit it;
      - let `mirrors_model` be True if mask and minibatch of a model's site shall apply
        to its factor (they cannot be forgotten), False if the program sets its own;
      - let `draws_jointly` be True if auxiliary statements draw the continuous sites,
        which then are functions of them;
      - `gaussian` and `start_from` let a fit move from one family to another, and
        `start_from` with `centre` lets it begin at values of a user's.
    """

    mirrors_model = True
    draws_jointly = False
    is_gaussian = False

    @abstractmethod
    def refusals(self, analysis: Analysis, names: tuple[str, ...]) -> list[str]:
        """Why the family cannot carry these sites, one sentence a problem."""

    @abstractmethod
    def program(self, analysis: Analysis, names: tuple[str, ...]) -> Callable[..., Any]:
        """A NumPyro guide over the sites ``names``, taking the model's arguments."""

    def centre(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        kwargs: Mapping[str, Any],
        init: Values | None = None,
    ) -> Values:
        """Where starts lie, in the coordinates of `gaussian`; see `prior_centre`."""
        return prior_centre(analysis, names, kwargs, init)

    def retract(self, params: Params, step: Params) -> Params:
        """Parameters after a step in the family's own units.

        The optimizer works in coordinates around the present parameters in which a
        step of one moves a location by one standard deviation of q and a scale by a
        factor e, so that a learning rate means the same in every model. The default
        adds the step.
        """
        return jax.tree.map(jnp.add, params, step)

    def units(self, params: Params) -> Params:
        """How far each parameter moves when q changes noticeably; 0 if not known."""
        return jax.tree.map(np.zeros_like, params)

    def distance(self, params: Params, other: Params) -> float:
        """How far apart two members of the family lie; 0 if that is not known.

        In standard deviations of the first for locations, 10 times the difference for
        probabilities, whichever is largest.
        """
        return 0.0

    def gaussian(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        """The unconstrained continuous sites as a Gaussian; None if they are not."""
        return None

    def base(
        self, analysis: Analysis, names: tuple[str, ...], params: Params
    ) -> Gaussian | None:
        """The Gaussian that q is, or, with a ``bend``, is a map of; None if neither.

        Where there is one, `start_from` takes all of it. Arguments as of `gaussian`.
        """
        return self.gaussian(analysis, names, params) if self.is_gaussian else None

    def bending(self, analysis: Analysis, names: tuple[str, ...]) -> np.ndarray:
        """Places of the elements with which the scales of others move."""
        return np.zeros(0, int)

    def start_from(
        self,
        analysis: Analysis,
        names: tuple[str, ...],
        params: Params,
        other: Gaussian,
    ) -> Params:
        """The parameters with locations and spread of another Gaussian.

        Args:
            analysis: Of the model.
            names: The sites of q, as `program` was given them.
            params: Initial ones of this family, unconstrained.
            other: Where to start.
        """
        return params


def full_shape(analysis: Analysis, site: Site) -> tuple[int, ...]:
    """Shape of a site's value with every subsampled plate at its whole size."""
    shape = list(site.shape)
    for axis, plate in subsampled_axes(analysis, site).items():
        shape[axis] = analysis.plates[plate].size
    return tuple(shape)


def subsampled_axes(analysis: Analysis, site: Site) -> dict[int, str]:
    """Axes of a site's value that run over a minibatch, and their plates."""
    batch_ndim = len(site.shape) - site.event_dim
    return {
        batch_ndim + plate.dim: plate.name
        for plate in map(analysis.plates.__getitem__, site.plates)
        if plate.is_subsampled
    }


def minibatch(analysis: Analysis, names: tuple[str, ...]) -> Values:
    """Run the subsampled plates that hold the named sites; their indices."""
    used = {p for n in names for p in analysis.sites[n].plates}
    indices = {}
    for plate in analysis.subsampled.values():
        if plate.name in used:
            with numpyro.plate(
                plate.name, plate.size, plate.subsample_size, dim=plate.dim or None
            ) as index:
                indices[plate.name] = index
    return indices


def rows(analysis: Analysis, site: Site, param: Array, indices: Values) -> Array:
    """The rows of a whole parameter that belong to the minibatch."""
    for axis, plate in subsampled_axes(analysis, site).items():
        param = jnp.take(param, indices[plate], axis)
    return param


def unconstrained_shape(analysis: Analysis, site: Site) -> tuple[int, ...]:
    """Shape of a continuous site in unconstrained space, plates at whole size."""
    return tuple(biject_to(site.support).inverse_shape(full_shape(analysis, site)))


def continuous_of(analysis: Analysis, names: tuple[str, ...]) -> list[Site]:
    """The continuous ones among the named sites."""
    sites = [analysis.sites[name] for name in names]
    return [site for site in sites if not site.is_discrete]


def dimension(analysis: Analysis, sites: list[Site]) -> int:
    """Number of unconstrained elements of continuous sites."""
    return sum(prod(unconstrained_shape(analysis, site)) for site in sites)


def is_real(site: Site) -> bool:
    """Whether a site needs no transform."""
    return isinstance(element_support(site.support), type(constraints.real))


def prior_of(
    analysis: Analysis, site: Site, kwargs: Mapping[str, Any], values: Values
) -> Any:
    """A site's distribution in the model, given the sites before it.

    The model is run for it; the compiler removes what is not needed. Its parameters
    are left visible, so that they take the values that the guide is given.
    """
    with numpyro.handlers.block(hide_fn=lambda message: message["type"] != "param"):
        model = draw_improper(analysis.model)
        trace = run(model, kwargs, jax.random.key(0), values)
    return trace[site.name]["fn"]


def support_of(
    analysis: Analysis, site: Site, kwargs: Mapping[str, Any], values: Values
) -> Any:
    """A site's support, which may move with the sites before it."""
    if site.static_support:
        return site.support
    return prior_of(analysis, site, kwargs, values).support


def element_support(support: Any) -> Any:
    """The support of one element, below ``to_event``."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def continuous_refusal(site: Site) -> str | None:
    """Why no Gaussian after a transform can be the factor of a site, or None."""
    if site.has_atoms:
        return (
            f"{site.describe} is 0 itself with positive probability, which no Gaussian "
            f"factor is: make the zero a Bernoulli site of its own, or write a guide "
            f"with a {site.distribution} factor and pass guide=..."
        )
    try:
        biject_to(site.support)
    except NotImplementedError:
        return (
            f"{site.describe} has a support ({element_support(site.support)}) to which "
            f"no transform leads from real numbers: {_other_way(site)}"
        )
    return None


def _other_way(site: Site) -> str:
    if site.distribution == "ProjectedNormal":
        return (
            f"rewrite the model with numpyro.handlers.reparam(config="
            f"{{{site.name!r}: numpyro.infer.reparam.ProjectedNormalReparam()}})"
        )
    return "write a guide with a factor for it and pass guide=..."


def prior_centre(
    analysis: Analysis,
    names: tuple[str, ...],
    kwargs: Mapping[str, Any],
    init: Values | None = None,
    relative: tuple[str, ...] = (),
) -> Values:
    """Prior means of continuous sites given their parents' means, unconstrained.

    Where a mean is not known or not finite, the point that 0 is mapped to stands in.

    Args:
        analysis: Of the model.
        names: The sites.
        kwargs: Arguments of the model.
        init: Values of some sites, which stand in for their means, for their children,
            too; not a number in the answer where one is outside of its support.
        relative: Sites whose coordinate is how many scales they are from their
            location.
    """
    given = init or {}

    def at_centre(message: dict[str, Any]) -> Any:
        if message["type"] != "sample" or message["is_observed"]:
            return None
        fn, site = message["fn"], analysis.sites[message["name"]]
        if site.is_discrete:
            lowest = fn.support.feasible_like(jnp.zeros(fn.shape()))
            return jnp.asarray(lowest, site.dtype)
        transform = biject_to(fn.support)
        return transform(_finite_mean(fn, transform))

    program = numpyro.handlers.substitute(analysis.model, substitute_fn=at_centre)
    with numpyro.handlers.block():
        trace = run(program, kwargs, jax.random.key(0), given)
    kept = [n for n in names if n in trace and not analysis.sites[n].is_discrete]
    return {
        name: (_relative if name in relative else _unconstrained)(
            trace[name], is_given=name in given
        )
        for name in kept
    }


def _unconstrained(message: Mapping[str, Any], *, is_given: bool) -> Array:
    """A traced value in unconstrained space, 0 where a mean lies on the boundary."""
    support, value = message["fn"].support, message["value"]
    found = biject_to(support).inv(value)
    if is_given:
        return jnp.where(jnp.all(support(value)), found, jnp.nan)
    return jnp.where(jnp.isfinite(found), found, 0.0)


def _relative(message: Mapping[str, Any], *, is_given: bool) -> Array:
    """How many scales a traced value is from its location, 0 of those not given."""
    prior, value = unwrap(message["fn"]), message["value"]
    return (value - prior.loc) / prior.scale if is_given else jnp.zeros_like(value)


def _finite_mean(fn: Any, transform: Any) -> Array:
    zero = jnp.zeros(transform.inverse_shape(fn.shape()))
    try:
        mean = transform.inv(jnp.broadcast_to(fn.mean, fn.shape()))
    except (NotImplementedError, AttributeError, TypeError):
        return zero
    return jnp.where(jnp.isfinite(mean), mean, zero)


def initial_loc(centre: Array | None, noise: Array) -> Array:
    """Where the location of a site starts: around the centre of its prior, or around 0.

    Three starts of four lie around the centre, which is what the model calls plausible.
    The first noise is the coin that decides, so that starts differ.
    """
    if centre is None or centre.shape != noise.shape:
        return noise
    return noise + jnp.where(noise.ravel()[:1].sum() > NEAR_ZERO, centre, 0.0)
