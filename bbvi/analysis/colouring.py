"""Which elements of a latent can be changed together? Those that share no cost.

Elements that share an element of a cost differ by a vector of a known set, the same
wherever they stand. Colouring all elements by one linear form is then enough.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
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
    spans = [list(map(_span, influence, shape)) for influence in found]
    return tuple(a for a in range(len(shape)) if any(span[a] > 1 for span in spans))


def colours(found: Iterable[Influence], shape: Sequence[int]) -> Colouring:
    r"""Few colours for the elements of a latent, so that those of one share no cost.

    Elements $i$ and $j$ share an element of a cost if each $|i_a - j_a|$ is less than
    the width $w_a$ of the cost's window along the axis, or the axis is mixed. Of the
    colourings

    $$c(i) = \sum_a s_a i_a \bmod m$$

    one with the smallest $m$ is returned for which $c(d) \ne 0$ at every such
    difference $d \ne 0$. No colouring has fewer than $\max \prod_a w_a$, the elements
    of one window, and $\prod_a \max w_a$ always suffice: those are taken where the
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
    boxes = {(1,) * len(shape), *(tuple(map(_span, f, shape)) for f in found)}
    widest = tuple(map(max, zip(*boxes, strict=True)))
    most = prod(widest)
    for colouring in _linear(max(map(prod, boxes)), most, boxes, widest):
        return colouring
    steps = [prod(widest[a + 1 :]) * (n > 1) for a, n in enumerate(widest)]
    return Colouring(most, tuple(steps))


def _span(entry: Entry, size: int) -> int:
    """How many elements in a row may share an element of a cost."""
    return max(min(size if entry is None else entry.width, size), 1)


def _linear(
    fewest: int, most: int, boxes: Iterable[tuple[int, ...]], widest: Sequence[int]
) -> Iterator[Colouring]:
    """Colourings by linear forms with less than ``most`` colours, the fewest first."""
    left = LARGEST - sum(prod(2 * n for n in box) for box in boxes)
    if fewest == most or left < 0:
        return
    apart = np.array(
        sorted({d for box in boxes for d in product(*(range(1 - n, n) for n in box))})
    )
    apart = apart[len(apart) // 2 + 1 :]  # without zero and one of each d, -d
    for number in range(fewest, most):
        forms = prod(number for n in widest if n > 1)
        left -= forms * len(apart)
        if left < 0:
            return
        sizes = [number if n > 1 else 1 for n in widest]
        steps = np.indices(sizes).reshape(len(sizes), -1).T
        good = np.all(steps @ apart.T % number, 1)
        if good.any():
            yield Colouring(number, tuple(map(int, steps[good][0])))
