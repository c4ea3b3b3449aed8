"""In which order are factors contracted? From the innermost axes outwards.

Of the factors on a largest set of axes, those that are connected by sites on the same
axes are contracted, and those sites are summed out; the result is added up over the
axes that none of the sites left has, and is a factor on fewer axes. That is variable
elimination on plates. Where one of the axes is a chain, its steps are passed in order,
with a message over the values of the last few.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import opt_einsum

Variable = tuple[str, int]
"""A site and a lag: 0 at the present step and off chains, 1 a step before, ..."""
Label = Variable | int
"""What an axis of a table runs over: values of a variable, or a numbered axis."""


class Obstacle(ValueError):
    """Why sites cannot be summed out together."""


class Factor(NamedTuple):
    """How one cost term becomes a table.

    Attributes:
        variables: On whose values it depends: the table's first axes.
        axes: Axes of the cost term that are kept; the others are added up.
        numbers: Their numbers: the table's last axes.
        start: Step of the chain at which the term's first element stands.
        flipped: Axes of the cost term that are turned round before anything else.
    """

    variables: tuple[Variable, ...]
    axes: tuple[int, ...]
    numbers: tuple[int, ...]
    start: int = 0
    flipped: tuple[int, ...] = ()


class Step(NamedTuple):
    """One contraction: factors multiplied, sites summed out, axes added up.

    Attributes:
        factors: Names of the factors that enter here.
        before: Steps whose results enter here.
        labels: Of the contraction's result.
        path: Which operands to contract when, as `opt_einsum` gives it.
        lags: How far back each site is looked at that is summed out here.
        chain: Number of the axis that is passed step by step, if any.
        axes: Numbers of the axes that are not added up.
    """

    factors: tuple[str, ...]
    before: tuple["Step", ...]
    labels: tuple[Label, ...]
    path: tuple[tuple[int, ...], ...]
    lags: tuple[tuple[str, int], ...]
    chain: int | None
    axes: tuple[int, ...]

    @property
    def scope(self) -> tuple[Label, ...]:
        """Labels of what the step leaves."""
        return tuple(x for x in self.labels if not isinstance(x, int)) + self.axes

    @property
    def inner(self) -> tuple[Label, ...]:
        """Labels of a turn's message, which is the result off chains."""
        recent = ((name, lag) for name, last in self.lags for lag in range(last))
        return (*recent, *self.labels)


class _Part(NamedTuple):
    """A factor, or the result of a step."""

    variables: frozenset[Variable]
    axes: frozenset[int]
    origin: str | Step


@dataclass
class Ordering:
    """The order for the factors of one group.

    Attributes:
        factors: By name.
        sizes: Number of values or elements of every label.
        axes: Numbers of the axes of every site.
        chain: Number of the axis that is a chain, if any.
        largest: Numbers in the largest intermediate that was met.
    """

    factors: Mapping[str, Factor]
    sizes: Mapping[Label, int]
    axes: Mapping[str, frozenset[int]]
    chain: int | None
    largest: int = field(default=0)

    def run(self) -> Step:
        """The last step, which holds the others.

        Raises:
            Obstacle: The sites meet each other in more pairs than can be summed.
        """
        parts = [
            _Part(frozenset(f.variables), frozenset(f.numbers), name)
            for name, f in self.factors.items()
        ]
        while True:
            level = max((part.axes for part in parts), key=len)
            here = [part for part in parts if part.axes == level]
            local = {name for name, axes in self.axes.items() if axes == level}
            parts = [part for part in parts if part.axes != level]
            for members in _connected(here, local):
                step = self._step(members, level, local)
                outer = _variables(step.labels)
                if not outer:  # the group is connected, so this is the last one
                    return step
                parts.append(_Part(outer, frozenset(step.axes), step))

    def _step(
        self, members: Sequence[_Part], level: frozenset[int], local: set[str]
    ) -> Step:
        variables = set().union(*(part.variables for part in members))
        outer = sorted(v for v in variables if v[0] not in local)
        gone = sorted({name for name, _ in variables} & local)
        lags = {n: max(lag for m, lag in variables if m == n) for n in gone}
        chain = self.chain if any(lags.values()) else None
        kept = frozenset().union(*(self.axes[name] for name, _ in outer))
        if outer and (kept == level or chain in kept):
            others = listed(dict.fromkeys(name for name, _ in outer))
            raise Obstacle(
                f"every element of {others} meets every element of others in a cost "
                f"term"
                if chain is None
                else f"{listed(gone)} and {others} are chains of different shapes "
                f"that meet at every step"
            )
        axes = tuple(sorted(level - {chain}))
        step = Step(
            factors=tuple(p.origin for p in members if isinstance(p.origin, str)),
            before=tuple(p.origin for p in members if isinstance(p.origin, Step)),
            labels=(*outer, *axes),
            path=(),
            lags=tuple(lags.items()),
            chain=chain,
            axes=tuple(sorted(kept)) if outer else axes,
        )
        return step._replace(path=self._path(step))

    def _path(self, step: Step) -> tuple[tuple[int, ...], ...]:
        """The order of pairs within a step; notes the largest intermediate."""
        found = [self.labels_of(name) for name in step.factors]
        found += [before.scope for before in step.before]
        operands = [[x for x in o if x != step.chain] for o in found]
        output = step.labels
        if step.chain is not None:
            output = step.inner
            operands.append([later(label, step) for label in output])
        symbols = {
            label: opt_einsum.get_symbol(i)
            for i, label in enumerate(dict.fromkeys(x for o in operands for x in o))
        }
        text = ",".join("".join(symbols[x] for x in o) for o in operands)
        shapes = [tuple(self.sizes[x] for x in o) for o in operands]
        path, _ = opt_einsum.contract_path(
            f"{text}->{''.join(symbols[x] for x in output)}", *shapes, shapes=True
        )
        turns = 1 if step.chain is None else self.sizes[step.chain]
        for taken in path:
            chosen = [operands.pop(i) for i in sorted(taken, reverse=True)]
            union = list(dict.fromkeys(x for o in chosen for x in o))
            self.largest = max(
                self.largest, turns * prod(self.sizes[label] for label in union)
            )
            needed = set(output).union(*operands)
            operands.append([label for label in union if label in needed])
        return tuple(map(tuple, path))

    def labels_of(self, name: str) -> tuple[Label, ...]:
        """Labels of a factor's table."""
        return self.factors[name].variables + self.factors[name].numbers


def later(label: Label, step: Step) -> Label:
    """A label of a message as the next turn of the chain sees it."""
    own = {name for name, _ in step.lags}
    if isinstance(label, int) or label[0] not in own:
        return label
    return label[0], label[1] + 1


def connected(
    names: Sequence[str], links: Iterable[Iterable[str]]
) -> list[tuple[str, ...]]:
    """Parts of a graph in which a link joins any number of names, in their order."""
    part = {name: name for name in names}
    for link in links:
        old = {part[name] for name in link}
        if len(old) > 1:
            first = min(old, key=names.index)
            part = {name: first if p in old else p for name, p in part.items()}
    return [tuple(n for n in names if part[n] == p) for p in names if part[p] == p]


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names in a sentence, the first few of many."""
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def _connected(parts: Sequence[_Part], local: set[str]) -> list[list[_Part]]:
    """Parts that share a site to be summed out belong together."""
    at = [str(i) for i in range(len(parts))]
    links = [
        [str(i) for i, p in enumerate(parts) if any(v[0] == n for v in p.variables)]
        for n in local
    ]
    return [[parts[int(i)] for i in found] for found in connected(at, links)]


def _variables(labels: Iterable[Label]) -> frozenset[Variable]:
    return frozenset(label for label in labels if not isinstance(label, int))
