"""Which finite sites can be summed out of a model together, and what would it cost?

Sites that share cost terms form a `Group`. Each of its cost terms is a factor: a table
over the values of the sites that influence it, along the axes that they share. An axis
along which an element also reaches its neighbours' costs is a chain. Everything here is
read off the shapes, so that the cost is known before anything is built.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import NamedTuple

from bbvi.analysis import Analysis
from bbvi.analysis.windows import Aligned, Influences, move, reversal
from bbvi.estimators.ordering import (
    Factor,
    Label,
    Obstacle,
    Ordering,
    Step,
    connected,
    listed,
)


class Group(NamedTuple):
    """Sites that are summed out together.

    Attributes:
        sites: Their names, in the model's order.
        factors: By cost term.
        axes: Numbers of the axes of each site, None for axes of size 1.
        sizes: Number of values or elements of every label.
        step: The last contraction, which holds the others.
        last: Site along whose axes the result lies.
        colours: Of each site, one for every element of a period along the chain; sites
            and elements of one colour share no cost term.
        values: How many values are tried for each colour.
        chain: Number of the axis that is a chain, if any.
        length: Number of elements that sites have along it.
        ends: Factors by site that say where on a longer chain it has no element.
        begin: Index of the sites along their chain at its first step, at most 0.
        cells: Numbers in the largest table or intermediate.
        reason: How the sum is done, in words.
    """

    sites: tuple[str, ...]
    factors: Mapping[str, Factor]
    axes: Mapping[str, tuple[int | None, ...]]
    sizes: Mapping[Label, int]
    step: Step
    last: str
    colours: Mapping[str, tuple[int, ...]]
    values: tuple[int, ...]
    chain: int | None
    length: int
    ends: Mapping[str, Factor]
    begin: int
    cells: int
    reason: str

    @property
    def term(self) -> str:
        """Name of the cost term that replaces the group's own."""
        return f"sum over {listed(self.sites)}"

    @property
    def evaluations(self) -> int:
        """Evaluations of the model that the tables take."""
        return prod(self.values)


def eliminate(analysis: Analysis, names: Iterable[str]) -> tuple[Group, ...]:
    """How finite sites are summed out of a model.

    Args:
        analysis: Of the model.
        names: Sites to sum out.

    Returns:
        A group for the sites that share cost terms, directly or through others.

    Raises:
        Obstacle: Some cannot be summed out together.
    """
    return tuple(
        _Reading(analysis, sites).group() for sites in sharing(analysis, names)
    )


def sharing(analysis: Analysis, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Sites that share cost terms, directly or through others, in the model's order."""
    wanted = set(names)
    links = [wanted & found.keys() for found in analysis.influence.values()]
    return connected([name for name in analysis.latents if name in wanted], links)


class _Reading:
    """What the influences say about the sites of one group."""

    def __init__(self, analysis: Analysis, names: tuple[str, ...]) -> None:
        self.analysis, self.names = analysis, names
        self.shapes = {n: analysis.sites[n].shape for n in names}
        self.num_values = {n: len(analysis.sites[n].values) for n in names}
        self.reached: dict[str, Influences] = {
            term: {n: found[n] for n in names if n in found}
            for term, found in analysis.influence.items()
            if found.keys() & set(names)
        }
        self.check_elements()
        self.flipped = {term: self.turn(term) for term in self.reached}
        self.numbers = self.number_axes()
        self.axes = {
            n: tuple(self.numbers.get((n, a)) for a in range(len(shape)))
            for n, shape in self.shapes.items()
        }
        self.chain = self.find_chain()

    def group(self) -> Group:
        """The plan of the sum."""
        lengths = {
            self.numbers[n, a]: size
            for n, shape in self.shapes.items()
            for a, size in enumerate(shape)
            if (n, a) in self.numbers
        }
        begin, length = 0, lengths.get(self.chain, 0)
        if self.chain is not None:
            begin, lengths[self.chain] = self.extent(length)
        factors = {term: self.factor(term, begin) for term in self.reached}
        sizes: dict[Label, int] = dict(lengths)
        for factor in factors.values():
            sizes |= {v: self.num_values[v[0]] for v in factor.variables}
        within = {
            n: frozenset(a for a in axes if a is not None)
            for n, axes in self.axes.items()
        }
        ends = self.ends(length, lengths)
        order = Ordering({**factors, **ends}, sizes, within, self.chain)
        step = order.run()
        colours, values = self.colour()
        tables = (
            prod(sizes[v] for v in factor.variables) * prod(self.analysis.shapes[term])
            for term, factor in factors.items()
        )
        return Group(
            sites=self.names,
            factors=factors,
            axes=self.axes,
            sizes=sizes,
            step=step,
            last=next(n for n in self.names if n in dict(step.lags)),
            colours=colours,
            values=values,
            chain=self.chain,
            length=length,
            ends=ends,
            begin=begin,
            cells=max(order.largest, *tables),
            reason=self.reason(factors, prod(values)),
        )

    def entries(self, *terms: str) -> Iterator[tuple[str, str, int, Aligned]]:
        """Every aligned axis as ``(term, site, axis of the site, entry)``."""
        for term in terms or self.reached:
            for name, entries in self.reached[term].items():
                for axis, entry in enumerate(entries):
                    if entry is not None:
                        yield term, name, axis, entry

    def check_elements(self) -> None:
        """Refuse elements that cannot be told apart in some cost term."""
        for name, shape in self.shapes.items():
            mixed = {
                axis
                for found in self.reached.values()
                for axis, entry in enumerate(found.get(name, ()))
                if entry is None and shape[axis] > 1
            }
            if mixed:
                number = prod(shape[axis] for axis in mixed)
                raise Obstacle(
                    f"{number} of its elements share cost terms, so they cannot be "
                    f"summed one by one"
                )

    def turn(self, term: str) -> tuple[int, ...]:
        """Let a term's axes run along the sites; those that ran backwards."""
        along, back = (1, 1, 0), (1, -1, 0)
        lines: dict[int, set[tuple[int, int, int]]] = {}
        for _, _, _, entry in self.entries(term):
            line = (entry.stride, entry.step, entry.period)
            lines.setdefault(entry.axis, set()).add(line)
        if not all(found in ({along}, {back}) for found in lines.values()):
            raise Obstacle(
                "its elements reach cost terms round a ring, in strides, or along and "
                "against other sites"
            )
        turned = tuple(sorted(axis for axis, found in lines.items() if back in found))
        shape = self.analysis.shapes[term]
        self.reached[term] = move(
            self.reached[term], lambda a: reversal(a, shape[a]) if a in turned else a
        )
        return turned

    def number_axes(self) -> dict[tuple[str, int], int]:
        """One number for all axes, of sites and of terms, that run along each other."""
        number: dict[tuple[str, int], int] = {}
        for term, name, axis, entry in self.entries():
            ends = ((name, axis), (_cost(term), entry.axis))
            old = {number.setdefault(end, len(number)) for end in ends}
            number = {p: min(old) if n in old else n for p, n in number.items()}
        for owner in dict.fromkeys(owner for owner, _ in number):
            own = [n for (other, _), n in number.items() if other == owner]
            if len(set(own)) < len(own):
                raise Obstacle(
                    f"two axes of {owner.split()[-1]!r} run along each other, so that "
                    f"every element meets every other"
                )
        return number

    def find_chain(self) -> int | None:
        """Number of the axis along which elements reach their neighbours' costs.

        An axis of which a cost term has only some elements counts as well.
        """
        found = {
            self.numbers[name, axis]
            for term, name, axis, entry in self.entries()
            if (entry.low, entry.high) != (0, 0)
            or self.analysis.shapes[term][entry.axis] != self.shapes[name][axis]
        }
        if len(found) > 1:
            raise Obstacle("it has neighbours along two axes, as on a grid")
        for chain in found:
            lengths = {
                self.shapes[n][axes.index(chain)]
                for n, axes in self.axes.items()
                if chain in axes
            }
            if len(lengths) > 1:
                raise Obstacle("sites of different lengths share a chain")
        return next(iter(found), None)

    def extent(self, length: int) -> tuple[int, int]:
        """Index of the sites at the chain's first step, and its number of steps.

        Costs may reach over both ends, where there is no element of a site.
        """
        first, last = 0, length - 1
        for term in self.reached:
            axis, _, latest = self.along_chain(term)
            if axis is not None:
                first = min(first, latest)
                last = max(last, self.analysis.shapes[term][axis] - 1 + latest)
        return first, last - first + 1

    def along_chain(self, term: str) -> tuple[int | None, dict[str, Aligned], int]:
        """A term's axis along the chain, the sites on it, and how far they are ahead.

        The last is the index of the latest site element that the term's element 0
        may depend on.
        """
        found = {
            name: entry
            for t, name, axis, entry in self.entries()
            if t == term and self.numbers[name, axis] == self.chain
        }
        if self.chain is None or not found:
            return None, {}, 0
        axis = next(iter(found.values())).axis
        return axis, found, -min(entry.low for entry in found.values())

    def factor(self, term: str, begin: int) -> Factor:
        """How a cost term becomes a table."""
        axis, along, latest = self.along_chain(term)
        variables = []
        for name in self.reached[term]:
            nearest = along[name].low + latest if name in along else 0
            width = along[name].high - along[name].low + 1 if name in along else 1
            variables += [(name, nearest + lag) for lag in range(width)]
        kept = sorted({entry.axis for t, _, _, entry in self.entries() if t == term})
        return Factor(
            variables=tuple(variables),
            axes=tuple(kept),
            numbers=tuple(self.numbers[_cost(term), a] for a in kept),
            start=0 if axis is None else latest - begin,
            flipped=self.flipped[term],
        )

    def ends(self, length: int, lengths: Mapping[int, int]) -> dict[str, Factor]:
        """Factors that say where sites have no element, if the chain is longer."""
        if self.chain is None or lengths[self.chain] == length:
            return {}
        return {
            f"{name} exists": Factor(
                ((name, 0),), (), tuple(a for a in axes if a is not None)
            )
            for name, axes in self.axes.items()
            if self.chain in axes
        }

    def colour(self) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
        """Colours of the sites, and the number of values of each."""
        period = dict.fromkeys(self.names, 1)
        for _, name, _, entry in self.entries():
            period[name] = max(period[name], entry.high - entry.low + 1)
        colours: dict[str, tuple[int, ...]] = {}
        values: list[int] = []
        for name in self.names:
            near = {
                n for found in self.reached.values() if name in found for n in found
            }
            taken = {c for n in near & colours.keys() for c in colours[n]}
            free = [c for c in range(len(values)) if c not in taken]
            while len(free) < period[name]:
                free.append(len(values))
                values.append(1)
            colours[name] = tuple(free[: period[name]])
            for c in colours[name]:
                values[c] = max(values[c], self.num_values[name])
        return colours, tuple(values)

    def reason(self, factors: Mapping[str, Factor], evaluations: int) -> str:
        """How the sum is done, in words."""
        sites = listed(self.names)
        on_axes = any(a is not None for axes in self.axes.values() for a in axes)
        if any(lag for f in factors.values() for _, lag in f.variables):
            chains = [n for n in self.names if self.chain in self.axes[n]]
            length = self.shapes[chains[0]][self.axes[chains[0]].index(self.chain)]
            states = " x ".join(str(self.num_values[n]) for n in chains)
            what = f"finite chain of {length} steps with {states} states"
            if len(self.names) > 1:
                what += f" ({sites})"
            return f"{what}: {evaluations} evaluations and one pass over the chain"
        if len(self.names) == 1:
            where = "each element on its own" if on_axes else "one element"
            return f"finite, {where}: {evaluations} evaluations sum it exactly"
        where = " along their plates" if on_axes else ""
        what = f"finite {_form(factors)} of {sites}{where}"
        return f"{what}: {evaluations} evaluations sum it exactly"


def _cost(term: str) -> str:
    """The owner of a cost term's axes, apart from the site of the same name."""
    return f"cost {term}"


def _form(factors: Mapping[str, Factor]) -> str:
    """The shape of the graph in which sites that share a cost term are joined."""
    pairs = {frozenset(name for name, _ in f.variables) for f in factors.values()}
    pairs = {pair for pair in pairs if len(pair) > 1}
    sites = {name for f in factors.values() for name, _ in f.variables}
    if any(len(pair) > 2 for pair in pairs) or len(pairs) != len(sites) - 1:
        return "group"
    most = max(sum(name in pair for pair in pairs) for name in sites)
    return "chain" if most <= 2 < len(sites) else "tree"
