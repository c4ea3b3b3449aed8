"""When has an optimisation converged? `Plateaus` decides, on the host, between chunks.

At a fixed rate the iterates drift, then hover. They hover when R-hat over the chunks of
a window, means and variances of the iterates, is close to 1. The average of that window
is then the candidate at this rate, the rate is lowered, and the next candidate is
compared with it on common random numbers. When lowering the rate gains less than the
tolerance, the fit has converged.

References: Welandawe, Andersen, Vehtari and Huggins (2024), A framework for improving
the reliability of black-box variational inference, algorithm 2 (stationarity by
R-hat, iterate averaging, lower rates).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bbvi.diagnostics import split_rhat

Vector = NDArray[np.floating]


@dataclass
class Plateaus:
    """Chunks seen at the present rate, and whether they hover.

    Attributes:
        threshold: R-hat below which the iterates hover.
        min_chunks: Fewest chunks in a window.
        quantile: Of R-hat over parameters that must be below the threshold.
        means: Mean of the iterates of each chunk at this rate, `(dim,)` each.
        variances: Their variances.
    """

    threshold: float = 1.1
    min_chunks: int = 4
    quantile: float = 0.99
    means: list[Vector] = field(default_factory=list)
    variances: list[Vector] = field(default_factory=list)

    def add(self, mean: Vector, variance: Vector) -> None:
        """Take note of one more chunk."""
        self.means.append(mean)
        self.variances.append(variance)

    def window(self) -> int | None:
        """Number of latest chunks over which the iterates hover, or None."""
        count = len(self.means)
        sizes = {count // 2, (3 * count) // 4, count} if count >= self.min_chunks else ()
        for size in sorted(sizes, reverse=True):
            if size >= self.min_chunks:
                means = np.stack(self.means[-size:])
                variances = np.stack(self.variances[-size:])
                rhat = split_rhat(means, variances, np.ones(size) * 100)
                if np.quantile(rhat, self.quantile) <= self.threshold:
                    return size
        return None

    def average(self, size: int) -> Vector:
        """Mean of the iterates over the latest ``size`` chunks."""
        return np.mean(self.means[-size:], axis=0)

    def reset(self) -> None:
        """Forget the chunks: the rate has changed."""
        self.means.clear()
        self.variances.clear()
