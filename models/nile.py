r"""The flow of the Nile: a Normal mean that changes in one unknown year.

The annual flow at Aswan, 1871 to 1970, in $10^8\,\mathrm{m}^3$, has one mean before the
year $s$, another from it on, and one standard deviation throughout:

$$s \sim \mathrm{Uniform}\{1871, \dots, 1970\}, \quad
\mu_e, \mu_l \sim N(1000, 500), \quad \sigma \sim \text{half-}N(300), \quad
y_t \sim N(\mu_e [t < s] + \mu_l [t \ge s],\, \sigma).$$

$s = 1871$ means that no year is early.

Data: Cobb (1978), "The problem of the Nile", Biometrika 65. In the zoo for a discrete
change point in units far from one (means near a thousand), with an exact posterior.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import logsumexp

FIRST, LAST = 1871, 1970
PRIOR_MEAN, PRIOR_SD, SIGMA_SCALE = 1000.0, 500.0, 300.0


def model(year: Array, flow: Array | None = None) -> None:
    """Yearly flow with one change of the mean.

    Args:
        year: calendar years, `(num_years,)`.
        flow: annual flow, `(num_years,)`.
    """
    switch = numpyro.sample("switch", dist.DiscreteUniform(FIRST, LAST))
    early_mean = numpyro.sample("early_mean", dist.Normal(PRIOR_MEAN, PRIOR_SD))
    late_mean = numpyro.sample("late_mean", dist.Normal(PRIOR_MEAN, PRIOR_SD))
    sigma = numpyro.sample("sigma", dist.HalfNormal(SIGMA_SCALE))
    mean = jnp.where(year < switch, early_mean, late_mean)
    with numpyro.plate("years", len(year)):
        numpyro.sample("flow", dist.Normal(mean, sigma), obs=flow)


def data() -> dict[str, np.ndarray]:
    """The 100 years and their flows."""
    path = Path(__file__).parent / "data" / "nile.csv"
    year, flow = np.loadtxt(path, delimiter=",", skiprows=1).T
    return {"year": year.astype(int), "flow": flow}


def reference() -> dict:
    """The exact posterior: the means in closed form, the switch and sigma on a grid."""
    year, y = data().values()
    y = y - PRIOR_MEAN
    switch = np.arange(FIRST, LAST + 1)
    sigma = np.exp(np.linspace(np.log(50), np.log(500), 1001))
    early = year < switch[:, None]  # (switch, year)

    # The log joint of switch and log(sigma), axes (switch, sigma).
    log_joint = (
        -np.log(len(switch))
        + np.log(2 / SIGMA_SCALE / np.sqrt(2 * np.pi))
        - 0.5 * (sigma / SIGMA_SCALE) ** 2
        + np.log(sigma)
        - 0.5 * len(y) * np.log(2 * np.pi * sigma**2)
        - 0.5 * y @ y / sigma**2
    ) + np.zeros((len(switch), 1))
    moments = {}
    for site, member in {"early_mean": early, "late_mean": ~early}.items():
        precision = 1 / PRIOR_SD**2 + member.sum(1)[:, None] / sigma**2
        loc = (member @ y)[:, None] / sigma**2 / precision
        log_joint += 0.5 * precision * loc**2 - 0.5 * np.log(precision * PRIOR_SD**2)
        moments[site] = PRIOR_MEAN + loc, 1 / precision + (PRIOR_MEAN + loc) ** 2
    moments["sigma"] = sigma, sigma**2

    log_total = logsumexp(log_joint)
    weight = np.exp(log_joint - log_total)
    mean = {site: (weight * first).sum() for site, (first, _) in moments.items()}
    second = {site: (weight * square).sum() for site, (_, square) in moments.items()}
    return {
        "mean": mean,
        "sd": {site: np.sqrt(second[site] - mean[site] ** 2) for site in mean},
        "probs": {"switch": weight.sum(1)},
        "log_evidence": log_total + np.log(np.log(sigma[1] / sigma[0])),
        "origin": "Exact: conjugate means, summed over the 100 values of the switch, "
        "with quadrature over sigma (trapezoid rule, 1,001 points in log(sigma)).",
    }
