"""Windows: which indices of an array's axis does an element of a latent touch?

An `Influence` has one entry for each axis of a latent: `Aligned` with an axis of the
array, up to a window of offsets, or ``None``, *mixed*. `join` covers two of them,
`move` follows an operation.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import gcd
from operator import index
from typing import NamedTuple

WIDEST = 32
"""Windows with more indices are mixed: there is little to gain, and sums to pay."""


@dataclass(frozen=True, eq=False)
class Loop:
    """The position in one loop, which stands for an axis inside the loop's body.

    Attributes:
        length: How many turns it makes.
    """

    length: int


class Aligned(NamedTuple):
    """An axis of a latent that runs along an axis of an array.

    Element ``i`` of the latent touches only those indices ``j`` of the array for which
    ``low <= stride * j - step * i <= high``.

    Attributes:
        axis: Of the array; inside a loop's body possibly the `Loop`.
        low: Smallest offset.
        high: Largest offset.
        stride: Positive; 2 if every other element was kept.
        step: Not 0; -1 if the axis runs backwards, 2 if elements were spread out.

    Example:
        >>> tuple(Aligned(0, 0, 1))  # z[:-1] and z[1:] in one cost, seen from its end
        (0, 0, 1, 1, 1)
        >>> tuple(Aligned(0, -1, 0, stride=2))  # z[::2] and z[1::2] in one cost
        (0, -1, 0, 2, 1)
    """

    axis: int | Loop
    low: int = 0
    high: int = 0
    stride: int = 1
    step: int = 1

    @property
    def width(self) -> int:
        """How many elements in a row may touch the same index."""
        return (self.high - self.low) // abs(self.step) + 1

    @property
    def line(self) -> tuple[int | Loop, int, int]:
        """What two entries must have in common to be joined."""
        return self.axis, self.stride, self.step


Entry = Aligned | None
Influence = tuple[Entry, ...]
"""One entry for each axis of the latent: aligned, or None for mixed."""
Influences = dict[str, Influence]
"""Influences by the name of the latent; one that is absent has none."""


def join(first: Influences, second: Influences) -> Influences:
    """The least influence that covers both: the hull of windows on the same axis."""
    joined = dict(first)
    for name, axes in second.items():
        joined[name] = _hulls(joined.get(name, axes), axes)
    return joined


def _hulls(first: Influence, second: Influence) -> Influence:
    return tuple(_hull(a, b) for a, b in zip(first, second, strict=True))


def _hull(first: Entry, second: Entry) -> Entry:
    if first is None or second is None or first.line != second.line:
        return None
    low, high = min(first.low, second.low), max(first.high, second.high)
    return first._replace(low=low, high=high)


def union(reads: Iterable[Influences]) -> Influences:
    """`join` of any number."""
    united: Influences = {}
    for read in reads:
        united = join(united, read)
    return united


def covers(known: Influence, other: Influence) -> bool:
    """Whether an influence allows all that another one allows."""
    return _hulls(known, other) == known


Target = Aligned | Loop | int | None


def move(found: Influences, target: Callable[[int], Target]) -> Influences:
    """Influences on the result of an operation that moves axes.

    Args:
        found: Influences on the operand; what is aligned with a loop stays.
        target: Where an axis of the operand goes: another axis, the window of indices
            that each of its own touches, or None where it is mixed.
    """

    def moved(entry: Entry) -> Entry:
        if entry is None or isinstance(entry.axis, Loop):
            return entry
        place = target(entry.axis)
        return None if place is None else shifted(entry, place)

    return {name: tuple(map(moved, axes)) for name, axes in found.items()}


def shifted(entry: Aligned, place: Aligned | Loop | int) -> Aligned:
    """An entry after its axis has gone to a place."""
    if not isinstance(place, Aligned):
        place = Aligned(place)
    axis = place.axis if isinstance(place.axis, Loop) else index(place.axis)
    # With stride j - step i in one window, and stride' k - step' j in the other,
    # stride stride' k - step step' i lies in the sum of step' and stride times them.
    ends = sorted((place.step * entry.low, place.step * entry.high))
    low, high = (
        int(end + entry.stride * side)
        for end, side in zip(ends, (place.low, place.high), strict=True)
    )
    stride, step = int(entry.stride * place.stride), int(entry.step * place.step)
    common = gcd(stride, step)
    low, high = -(-low // common), high // common
    return Aligned(axis, low, max(low, high), stride // common, step // common)


def reversal(axis: int, size: int) -> Aligned:
    """Where an axis goes that is turned round."""
    return Aligned(axis, size - 1, size - 1, step=-1)


def mixed(found: Influences) -> Influences:
    """The same latents, mixed along all axes of the array."""
    return move(found, lambda _: None)


def settle(found: Influences, shapes: dict[str, tuple[int, ...]]) -> Influences:
    """Mix what says nothing: windows as wide as the latent, and axes taken twice."""

    def settled(name: str, axes: Influence) -> Influence:
        entries: list[Entry] = []
        taken = set()
        for entry, size in zip(axes, shapes[name], strict=True):
            kept = (
                entry is not None
                and entry.axis not in taken
                and entry.width <= min(size, WIDEST)
            )
            entries.append(entry if kept else None)
            taken.add(entry.axis if kept and entry is not None else None)
        return tuple(entries)

    return {name: settled(name, axes) for name, axes in found.items()}
