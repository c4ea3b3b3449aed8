"""What a model is: the records that `bbvi.analyze` returns, and how they print."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions.constraints import Constraint

from bbvi.analysis.arguments import Arguments
from bbvi.analysis.windows import Influences


class Plate(NamedTuple):
    """A NumPyro plate: ``size`` elements, ``subsample_size`` of them seen at once."""

    name: str
    size: int
    subsample_size: int
    dim: int

    @property
    def is_subsampled(self) -> bool:
        """Whether a step sees only some of the plate's elements."""
        return self.subsample_size != self.size


class Site(NamedTuple):
    """One named site of a model or guide.

    Attributes:
        name: As in the model.
        kind: `latent`, `observed`, `factor` or `deterministic`.
        distribution: Class name of the distribution, empty for a deterministic.
        shape: Shape of the value, batch axes first.
        event_dim: Number of trailing event axes.
        dtype: Of the value.
        plates: Names of the enclosing plates, outermost first.
        support: Constraint of the value; None for deterministics.
        values: The finite support of a discrete site, `(num_values,)`, else None.
        scale: What the log density is multiplied by; None if it is an array.
        is_masked: Whether a mask lies on the log density.
        has_atoms: Whether single points of a continuous site have probability.
        has_rsample: Whether NumPyro says that the sampler is differentiable.
        static_support: Whether the support is the same for all other values.
        infer: The site's ``infer`` dictionary.
    """

    name: str
    kind: str
    distribution: str
    shape: tuple[int, ...]
    event_dim: int
    dtype: np.dtype
    plates: tuple[str, ...] = ()
    support: Constraint | None = None
    values: np.ndarray | None = None
    scale: float | None = 1.0
    is_masked: bool = False
    has_atoms: bool = False
    has_rsample: bool = False
    static_support: bool = True
    infer: Mapping[str, Any] = {}

    @property
    def is_discrete(self) -> bool:
        """Whether the site takes values in a countable set."""
        return self.support is not None and bool(self.support.is_discrete)

    @property
    def describe(self) -> str:
        """The site in words, as in messages."""
        parts = [self.distribution]
        if self.values is not None:
            parts.append(f"{len(self.values)} values")
        if self.shape:
            parts.append(f"shape {self.shape}")
        if self.plates:
            parts.append("plate " + ", ".join(repr(p) for p in self.plates))
        return f"site {self.name!r} ({', '.join(parts)})"


class Parameter(NamedTuple):
    """A ``numpyro.param`` of a model or a guide.

    Attributes:
        name: As in the program.
        constraint: Where its constrained value lies.
        shape: Pytree of shapes of the constrained value.
        event_dim: As given, for parameters inside a subsampled plate.
    """

    name: str
    constraint: Constraint
    shape: Any


class Jump(NamedTuple):
    """Why a log density has no right pathwise gradient along a continuous site.

    Attributes:
        kind: `flips` if it jumps, `hides` if its derivative is hidden, `stops` if it
            has none, `ends` if it jumps where the circle of the factor closes.
        primitive: The JAX primitive that does it, or the ends.
        line: Source file and line, as far as known.
        term: A cost term in which it shows.
    """

    kind: str
    primitive: str
    line: str
    term: str

    def __str__(self) -> str:
        where = f" at {self.line}" if self.line else ""
        what = {
            "flips": "jumps along it",
            "hides": "hides its derivative",
            "stops": "cannot be differentiated",
            "ends": "jumps where the circle of its draws closes",
        }[self.kind]
        return f"the log density of {self.term!r} {what}: {self.primitive}{where}"


@dataclass(frozen=True, repr=False)
class Analysis:
    """What `bbvi.analyze` found out about a model; print it.

    Attributes:
        model: The model itself.
        arguments: Its arguments, arrays apart from static values.
        sites: Every site by name, in the order of the model.
        plates: Every plate by name.
        parameters: The model's own ``numpyro.param`` sites.
        observed: The argument that each observed site takes its values from.
        influence: ``{cost: {latent: influence}}``: which latents each cost term
            depends on, and how its axes line up with theirs.
        bounds: Latents on which the support of each latent depends.
        settle: Finds `jumps`; once called it remembers.
        shapes: Of the cost terms.
        draws_itself: Whether the model draws random numbers beside its sites.
        identify: Finds `fingerprint`; once called it remembers.
    """

    model: Callable[..., Any]
    arguments: Arguments
    sites: dict[str, Site]
    plates: dict[str, Plate]
    parameters: dict[str, Parameter]
    observed: dict[str, str]
    influence: dict[str, Influences]
    bounds: dict[str, tuple[str, ...]]
    settle: Callable[[], dict[str, Jump]]
    shapes: dict[str, tuple[int, ...]]
    draws_itself: bool
    identify: Callable[[], str]

    def of_kind(self, kind: str) -> dict[str, Site]:
        """Sites of one kind, in the order of the model."""
        return {n: s for n, s in self.sites.items() if s.kind == kind}

    @property
    def latents(self) -> dict[str, Site]:
        """The latent sites, in the order of the model."""
        return self.of_kind("latent")

    @property
    def jumps(self) -> dict[str, Jump]:
        """Continuous sites along which the log density jumps, and where."""
        return self.settle()

    @property
    def fingerprint(self) -> str:
        """Text that is equal for two models only if they compute the same."""
        return self.identify()

    @property
    def subsampled(self) -> dict[str, Plate]:
        """The plates of which a step sees only a minibatch."""
        return {n: p for n, p in self.plates.items() if p.is_subsampled}

    @property
    def num_elements(self) -> int:
        """Elements of all sites, each times the values of a finite parent."""
        total = 0
        for site in self.sites.values():
            parents = self.influence.get(site.name, ())
            finite = (self.sites[n].values for n in parents if n != site.name)
            total += prod(site.shape) * max(
                (len(values) for values in finite if values is not None), default=1
            )
        return total

    def children(self, latent: str) -> list[str]:
        """Cost terms that depend on a latent, its own density included."""
        return [cost for cost, found in self.influence.items() if latent in found]

    def plate_scale(self, name: str) -> float:
        r"""Elements that each one seen of a site stands for: $\prod N / B$."""
        found = (self.plates[plate] for plate in self.sites[name].plates)
        return prod(plate.size / plate.subsample_size for plate in found)

    def __repr__(self) -> str:
        rows = [("site", "kind", "distribution", "shape", "plates", "depends on")]
        for site in self.sites.values():
            found = [n for n in self.influence.get(site.name, {}) if n != site.name]
            rows.append(
                (
                    site.name,
                    site.kind,
                    site.distribution,
                    "x".join(map(str, site.shape)) or "scalar",
                    ", ".join(site.plates) or "-",
                    ", ".join(found) or "-",
                )
            )
        for plate in self.plates.values():
            note = f" ({plate.subsample_size} at a time)" if plate.is_subsampled else ""
            rows.append((plate.name, "plate", "", f"{plate.size}{note}", "", ""))
        for parameter in self.parameters.values():
            rows.append((parameter.name, "parameter", "", "", "", ""))
        lines = [f"Analysis of {name_of(self.model)}", table(rows)]
        lines += [f"site {name!r}: {jump}" for name, jump in self.jumps.items()]
        return "\n".join(lines)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name for messages."""
    return getattr(function, "__name__", type(function).__name__)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as aligned columns, the first row underlined."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
