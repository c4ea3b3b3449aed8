"""What the host does with searches that came back: continue, replace, average them."""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from bbvi.optimize.newton import Search


def onwards(search: Search) -> list[NDArray[Any]]:
    """Where searches go on: with triangular roots of the same covariances."""
    upper = np.stack([np.linalg.qr(root.T)[1] for root in search.scale])
    signs = np.sign(np.diagonal(upper, axis1=1, axis2=2))
    roots = np.swapaxes(upper * signs[..., None], 1, 2)
    return [search.loc, roots, search.bend, np.zeros(len(roots))]


def replaced(search: Search, which: NDArray[Any], by: Search) -> Search:
    """The searches, some of them replaced."""

    def merged(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        made = old.copy()
        made[which] = new
        return made

    return jax.tree.map(merged, search, by)


def standard_error(
    locs: NDArray[Any],
    covariances: NDArray[Any],
    bends: NDArray[Any],
    places: NDArray[Any],
) -> float:
    """Largest standard error of averages, in standard deviations.

    Of means, of deviations, and of bends in the deviations at ``places`` which they
    multiply. Without places bends are 0 and do not count.
    """
    sds = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    typical = np.sqrt(np.mean(sds**2, 0))
    spread = np.maximum(np.std(locs, 0, ddof=1), np.std(sds, 0, ddof=1)) / typical
    bent = np.std(bends, 0, ddof=1)[:, : len(places)] * typical[places]
    largest = max(np.max(spread), np.max(bent, initial=0.0))
    return float(largest) / np.sqrt(len(locs))
