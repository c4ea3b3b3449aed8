"""Discrete sites summed exactly: in the model, or under q."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from bbvi._types import Array, Key, Values
from bbvi.analysis import Analysis, Site
from bbvi.analysis.tracing import Trace, log_density, run, sample_sites, scaled
from bbvi.analysis.windows import Influence
from bbvi.estimators.base import Estimator, Situation
from bbvi.estimators.score import reached_cost

MARGINAL = "sum over {}"
"""Name of the cost term that replaces the terms of a site that was summed out."""


@dataclass(frozen=True, repr=False)
class Marginalized(Estimator):
    r"""Sum a finite discrete site out of the model, exactly.

    $$\log p(x, \theta) = \sum_i \log \sum_{k} p(z_i = k \mid \theta)\,
      p(x_{(i)} \mid z_i = k, \theta)$$

    for elements $i$ that share no cost term, so a whole plate costs K evaluations of
    the model. The bound is tighter than with a factor for the site, its noise is gone
    from all gradients, and its draws come from the exact conditional.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.Marginalized()
        Marginalized()

    References:
        Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs.
    """

    def refusal(self, situation: Situation) -> str | None:
        site = situation.site
        if not situation.num_values:
            return "it has no known finite support to sum over"
        if situation.factor:
            return "the guide draws it"
        if site.is_masked:
            return "it is masked, so its density does not sum to one"
        if situation.bounded:
            names = ", ".join(situation.bounded)
            return f"the support of {names}, which q draws, depends on it"
        if situation.coupled > 1:
            return (
                f"{situation.coupled} of its elements share cost terms, so they "
                f"cannot be summed one by one"
            )
        if situation.neighbours:
            names = ", ".join(situation.neighbours)
            return f"it shares cost terms with {names}, which is summed out already"
        if len(situation.scales) != 1 or situation.scales[0] is None:
            return (
                "its cost terms have different scales (a minibatch or "
                "handlers.scale), and the logarithm of a scaled sum is biased"
            )
        return None

    def reason(self, situation: Situation) -> str:
        where = "each element on its own" if situation.site.shape else "one element"
        return f"finite, {where}: {situation.num_values} evaluations sum it exactly"

    def cost(self, situation: Situation) -> int:
        return situation.num_values


@dataclass(frozen=True, repr=False)
class LocalExpectation(Estimator):
    r"""Sum over a site's own value under q, sample the rest.

    $$\nabla_\lambda E_q[f] = E_{q(z_{-i})}\Big[\sum_i \sum_k \nabla_\lambda
      q(z_i = k)\, f_i(k, z_{-i})\Big]$$

    with $f_i$ the cost terms that element $i$ influences: the limit of
    Rao-Blackwellisation. Elements that share no cost are changed together, so a plate
    costs K - 1 further evaluations of the model, a chain, in which every other element
    can be changed together, 2 (K - 1), a grid 4 (K - 1); $n$ elements that are all
    coupled cost n (K - 1) (`bbvi.analysis.windows.colours`).

    Example:
        >>> import bbvi
        >>> bbvi.estimators.LocalExpectation()
        LocalExpectation()

    References:
        Titsias and Lazaro-Gredilla (2015), Local expectation gradients for black box
        variational inference, eq. 9.
    """

    def refusal(self, situation: Situation) -> str | None:
        if not situation.num_values:
            return "it has no known finite support to sum over"
        if not situation.factor:
            return "q has no factor for it"
        if situation.feeds:
            return (
                f"later draws of the guide ({', '.join(situation.feeds)}) depend on "
                f"its value"
            )
        return None

    def reason(self, situation: Situation) -> str:
        cost = self.cost(situation)
        if situation.coupled == 1:
            what = "elements that share no cost term"
            what = what if situation.site.shape else "one element"
        elif situation.colours < situation.coupled:
            what = (
                f"{situation.coupled} coupled elements in {situation.colours} colours"
            )
        else:
            what = "coupled elements"
        return f"finite, {what}: {cost} further evaluations sum it under q"

    def cost(self, situation: Situation) -> int:
        return situation.colours * (situation.num_values - 1)


def model_terms(
    analysis: Analysis,
    marginalized: tuple[str, ...],
    kwargs: Mapping[str, Any],
    key: Key,
    values: Values,
) -> tuple[dict[str, Array], Trace]:
    """Cost terms of the model, scaled, with the marginalised sites summed out.

    Args:
        analysis: Of the model.
        marginalized: Sites that are not in ``values``.
        kwargs: The model's arguments.
        key: For what the model draws itself.
        values: All other latents, parameters, indices of plates.

    Returns:
        Unsummed terms by name, and the trace of one run of the model. Of a term that a
        summed site reaches, only those elements are left that none of its reach.
    """
    some = {name: _filled(analysis, name, 0) for name in marginalized}
    trace = run(analysis.model, kwargs, key, {**values, **some})
    sites = sample_sites(trace)
    summed = {name: set(analysis.children(name)) for name in marginalized}
    gone = set().union(*summed.values()) if summed else set()
    terms = {n: scaled(log_density(s), s) for n, s in sites.items() if n not in gone}
    for name in marginalized:
        for n in analysis.children(name):
            term = log_density(sites[n])
            found = analysis.influence[n][name]
            kept = unreached(jnp.shape(term), found, analysis.sites[name].shape)
            if np.any(kept):
                terms[n] = scaled(jnp.where(kept, term, 0.0), sites[n])
        table = value_table(analysis, name, kwargs, key, {**values, **some})
        site = sites[name]
        terms[MARGINAL.format(name)] = scaled(logsumexp(table, axis=0), site)
    return terms, trace


def value_table(
    analysis: Analysis,
    name: str,
    kwargs: Mapping[str, Any],
    key: Key,
    values: Values,
) -> Array:
    """Unscaled log joint of each value of a site with all that it influences.

    Returns:
        ``(K, *site.shape)``; its softmax over the first axis is the site's exact
        conditional given the other values.
    """
    site = analysis.sites[name]
    reached = {n: analysis.influence[n][name] for n in analysis.children(name)}
    shape = jnp.shape(values[name])

    def log_joint(k: Array) -> Array:
        changed = {**values, name: jnp.full(shape, k, site.dtype)}
        sites = sample_sites(run(analysis.model, kwargs, key, changed))
        costs = [
            _reached(log_density(sites[n]), influence, site, shape)
            for n, influence in reached.items()
        ]
        return sum(costs, start=jnp.zeros(shape))

    return jax.vmap(log_joint)(jnp.asarray(site.values))


def unreached(
    size: tuple[int, ...], influence: Influence, shape: tuple[int, ...]
) -> np.ndarray:
    """Which elements of a cost of shape ``size`` no element of a latent reaches."""
    reached = np.ones(size, bool)
    for number, entry in zip(shape, influence, strict=True):
        if entry is not None:
            place = [-1 if a == entry.axis else 1 for a in range(len(size))]
            at = np.arange(size[entry.axis]).reshape(place)
            reached &= (entry.low <= at) & (at < number + entry.high)
    return ~reached


def _reached(
    term: Array, influence: Influence, site: Site, shape: tuple[int, ...]
) -> Array:
    return jnp.broadcast_to(reached_cost(term, influence, shape), shape)


def _filled(analysis: Analysis, name: str, index: int) -> Array:
    site = analysis.sites[name]
    return jnp.full(site.shape, site.values[index], site.dtype)
