"""Black-box variational inference for any NumPyro model, with a verdict."""

from bbvi import estimators, guides
from bbvi.analysis import analyze
from bbvi.objective import loss
from bbvi.planning import plan
