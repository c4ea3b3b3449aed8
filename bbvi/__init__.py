"""Black-box variational inference for any NumPyro model, with a verdict."""

from bbvi._collector import collector_paused, look_once_at_the_end

look_once_at_the_end()
with collector_paused():
    # ArviZ leaves a lazy numpyro in its place, whose distributions stay incomplete
    # unless the package itself is loaded before its submodules.
    from numpyro import handlers as _handlers  # noqa: F401

    from bbvi import estimators, guides
    from bbvi.analysis import Analysis, analyze
    from bbvi.choosing import Choice
    from bbvi.elbo import ELBO
    from bbvi.expectation import Expectation, expectation
    from bbvi.fitting import fit
    from bbvi.loading import load
    from bbvi.objective import loss
    from bbvi.piloting import pilot
    from bbvi.planning import Plan, PlanError, plan
    from bbvi.result import Fit
    from bbvi.verdict import Level, Status, Verdict

__all__ = [
    "Analysis",
    "Choice",
    "ELBO",
    "Expectation",
    "Fit",
    "Level",
    "Plan",
    "PlanError",
    "Status",
    "Verdict",
    "analyze",
    "estimators",
    "expectation",
    "fit",
    "guides",
    "load",
    "loss",
    "pilot",
    "plan",
]
