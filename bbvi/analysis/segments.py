"""Follow a function along random segments to where it may jump, and look.

Segments join plausible values of all latents, or move one site of them. Marks
(`bbvi.analysis.replaying`) that differ between neighbouring points bracket a flip,
which is bisected down to the resolution of the numbers. There the terms are compared
on both sides, against how they change over as tiny steps beside it. Where a derivative
is in doubt, or the gaps are tiny (the steps of an adaptive solver, but also a finely
rounded value), it is integrated over short steps and compared with the change.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from bbvi.analysis.smoothness import FLIPS, Break

LINES = 24
"""Segments, a third of them of each kind; 9 in large programs."""
PLACES = 33
"""Points at which marks are compared on each; a quarter in large programs."""
FLIPS_EACH = (8, 32)
"""Fewest and most flips of one break that are looked at; 2 in large programs."""
FLIPS_IN_ALL = 256
"""Flips that the breaks share, as long as each gets the fewest."""
BISECTIONS = 60
"""Halvings of a bracket; 64-bit numbers are next to each other after 53."""
LARGE = 1e-6
"""Gap, in nats, that is a jump; many smaller ones may still make up a slope."""
STEPS = 16
"""Places at which a derivative is compared with the change."""
STEP = 1e-3
"""Length of such a step, as a part of a segment; 30 times that in 32 bits."""
WRONG = 1e-3
"""Relative difference between them that is no rounding."""

BESIDE = 64 * np.array([0.0, 64.0, 512.0, 4096.0])
"""Places beside a flip, in units of the rounding, as parts of a segment."""

Points = dict[str, np.ndarray]
Proved = list[tuple[Break, int]]


class Suspect(NamedTuple):
    """A possible break, and the numbers of the terms that it reaches."""

    broken: Break
    terms: tuple[int, ...]


class Probes(NamedTuple):
    """How to evaluate a program at batches of points.

    Attributes:
        evaluate: ``(points, inputs) -> (terms, marks, where)``: terms ``(batch, T)``,
            marks ``(batch, K)``, centre and spread of every site given the others.
        slope: ``(kept, points, inputs, to)`` to the derivative, in direction ``to``,
            of the sum of the terms with numbers ``kept``, ``(batch,)``.
        draw: ``rng -> inputs``, all that stays the same along a segment.
        shapes: Of the points by site, unconstrained.
        batch: Points that are evaluated at once.
        precision: Relative rounding of the terms.
        is_large: Whether an evaluation takes so long that few must do.
    """

    evaluate: Callable[..., Any]
    slope: Callable[..., Any]
    draw: Callable[[np.random.Generator], Any]
    shapes: dict[str, tuple[int, ...]]
    batch: int
    precision: float
    is_large: bool


def settle_all(probes: Probes, suspects: Sequence[Suspect]) -> Proved:
    """The suspects that are jumps, or undecided, each with a term that shows it.

    Args:
        probes: How to evaluate the program; marks are those of the suspects of kind
            `FLIPS`, in their order.
        suspects: Possible breaks.

    Returns:
        ``[(break, term)]``.
    """
    lines = _Lines(probes, suspects)
    flips = [s for s in suspects if s.broken.kind == FLIPS]
    proved, tiny = _gaps(lines, flips) if flips else ([], [])
    doubtful = [s for s in suspects if s.broken.kind != FLIPS] + tiny
    return proved + [
        (s.broken, s.terms[0]) for s in doubtful if _derivative_is_wrong(lines, s)
    ]


class _Lines:
    """Random segments ``start + t * way``, and the terms along them."""

    def __init__(self, probes: Probes, suspects: Sequence[Suspect]) -> None:
        self.probes = probes
        self.rng = np.random.default_rng(0)
        self.num = 9 if probes.is_large else LINES
        self.sizes = {name: prod(shape) for name, shape in probes.shapes.items()}
        inputs = [probes.draw(self.rng) for _ in range(self.num)]
        self.inputs = jax.tree.map(lambda *x: np.stack(x), *inputs)
        self.start, other = self.plausible(), self.plausible()
        self.way = other - self.start
        moved = 0
        for suspect in suspects:
            moved |= suspect.broken.inputs
        sites = [i for i in range(len(self.sizes)) if moved >> i & 1]
        ends = np.cumsum([0, *self.sizes.values()])
        for line in range(self.num // 3, self.num):
            site = sites[line % len(sites)]
            only = np.zeros(self.way.shape[1])
            only[ends[site] : ends[site + 1]] = 1.0
            if line >= 2 * self.num // 3:
                length = np.abs(self.way[line]) * only
                self.way[line] = 3.0 * length.max() * self.rng.choice([-1, 1])
            self.way[line] *= only

    def plausible(self) -> np.ndarray:
        """Values around the priors' centres given the parents, ``(num, size)``."""
        noise = self.rng.normal(size=(self.num, sum(self.sizes.values())))
        noise *= self.rng.choice([0.5, 1.0, 2.0], (self.num, 1))
        flat = noise
        for _ in range(min(len(self.sizes), 3)):
            *_, where = self.evaluate(np.arange(self.num), flat)
            centre, spread = (
                np.concatenate(
                    [where[n][i].reshape(self.num, -1) for n in self.sizes], axis=1
                )
                for i in (0, 1)
            )
            flat = centre + spread * noise
        return flat

    def split(self, flat: np.ndarray) -> Points:
        """Rows of numbers as points by site."""
        cuts = np.cumsum(list(self.sizes.values()))[:-1]
        shapes = self.probes.shapes.values()
        parts = zip(shapes, np.split(flat, cuts, axis=1), strict=True)
        shaped = [part.reshape(len(flat), *shape) for shape, part in parts]
        return dict(zip(self.sizes, shaped, strict=True))

    def batches(self, which: np.ndarray) -> Iterator[np.ndarray]:
        """Numbers of the points of each batch, the last one filled up."""
        size = self.probes.batch
        for begin in range(0, len(which), size):
            yield np.minimum(np.arange(begin, begin + size), len(which) - 1)

    def evaluate(self, which: np.ndarray, flat: np.ndarray) -> Any:
        """Terms, marks and where, of points with the inputs of the lines ``which``."""
        made = []
        for rows in self.batches(which):
            inputs = jax.tree.map(lambda x, w=which[rows]: x[w], self.inputs)
            found = self.probes.evaluate(self.split(flat[rows]), inputs)
            made.append(jax.tree.map(np.asarray, found))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(which)], *made)

    def at(self, which: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Terms and marks at the places ``t`` of the lines ``which``."""
        flat = self.start[which] + t[:, None] * self.way[which]
        terms, marks, _ = self.evaluate(which, flat)
        return terms, marks

    def slopes(
        self, which: np.ndarray, t: np.ndarray, kept: tuple[int, ...]
    ) -> np.ndarray:
        """Derivative along the lines of the sum of some terms."""
        made = []
        for rows in self.batches(which):
            lines = which[rows]
            inputs = jax.tree.map(lambda x, w=lines: x[w], self.inputs)
            flat = self.start[lines] + t[rows, None] * self.way[lines]
            to = self.split(self.way[lines])
            made.append(self.probes.slope(kept, self.split(flat), inputs, to))
        return np.concatenate([np.asarray(x) for x in made])[: len(which)]


def _gaps(lines: _Lines, flips: Sequence[Suspect]) -> tuple[Proved, list[Suspect]]:
    """Breaks with a large gap at a flip, and those with tiny ones alone."""
    brackets = _brackets(lines, len(flips))
    if not len(brackets[0]):
        return [], []
    numbers, which, low, high = _bisected(lines, *brackets)
    beside = np.minimum(lines.probes.precision * BESIDE, [0.0, 1e-4, 3e-4, 1e-3])
    places = np.concatenate([low[:, None] - beside, high[:, None] + beside], axis=1)
    terms, _ = lines.at(np.repeat(which, places.shape[1]), places.ravel())
    terms = terms.reshape(*places.shape, -1)
    gap, real = _gap_of(terms[:, :4], terms[:, 4:], lines.probes.precision)
    proved: Proved = []
    tiny: list[Suspect] = []
    for number, suspect in enumerate(flips):
        kept = np.ix_(numbers == number, suspect.terms)
        large = (real[kept] & (gap[kept] > LARGE)).any(axis=0)
        if large.any():
            proved.append((suspect.broken, suspect.terms[int(large.argmax())]))
        elif real[kept].any():
            tiny.append(suspect)
    return proved, tiny


def _gap_of(
    left: np.ndarray, right: np.ndarray, precision: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gaps between two sides, ``(n, 4, T)`` each, and whether they are gaps at all.

    The two sides lie so near each other that a continuous function changes less by far
    than over the steps beside them; noise, which does not, is a gap.
    """
    finite_left, finite_right = np.isfinite(left[:, 0]), np.isfinite(right[:, 0])
    with np.errstate(invalid="ignore"):
        gap = np.abs(right[:, 0] - left[:, 0])
        steps = [np.abs(np.diff(side, axis=1)).max(axis=1) for side in (left, right)]
        ordinary = 0.05 * np.fmax(*steps) + 64 * precision * (1 + np.abs(left[:, 0]))
        real = (gap > ordinary) & finite_left & finite_right
    one_side = finite_left != finite_right
    return np.where(one_side, np.inf, gap), real | one_side


def _brackets(lines: _Lines, num_flips: int) -> tuple[np.ndarray, ...]:
    """Intervals in which a break flips: its number, line and both ends."""
    large = lines.probes.is_large
    t = np.linspace(-0.5, 1.5, PLACES // 4 if large else PLACES)
    each = 2 if large else int(np.clip(FLIPS_IN_ALL // num_flips, *FLIPS_EACH))
    which = np.repeat(np.arange(lines.num), len(t))
    _, marks = lines.at(which, np.tile(t, lines.num))
    marks = marks.reshape(lines.num, len(t), -1)
    differ = marks[:, 1:] != marks[:, :-1]
    rows = []
    for number in range(num_flips):
        line, place = np.nonzero(differ[:, :, number])
        order = lines.rng.permutation(len(line))
        # One flip of every line before a second of any.
        first = np.unique(line[order], return_index=True)[1]
        rest = np.setdiff1d(np.arange(len(order)), first)
        chosen = order[np.concatenate([lines.rng.permutation(first), rest])]
        chosen = chosen[:each].astype(int)
        rows += [(number, line[i], t[place[i]], t[place[i] + 1]) for i in chosen]
    table = np.array(rows).reshape(-1, 4).T
    return table[0].astype(int), table[1].astype(int), table[2], table[3]


def _bisected(
    lines: _Lines,
    numbers: np.ndarray,
    which: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Brackets narrowed down to neighbouring numbers, to the first flip or the last."""
    rows = np.arange(len(which))
    from_low = lines.rng.random(len(which)) < 0.5
    kept = lines.at(which, np.where(from_low, low, high))[1][rows, numbers]
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if np.all((middle == low) | (middle == high)):
            break
        is_low = (lines.at(which, middle)[1][rows, numbers] == kept) == from_low
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return numbers, which, low, high


def _derivative_is_wrong(lines: _Lines, suspect: Suspect) -> bool:
    """Whether the derivative does not add up to the change, or that is not known.

    Each step has four parts; where three of them disagree it is no kink.
    """
    precision = lines.probes.precision
    part = 0.25 * STEP * (1 if precision < 1e-10 else 30)
    nodes, weights = np.polynomial.legendre.leggauss(5)
    which = np.arange(STEPS) % (lines.num // 3)
    begin = lines.rng.uniform(size=STEPS)[:, None] + part * np.arange(5)
    inner = begin[:, :4, None] + 0.5 * part * (nodes + 1)
    terms, _ = lines.at(np.repeat(which, 5), begin.ravel())
    values = terms[:, list(suspect.terms)].sum(axis=1).reshape(STEPS, 5)
    try:
        slopes = lines.slopes(np.repeat(which, 20), inner.ravel(), suspect.terms)
    except (TypeError, ValueError, NotImplementedError):
        return True  # there is no derivative
    slopes = slopes.reshape(STEPS, 4, 5) * weights * 0.5 * part
    finite = np.isfinite(values).all(axis=1) & np.isfinite(slopes).all(axis=(1, 2))
    change, added = np.diff(values)[finite], slopes.sum(axis=2)[finite]
    rounding = 64 * precision * (1 + np.abs(values[finite]).max(axis=1, keepdims=True))
    scale = np.abs(change) + np.abs(slopes[finite]).sum(axis=2)
    wrong = np.abs(change - added) > WRONG * scale + rounding
    told = (scale > 10 * rounding) | (scale == 0)
    return bool((wrong.sum(axis=1) >= 3).any() or not told.any())
