"""Which family for which model: the rule, with its reason, and the way up.

`default_guide` picks a family by dimension and plates; `richer_guide` says which family
can carry more, for a fit whose k-hat shows that the present one cannot carry the
posterior.
"""

from math import prod

from bbvi.analysis import Analysis
from bbvi.guides import (
    FullRank,
    Funnel,
    Guide,
    LowRank,
    MeanField,
    NonCentered,
    Structured,
)
from bbvi.guides.base import continuous_of, dimension
from bbvi.guides.funnel import scales
from bbvi.guides.noncentered import noncentrable
from bbvi.guides.rows import read_blocks

FULL_RANK_DIM = 100
"""Largest dimension for which the full-rank Gaussian is the default."""
SMOOTH_DIM = 200
"""The same where nothing is discrete or comes in minibatches: Newton steps are fast."""
AFFORDABLE_DIM = 500
"""Largest dimension for which a fit moves to the full-rank Gaussian by itself."""
REGRESSED_DIM = 100
"""Most global dimensions that rows are regressed on by default."""
ROW_DIM = 20
"""Largest row for which the structured Gaussian is the default."""


def default_guide(analysis: Analysis, names: tuple[str, ...]) -> tuple[Guide, str]:
    """The family for the sites that q must hold, and why."""
    if MeanField().refusals(analysis, names):
        return MeanField(), "no family holds all sites"
    dim = dimension(analysis, continuous_of(analysis, names))
    if not dim:
        return MeanField(), "no continuous site, a table for each discrete element"
    if dim == 1:
        return MeanField(), "one dimension"
    if any(name in analysis.jumps for name in names):
        return MeanField(), "the log density jumps, which needs sites on their own"
    full = FullRank()
    refused = full.refusals(analysis, names)
    if dim <= full_rank_dim(analysis, names) and not refused:
        return full, f"{dim} dimensions, few enough for all their correlations"
    if _has_rows(analysis, names):
        return Structured(), _rows_reason(analysis, names, dim)
    most = full_rank_dim(analysis, names)
    if dim > most:
        return MeanField(), f"{dim} dimensions, more than {most}"
    return MeanField(), "not all sites fit into one Gaussian"


def full_rank_dim(analysis: Analysis, names: tuple[str, ...]) -> int:
    """Largest dimension for which the full-rank Gaussian is the default."""
    sites = [analysis.sites[name] for name in names]
    parts = analysis.subsampled or analysis.parameters
    is_smooth = not parts and not any(site.is_discrete for site in sites)
    return SMOOTH_DIM if is_smooth else FULL_RANK_DIM


def richer_guide(
    analysis: Analysis, names: tuple[str, ...], guide: Guide
) -> Guide | None:
    """A family that holds more correlations than a given one, or None.

    From `MeanField` to `Structured` where the model has rows, else to `LowRank`; from
    each of them to `FullRank` up to ``AFFORDABLE_DIM`` dimensions; from there to
    `NonCentered` where sites have a location and a scale that others determine, else
    to `Funnel` where there are positive sites outside of plates.
    """
    dim = dimension(analysis, continuous_of(analysis, names))
    if type(guide) is FullRank:
        if sites := noncentrable(analysis, names):
            return NonCentered(sites)
        sites = scales(analysis, names)
        return Funnel(sites) if sites else None
    if dim < 2 or not isinstance(guide, (MeanField, LowRank, Structured)):
        return None
    full, low_rank = FullRank(), LowRank()
    if dim <= AFFORDABLE_DIM and not full.refusals(analysis, names):
        most = full_rank_dim(analysis, names)
        direct = dim <= most or not isinstance(guide, MeanField)
        if direct:
            return full
    if not isinstance(guide, MeanField):
        return None
    if _has_rows(analysis, names):
        return Structured()
    return None if low_rank.refusals(analysis, names) else low_rank


def advice(analysis: Analysis, names: tuple[str, ...], guide: Guide) -> str:
    """What to try if a family cannot carry the posterior, a sentence."""
    other = "another parameterisation of the model"
    richer = richer_guide(analysis, names, guide)
    return f"Try guides.{richer!r}, or {other}." if richer else f"Try {other}."


def _has_rows(analysis: Analysis, names: tuple[str, ...]) -> bool:
    """Whether rows of plates are regressed on few globals, and rows are small."""
    globals_, blocks = read_blocks(analysis, names)
    if not globals_ or not blocks or Structured().refusals(analysis, names):
        return False
    small = all(block.size <= ROW_DIM for block in blocks)
    return small and dimension(analysis, globals_) <= REGRESSED_DIM


def _rows_reason(analysis: Analysis, names: tuple[str, ...], dim: int) -> str:
    globals_, blocks = read_blocks(analysis, names)
    rows = " and ".join(f"{prod(b.shape)} rows of {b.where}" for b in blocks)
    own = dimension(analysis, globals_)
    return f"{dim} dimensions, of which {own} global; {rows}, each regressed on them"
