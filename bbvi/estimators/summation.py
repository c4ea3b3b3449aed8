"""Discrete sites summed exactly: in the model, or under q."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from bbvi._types import Array, Key, Values
from bbvi.analysis import Analysis
from bbvi.analysis.tracing import Trace, log_density, run, sample_sites, scaled
from bbvi.estimators.base import Estimator, Situation
from bbvi.estimators.elimination import Group
from bbvi.estimators.tables import (
    Tables,
    draw_group,
    factor_tables,
    first_values,
    log_total,
)


@dataclass(frozen=True, repr=False)
class Marginalized(Estimator):
    r"""Sum finite discrete sites out of the model, exactly.

    $$\log p(x, \theta) = \log \sum_{z} p(z \mid \theta)\,
      p(x \mid z, \theta)$$

    over all sites $z$ together, by variable elimination: elements of plates each on
    their own, plates before the sites around them, trees from their leaves, chains in
    one pass. Sites that share no cost term take their values together, so that a plate
    costs K evaluations of the model and a chain $K^2$. The bound is tighter than with
    factors for the sites, their noise is gone from all gradients, and their draws come
    from the exact joint conditional.

    Example:
        >>> import bbvi
        >>> bbvi.estimators.Marginalized()
        Marginalized()

    References:
        Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs,
        algorithm 1; Rabiner (1989), A tutorial on hidden Markov models, eq. 19-21.
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
        if len(situation.scales) != 1:
            return (
                "its cost terms have different scales (a minibatch), and the "
                "logarithm of a scaled sum is biased"
            )
        return situation.obstacle or None

    def reason(self, situation: Situation) -> str:
        return situation.route

    def cost(self, situation: Situation) -> int:
        return situation.evaluations


@dataclass(frozen=True, repr=False)
class LocalExpectation(Estimator):
    r"""Sum over a site's own value under q, sample the rest.

    $$\nabla_\lambda E_q[f] = E_{q(z_{-i})}\Big[\sum_i \sum_k \nabla_\lambda
      q(z_i = k)\, f_i(k, z_{-i})\Big]$$

    with $f_i$ the cost terms that element $i$ influences: the limit of
    Rao-Blackwellisation. Elements that share no cost are changed together, so a plate
    costs K - 1 further evaluations of the model, a chain, in which every other element
    can be changed together, 2 (K - 1), and so does a grid, which is a checkerboard; $n$
    elements that are all coupled cost n (K - 1) (`bbvi.analysis.colouring.colours`).

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
    groups: tuple[Group, ...],
    kwargs: Mapping[str, Any],
    key: Key,
    values: Values,
    tables: Tables | None = None,
) -> tuple[dict[str, Array], Trace]:
    """Cost terms of the model, scaled, with the marginalised sites summed out.

    Args:
        analysis: Of the model.
        groups: Sites that are summed out, and are not in ``values``.
        kwargs: The model's arguments.
        key: For what the model draws itself.
        values: All other latents, parameters, indices of plates.
        tables: Of the groups, where `factor_tables` has made them already.

    Returns:
        Unsummed terms by name, and the trace of one run of the model.
    """
    values = {**values, **first_values(analysis, groups)}
    trace = run(analysis.model, kwargs, key, values)
    sites = sample_sites(trace)
    gone = {term for group in groups for term in group.factors}
    terms = {n: scaled(log_density(s), s) for n, s in sites.items() if n not in gone}
    if tables is None:
        tables = factor_tables(analysis, groups, kwargs, key, values)
    for group in groups:
        total = log_total(group, tables)
        terms[group.term] = total * analysis.plate_scale(group.last)
    return terms, trace


def draw_summed(
    analysis: Analysis, groups: tuple[Group, ...], tables: Tables, key: Key
) -> Values:
    """A draw of all sites that are summed out, given all others.

    Args:
        analysis: Of the model.
        groups: The sites.
        tables: Of the groups, at the values of all other sites.
        key: Of the draw.

    Returns:
        Values by site, from the exact joint conditional of every group.
    """
    drawn: Values = {}
    for group, own in zip(groups, jax.random.split(key, len(groups)), strict=True):
        drawn |= draw_group(analysis, group, tables, own)
    return drawn
