"""How is the posterior approximated? The families q.

A guide is a recipe: it holds options, never parameters, and prints and compares as
what it is. `MeanField`, `Structured`, `LowRank`, `FullRank`, `NonCentered` and
`Funnel` build themselves from the analysis of a model; `Custom` wraps a user's own
NumPyro guide.
"""

from bbvi.guides.base import Guide
from bbvi.guides.custom import Custom
from bbvi.guides.funnel import Funnel
from bbvi.guides.gaussian import FullRank
from bbvi.guides.lowrank import LowRank
from bbvi.guides.meanfield import MeanField
from bbvi.guides.noncentered import NonCentered
from bbvi.guides.structured import Structured

__all__ = [
    "Custom",
    "FullRank",
    "Funnel",
    "Guide",
    "LowRank",
    "MeanField",
    "NonCentered",
    "Structured",
]
