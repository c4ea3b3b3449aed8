"""How does the gradient get through a site? One estimator for each latent.

Each is unbiased wherever it is not refused: `Marginalized` sums a finite site out of
the model, `LocalExpectation` sums it under q, `Reparameterized` differentiates the
draw, `ScoreFunction` needs values only, and takes a control variate.
"""

from bbvi.estimators.antithetic import Antithetic
from bbvi.estimators.base import Estimator, Situation
from bbvi.estimators.controls import (
    ControlVariate,
    LeaveOneOut,
    OptimalScale,
    RunningAverage,
)
from bbvi.estimators.enumerating import SumAndSample
from bbvi.estimators.pathwise import Reparameterized
from bbvi.estimators.regression import LearnedBaseline
from bbvi.estimators.relaxing import DoubleControl
from bbvi.estimators.score import ScoreFunction
from bbvi.estimators.summation import LocalExpectation, Marginalized

__all__ = [
    "Antithetic",
    "ControlVariate",
    "DoubleControl",
    "Estimator",
    "LearnedBaseline",
    "LeaveOneOut",
    "LocalExpectation",
    "Marginalized",
    "OptimalScale",
    "Reparameterized",
    "RunningAverage",
    "ScoreFunction",
    "Situation",
    "SumAndSample",
]
