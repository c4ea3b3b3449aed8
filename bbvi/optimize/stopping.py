"""When has an optimisation converged? `Plateaus` decides, on the host, between chunks.

At the first rate the iterates drift, then hover. They hover when R-hat over the chunks
of a window, means and variances of the iterates, is close to 1. The average of that
window is the first candidate. From it a lower rate runs for twice as long, which needs
no R-hat as it begins where the iterates hover, and its average is the next candidate.
When the step from one candidate to the next, measured on common random numbers, gains
so little that all further ones together will gain less than the tolerance, the fit has
converged.

References: Welandawe, Andersen, Vehtari and Huggins (2024), A framework for improving
the reliability of black-box variational inference, algorithm 2 (stationarity by
R-hat, iterate averaging, lower rates).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbvi.diagnostics import split_rhat
from bbvi.optimize.progress import Progress

Vector = NDArray[np.floating]
NEAR = 8, 1.0
"""Chunks, twice, between which a bound gains so few nats where a fit may land."""
STILL = 4, 0.1
"""The same at the end of a landed plateau: where noise is little, R-hat is blind."""
BATCHES = 4
"""Parts of a window whose means tell how surely its average is known."""
LATELY = 5
"""Chunks that show how fast a bound rises."""


class Limits(NamedTuple):
    """When to stop, and what to show."""

    num_starts: int
    max_steps: int
    max_seconds: float
    lowers: bool
    progress: Progress


@dataclass
class Plateaus:
    """Chunks seen at the present rate, and whether they hover.

    Attributes:
        size: Steps in a chunk.
        planned: Chunks after which to take the average; 0 waits until they hover.
        threshold: R-hat below which the iterates hover.
        min_chunks: Fewest chunks in a window.
        quantile: Of R-hat over parameters that must be below the threshold.
        means: Mean of the iterates of each chunk at this rate, `(dim,)` each.
        variances: Their variances.
        bounds: Mean of the estimates of the bound in each.
    """

    size: int
    planned: int = 0
    threshold: float = 1.1
    min_chunks: int = 4
    quantile: float = 0.99
    means: list[Vector] = field(default_factory=list)
    variances: list[Vector] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)

    def add(
        self, mean: Vector, variance: Vector, resolution: Vector, bound: float
    ) -> None:
        """Take note of one more chunk.

        Args:
            mean: Of its iterates.
            variance: Of its iterates.
            resolution: Distance that is not told from standing still.
            bound: Mean of its estimates of the bound.
        """
        self.means.append(mean)
        self.variances.append(variance + resolution**2)
        self.bounds.append(bound)

    def window(self) -> int | None:
        """Number of latest chunks whose average is a candidate, or None."""
        count = len(self.means)
        if self.planned:
            return (3 * count) // 4 if count >= self.planned else None
        for size in (count, (3 * count) // 4, count // 2):
            if size >= self.min_chunks:
                means = np.stack(self.means[-size:])
                rhat = split_rhat(means, np.stack(self.variances[-size:]), self.size)
                rhat = np.minimum(rhat, 1e6)  # infinite where iterates moved once
                if not rhat.size or np.quantile(rhat, self.quantile) <= self.threshold:
                    return size
        return None

    def is_flat(self, size: int, gain: float) -> bool:
        """Whether the latest ``size`` chunks gain less than those before, in nats."""
        bounds = self.bounds[-2 * size :]
        if len(bounds) < 2 * size:
            return False
        return bool(np.mean(bounds[size:]) - np.mean(bounds[:size]) < gain)

    def average(self, size: int) -> Vector:
        """Mean of the iterates over the latest ``size`` chunks."""
        return np.mean(self.means[-size:], axis=0)

    def error(self, size: int, units: Vector) -> float:
        r"""Largest Monte-Carlo error of that average, in units; nan if none is known.

        With means $m_{bi}$ of $B$ batches of consecutive chunks and units $u_i$,

        $$ \max_i \mathrm{sd}_b(m_{bi}) / (u_i \sqrt B), $$

        which counts that iterates near each other are alike.

        References:
            Flegal and Jones (2010), Batch means and spectral variance estimators in
            Markov chain Monte Carlo, section 2.
        """
        batches = np.array_split(np.stack(self.means[-size:]), BATCHES)
        spread = np.std([np.mean(batch, 0) for batch in batches], 0, ddof=1)
        is_known = units > 0
        errors = spread[is_known] / units[is_known]
        return float(np.max(errors) / np.sqrt(BATCHES)) if errors.size else np.nan

    def reset(self, planned: int = 0) -> None:
        """Forget the chunks: the rate has changed, and ``planned`` ones follow."""
        self.planned = planned
        self.means.clear()
        self.variances.clear()
        self.bounds.clear()


def is_hopeless(bounds: Sequence[float], left: int, goal: float) -> bool:
    """Whether a fit that gains at most as it did lately will not come to a goal.

    Args:
        bounds: Of its chunks so far.
        left: Chunks that it still has.
        goal: The bound that is wanted.

    Returns:
        False as long as fewer than `LATELY` chunks are known.
    """
    latest = np.asarray(bounds[-LATELY:])
    if len(latest) < LATELY:
        return False
    return bool(latest[-1] + left * max(np.max(np.diff(latest)), 0.0) < goal)
