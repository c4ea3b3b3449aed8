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
    ``low <= stride * j - step * i <= high``, up to a multiple of the period if it has
    one.

    Attributes:
        axis: Of the array; inside a loop's body possibly the `Loop`.
        low: Smallest offset.
        high: Largest offset.
        stride: Positive; 2 if every other element was kept.
        step: Not 0; -1 if the axis runs backwards, 2 if elements were spread out.
        period: Of a ring, whose last element is before its first; else 0.

    Example:
        >>> Aligned(0, 0, 1)  # z[:-1] and z[1:] in one cost, seen from its end
        Aligned(axis=0, low=0, high=1)
        >>> Aligned(0, -1, 0, stride=2)  # z[::2] and z[1::2] in one cost
        Aligned(axis=0, low=-1, high=0, stride=2)
    """

    axis: int | Loop
    low: int = 0
    high: int = 0
    stride: int = 1
    step: int = 1
    period: int = 0

    def __repr__(self) -> str:
        usual = Aligned(self.axis)._replace(low=None, high=None)
        shown = zip(self._fields, self, usual, strict=True)
        inside = ", ".join(f"{n}={x!r}" for n, x, y in shown if n == "axis" or x != y)
        return f"Aligned({inside})"

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
Rings = dict[int | Loop, int]
Spans = dict[int | Loop, tuple[int, int]]


def join(first: Influences, second: Influences) -> Influences:
    """The least influence that covers both: the hull of windows on the same axis."""
    return _join(first, second, {})


def _join(first: Influences, second: Influences, rings: Rings) -> Influences:
    joined = dict(first)
    for name, axes in second.items():
        joined[name] = _hulls(joined.get(name, axes), axes, rings)
    return joined


def _hulls(first: Influence, second: Influence, rings: Rings) -> Influence:
    return tuple(_hull(a, b, rings) for a, b in zip(first, second, strict=True))


def _hull(first: Entry, second: Entry, rings: Rings) -> Entry:
    if first is None or second is None or first.line != second.line:
        return None
    low, high = min(first.low, second.low), max(first.high, second.high)
    period = gcd(first.period, second.period)
    if high - low >= (size := rings.get(first.axis, high - low + 1)):
        period = gcd(period, size)
    if period:
        turns = (first.low - second.low) // period * period
        low, high = min(
            (
                (min(first.low, low), max(first.high, low + second.high - second.low))
                for low in (second.low + turns, second.low + turns + period)
            ),
            key=lambda ends: ends[1] - ends[0],
        )
    return first._replace(low=low, high=high, period=period)


def union(reads: Iterable[Influences], rings: Rings | None = None) -> Influences:
    """`join` of any number.

    Args:
        reads: Influences.
        rings: Sizes of axes around which windows go that do not fit in.
    """
    united: Influences = {}
    for read in reads:
        united = _join(united, read, rings or {})
    return united


def covers(known: Influence, other: Influence) -> bool:
    """Whether an influence allows all that another one allows."""
    return _hulls(known, other, {}) == known


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
    period = gcd(entry.period * place.step, place.period * entry.stride)
    common = gcd(stride, step)
    if period % common:
        common = 1
    low, high = -(-low // common), high // common
    line = (stride // common, step // common, period // common)
    return Aligned(axis, low, max(low, high), *line)


def reversal(axis: int, size: int) -> Aligned:
    """Where an axis goes that is turned round."""
    return Aligned(axis, size - 1, size - 1, step=-1)


def transposed(place: Aligned, axis: int) -> Aligned:
    """Where the axis of a place goes back to, if an axis goes to that place."""
    sign = 1 if place.step > 0 else -1
    low, high = sorted((-sign * place.low, -sign * place.high))
    return Aligned(axis, low, high, abs(place.step), sign * place.stride, place.period)


def mixed(found: Influences) -> Influences:
    """The same latents, mixed along all axes of the array."""
    return move(found, lambda _: None)


def settle(
    found: Influences, shapes: dict[str, tuple[int, ...]], spans: Spans
) -> Influences:
    """Mix what says nothing: windows as wide as the latent, and axes taken twice.

    Args:
        found: Influences on an array.
        shapes: Of the latents.
        spans: First and last index of the array's axes, so that a ring of which only
            a part is left becomes a line.
    """

    def settled(name: str, axes: Influence) -> Influence:
        entries: list[Entry] = []
        taken = set()
        for entry, size in zip(axes, shapes[name], strict=True):
            entry = entry and _straightened(entry, size, spans)
            kept = (
                entry is not None
                and entry.axis not in taken
                and entry.width <= min(size, WIDEST)
            )
            entries.append(entry if kept else None)
            taken.add(entry.axis if kept and entry is not None else None)
        return tuple(entries)

    return {name: settled(name, axes) for name, axes in found.items()}


def laps(entry: Aligned, size: int, span: tuple[int, int]) -> range:
    """Multiples of the period by which a window can be passed.

    Args:
        entry: With a period or without.
        size: Of the latent's axis.
        span: First and last index of the array's axis.
    """
    if not entry.period:
        return range(1)
    ends = sorted((0, entry.step * (size - 1)))
    lowest, highest = entry.stride * span[0] - ends[1], entry.stride * span[1] - ends[0]
    first = -((entry.high - lowest) // entry.period)
    return range(first, (highest - entry.low) // entry.period + 1)


def _straightened(entry: Aligned, size: int, spans: Spans) -> Entry:
    """An entry whose period is dropped where no window is passed twice."""
    if not entry.period:
        return entry
    if entry.high - entry.low >= entry.period - 1:
        return None
    axis = entry.axis
    span = (0, axis.length - 1) if isinstance(axis, Loop) else (0, 0)
    possible = laps(entry, size, spans.get(axis, span))
    if len(possible) > 1:
        middle = entry.period // 2
        low = (entry.low + middle) % entry.period - middle
        return entry._replace(low=low, high=low + entry.high - entry.low)
    shift = entry.period * (possible[0] if possible else 0)
    return entry._replace(low=entry.low + shift, high=entry.high + shift, period=0)
