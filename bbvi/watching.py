"""What the host reads off chunks of steps: are they finite, how strong is a signal?"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi._types import Params
from bbvi.analysis.structure import name_of
from bbvi.diagnostics import elbo, gradient_snr, psis
from bbvi.optimize.loop import Seen
from bbvi.planning import Plan
from bbvi.result import History
from bbvi.verdict import TRUSTED_ESS, Level, Status, judge

UNKNOWN = "unknown"
"""In the place of the name of what is not finite, where it was not seen."""


@dataclass
class Candidate:
    """Averaged parameters at one rate, and the log weights of common draws.

    ``error`` is their Monte-Carlo error, nan where it is not known.
    """

    params: Params
    log_weights: Any
    error: float = np.nan

    @property
    def precision(self) -> str:
        """How surely the parameters are known, in words."""
        if np.isnan(self.error):
            return ""
        return f", Monte-Carlo error {self.error:.3f} standard deviations"

    @property
    def elbo(self) -> float:
        """The bound on those draws."""
        return float(np.mean(self.log_weights))

    def is_poor(self, poor: Collection[Level]) -> bool:
        """Whether those draws are enough to see that a verdict is one of some.

        Of few draws with even weights k-hat is not the tail's, see `Programs.final`.
        """
        number, weights = len(self.log_weights), psis(self.log_weights)
        bound = elbo(self.log_weights, np.zeros(number))
        level = judge(Status.CONVERGED, bound, weights, number).level
        return level in poor and not weights.ess >= TRUSTED_ESS * number


def best_of(candidates: list[Candidate]) -> Candidate:
    """That of the highest bound; the first if no bound is finite."""
    finite = [c for c in candidates if np.isfinite(c.elbo)]
    return max(finite or candidates[:1], key=lambda c: c.elbo)


def is_finite(seen: Seen) -> bool:
    """Whether bounds and iterates of a chunk are."""
    return all(np.isfinite(x).all() for x in (seen.elbos, seen.mean))


def first_bad(*trees: Mapping[str, Any]) -> str:
    """The name of the first of some arrays that is not finite, or `UNKNOWN`."""
    for tree in trees:
        for name, value in tree.items():
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value)):
                return name
    return UNKNOWN


def hole_in(log_weights: NDArray[Any], probe: Callable[[], Any]) -> tuple[str, str]:
    """Why the bound of draws is not finite, and what to try; empty if it is.

    Args:
        log_weights: Of the draws.
        probe: Gives the terms of some of them, by name.
    """
    share = 100 * np.mean(~np.isfinite(log_weights))
    if not share:
        return "", ""
    name, often = first_bad(probe()[0]), f"at {share:.2g}% of q's draws"
    where = "the log joint" if name == UNKNOWN else repr(name)
    if not np.isnan(log_weights).any():
        return f"{where} is infinite {often}", "Look for draws of zero density."
    remedy = (
        "Look there for roots, logarithms and Cholesky factors of what is negative."
    )
    if not jax.config.jax_enable_x64:
        remedy = (
            "Single precision may be too coarse for it: type numpyro.enable_x64() "
            "before the data and the model are made."
        )
    return f"{where} is not a number {often}", remedy


def no_start(made: Plan, bad: str) -> str:
    """Which term of the bound no start could make finite."""
    site = made.analysis.sites.get(bad)
    where = site.describe if site else f"term {bad!r}"
    return (
        f"{name_of(made.analysis.model)} has no start with a finite bound; the first "
        f"term that is not finite is {where}. Check that its data are possible under "
        f"the model and the scale of its parameters, say where to begin, "
        f"init={{site: value}}, or raise num_starts"
    )


def signal(total: Params, square: Params, size: int) -> dict[str, float]:
    """Signal-to-noise ratio of the gradient by site; one step shows none.

    Args:
        total: Sum of the gradients of a chunk.
        square: Sum of their squares.
        size: Steps in the chunk.
    """
    sites: dict[str, list[str]] = {}
    for name in total:
        sites.setdefault(name.rpartition(".")[0] or name, []).append(name)
    if size < 2:
        return dict.fromkeys(sites, np.nan)
    return {
        site: gradient_snr(
            flat([total[n] for n in names]).astype(np.float64),
            flat([square[n] for n in names]).astype(np.float64),
            size,
        )
        for site, names in sites.items()
    }


def history_of(
    rows: list[tuple[int, float, float]], snr: list[dict[str, float]], *past: Any
) -> History:
    """A history, from ``(step, bound, rate)`` and ratios of entries, and the rest."""
    step, bounds, rates = np.array(rows, np.float64).T
    sites = dict.fromkeys(site for row in snr for site in row)
    ratios = {n: np.array([row.get(n, np.nan) for row in snr]) for n in sites}
    return History(step.astype(int), bounds, rates, ratios, *past)


def flat(tree: Any) -> NDArray[Any]:
    """All leaves of a tree as one vector, in NumPy."""
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)
