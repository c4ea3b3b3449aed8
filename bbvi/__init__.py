"""Black-box variational inference for any NumPyro model, with a verdict."""

from bbvi import estimators, guides
from bbvi.analysis import Analysis, analyze
from bbvi.fitting import fit
from bbvi.objective import loss
from bbvi.planning import Choice, Plan, PlanError, plan
from bbvi.result import Fit, Level, Status, Verdict
from bbvi.saving import load

__all__ = [
    "Analysis",
    "Choice",
    "Fit",
    "Level",
    "Plan",
    "PlanError",
    "Status",
    "Verdict",
    "analyze",
    "estimators",
    "fit",
    "guides",
    "load",
    "loss",
    "plan",
]
