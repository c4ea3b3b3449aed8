"""Figures, rows and the one table: what a benchmark returns and how it is shown.

A `Figure` is a median with its range, or a bound with its standard error; a `Row`
sets ours beside a rival's. A side that failed is the exception it raised, so that
the other side is still reported.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Literal

HEADER = (
    "benchmark",
    "quantity",
    "ours",
    "figure [min-max]",
    "rival",
    "figure [min-max]",
    "ours vs rival",
    "target",
    "met",
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number: `value`, with the range or the error it was seen with."""

    value: float
    low: float | None = None
    high: float | None = None
    mcse: float | None = None

    @classmethod
    def of_samples(cls, samples: Sequence[float]) -> "Figure":
        """The median of the samples, with their smallest and largest."""
        return cls(statistics.median(samples), min(samples), max(samples))

    def __str__(self) -> str:
        text = f"{self.value:.4g}" if self.mcse is None else f"{self.value:.3f}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.4g}-{self.high:.4g}]"
        return text if self.mcse is None else f"{text} ± {self.mcse:.3f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """Ours beside a rival's.

    Args:
        benchmark: Name of the benchmark.
        quantity: What the figures are, with its unit; smaller is better.
        ours: Name of our side.
        ours_figure: Our figure, or the exception our side raised.
        rival: Name of the other side.
        rival_figure: Its figure, or the exception it raised.
        target: Largest ratio or difference wanted; None where none is set.
        compare: Whether `ours / rival` or `ours - rival` is held to the target.
    """

    benchmark: str
    quantity: str
    ours: str
    ours_figure: Figure | Exception
    rival: str
    rival_figure: Figure | Exception
    target: float | None = None
    compare: Literal["ratio", "difference"] = "ratio"

    @property
    def is_failed(self) -> bool:
        """Whether a side raised an exception."""
        return not math.isfinite(self.comparison)

    @property
    def comparison(self) -> float:
        """`ours / rival` or `ours - rival`; nan where a side is missing."""
        ours, rival = self.ours_figure, self.rival_figure
        if isinstance(ours, Exception) or isinstance(rival, Exception):
            return math.nan
        if self.compare == "ratio":
            return ours.value / rival.value
        return ours.value - rival.value

    @property
    def is_met(self) -> bool | None:
        """Whether the comparison is within the target; None where there is none."""
        if self.target is None or self.is_failed:
            return None
        return self.comparison <= self.target

    def cells(self) -> tuple[str, ...]:
        """The row as text, one string a column of the table."""
        sign = "/" if self.compare == "ratio" else "-"
        target = "none" if self.target is None else f"<= {self.target:.3g}"
        met = {True: "yes", False: "NO", None: "-"}[self.is_met]
        return (
            self.benchmark,
            self.quantity,
            self.ours,
            _text(self.ours_figure),
            self.rival,
            _text(self.rival_figure),
            f"{sign} {self.comparison:.3f}",
            target,
            "FAILED" if self.is_failed else met,
        )

    def to_dict(self) -> dict[str, object]:
        """The row as plain values, for JSON."""
        plain = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }
        comparison = None if self.is_failed else self.comparison
        return plain | {"comparison": comparison, "is_met": self.is_met}


def table(rows: Sequence[Row]) -> str:
    """The rows as one aligned text table."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _text(figure: Figure | Exception) -> str:
    return type(figure).__name__ if isinstance(figure, Exception) else str(figure)


def _plain(value: object) -> object:
    if isinstance(value, Figure):
        return dataclasses.asdict(value)
    return repr(value) if isinstance(value, Exception) else value
