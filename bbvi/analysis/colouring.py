"""Which elements of a latent can be changed together? Those that share no cost.

Elements that share an element of a cost differ by a vector of a known set, the same
wherever they stand. Colouring all elements by one linear form is then enough.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from bbvi.analysis.windows import Entry, Influence

LARGEST = 1 << 22
"""Products that a search for linear forms may take, a few hundredths of a second."""


class Colouring(NamedTuple):
    """Colours of a latent's elements: element ``i`` has ``sum(steps * i) % number``.

    Attributes:
        number: Of colours.
        steps: Of the colour along each axis.
    """

    number: int
    steps: tuple[int, ...]

    def of(self, shape: Sequence[int]) -> np.ndarray:
        """The colour of every element."""
        found = np.zeros(shape, np.int64)
        for axis, step in enumerate(self.steps):
            found += step * np.arange(shape[axis]).reshape(
                [-1 if a == axis else 1 for a in range(len(shape))]
            )
        return found % self.number


def coupled_axes(found: Iterable[Influence], shape: Sequence[int]) -> tuple[int, ...]:
    """Axes of a latent of ``shape`` along which elements share elements of a cost.

    Example:
        >>> from bbvi.analysis.windows import Aligned
        >>> coupled_axes([(Aligned(0, 0, 1), Aligned(1)), (Aligned(0), None)], (9, 5))
        (0, 1)
    """
    coupled = {
        axis
        for influence in found
        for axis, entry in enumerate(influence)
        if len(_apart(entry, shape[axis])) > 1
    }
    return tuple(sorted(coupled))


def colours(found: Iterable[Influence], shape: Sequence[int]) -> Colouring:
    r"""Few colours for the elements of a latent, so that those of one share no cost.

    Elements $i$ and $j$ share an element of a cost if each $|i_a - j_a|$ is less than
    the width $w_a$ of the cost's window along the axis, on a ring the shorter way
    round, or the axis is mixed. Of the colourings

    $$c(i) = \sum_a s_a i_a \bmod m$$

    one with the smallest $m$ is returned for which $c(d) \ne 0$ at every such
    difference $d \ne 0$. None has fewer than $\max \prod_a w_a$, the elements of one
    window, and $\prod_a \max (|d_a| + 1)$ always suffice: those are taken where the
    search would be long.

    Args:
        found: Influences of one latent on all its costs.
        shape: Of the latent.

    Returns:
        The colouring. A grid whose rows and columns are coupled to their neighbours in
        different costs is a checkerboard, an $n \times n$ one with costs of whole rows
        and columns a Latin square.

    Example:
        >>> from bbvi.analysis.windows import Aligned
        >>> lag, own = Aligned(0, 0, 1), Aligned(1)
        >>> colours([(lag, own)], (9, 5))
        Colouring(number=2, steps=(1, 0))
        >>> colours([(lag, own), (Aligned(0), Aligned(1, -1, 0))], (9, 5))
        Colouring(number=2, steps=(1, 1))
        >>> colours([(None,)], (10,))
        Colouring(number=10, steps=(1,))
    """
    shared = set(found)
    boxes = [list(map(_apart, influence, shape)) for influence in shared]
    fewest = max((prod(map(_span, f, shape)) for f in shared), default=1)
    widest = [
        max((int(box[axis].max()) + 1 for box in boxes), default=1)
        for axis in range(len(shape))
    ]
    most = prod(widest)
    for colouring in _linear(fewest, most, boxes, widest):
        return colouring
    steps = [prod(widest[a + 1 :]) * (n > 1) for a, n in enumerate(widest)]
    return Colouring(most, tuple(steps))


def _span(entry: Entry, size: int) -> int:
    """How many elements in a row share an element of a cost."""
    return max(min(size if entry is None else entry.width, size), 1)


def _apart(entry: Entry, size: int) -> np.ndarray:
    """How far apart elements may be that share an element of a cost."""
    if entry is None or not entry.period:
        span = _span(entry, size)
        return np.arange(1 - span, span)
    apart, width = np.arange(1 - size, size), entry.high - entry.low
    return apart[(entry.step * apart + width) % entry.period <= 2 * width]


def _linear(
    fewest: int, most: int, boxes: Sequence[Sequence[np.ndarray]], widest: Sequence[int]
) -> Iterator[Colouring]:
    """Colourings by linear forms with less than ``most`` colours, the fewest first."""
    left = LARGEST - sum(prod(map(len, box)) for box in boxes)
    if fewest == most or left < 0:
        return
    grids = [np.stack(np.meshgrid(*box, indexing="ij"), -1) for box in boxes]
    rows = [grid.reshape(-1, len(widest)) for grid in grids]
    apart = np.unique(np.concatenate(rows), axis=0)
    apart = apart[len(apart) // 2 + 1 :]  # without zero and one of each d, -d
    for number in range(fewest, most):
        sizes = [number if n > 1 else 1 for n in widest]
        left -= prod(sizes) * len(apart)
        if left < 0:
            return
        steps = np.indices(sizes).reshape(len(sizes), -1).T
        good = np.all(steps @ apart.T % number, 1)
        if good.any():
            yield Colouring(number, tuple(map(int, steps[good][0])))
