r"""British coal-mining disasters: a Poisson rate that changes in one unknown year.

The numbers of disasters (explosions with ten or more deaths) in the years 1851 to 1962
have one rate before the year $s$ and another from it on:

$$s \sim \mathrm{Uniform}\{1851, \dots, 1962\}, \quad
\lambda_e, \lambda_l \sim \mathrm{Exponential}(1), \quad
y_t \sim \mathrm{Poisson}(\lambda_e [t < s] + \lambda_l [t \ge s]).$$

$s = 1851$ means that no year is early: all counts have the late rate, and the early
rate keeps its prior.

Data: Jarrett (1979), "A note on the intervals between coal-mining disasters",
Biometrika 66, as yearly counts in Carlin, Gelfand and Smith (1992), Applied Statistics
41. In the zoo for a scalar discrete latent that every observation depends on, with an
exact posterior.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import gammaln, logsumexp

FIRST, LAST = 1851, 1962


def model(year: Array, disasters: Array | None = None) -> None:
    """Yearly counts with one change of the rate.

    Args:
        year: calendar years, `(num_years,)`.
        disasters: number of disasters in each year, `(num_years,)`.
    """
    switch = numpyro.sample("switch", dist.DiscreteUniform(FIRST, LAST))
    early_rate = numpyro.sample("early_rate", dist.Exponential(1.0))
    late_rate = numpyro.sample("late_rate", dist.Exponential(1.0))
    rate = jnp.where(year < switch, early_rate, late_rate)
    with numpyro.plate("years", len(year)):
        numpyro.sample("disasters", dist.Poisson(rate), obs=disasters)


def data() -> dict[str, np.ndarray]:
    """The 112 years and their 191 disasters."""
    path = Path(__file__).parent / "data" / "coal_mining.csv"
    year, disasters = np.loadtxt(path, delimiter=",", skiprows=1, dtype=int).T
    return {"year": year, "disasters": disasters}


def reference() -> dict:
    r"""The exact posterior, a mixture over the 112 values of the switch.

    Given $s$, a rate with $n$ years and $S$ disasters is $\mathrm{Gamma}(1 + S, 1 + n)$
    and contributes $\Gamma(1 + S) / (1 + n)^{1 + S}$ to the evidence.
    """
    year, y = data().values()
    switch = np.arange(FIRST, LAST + 1)
    early = year < switch[:, None]  # (switch, year)
    log_joint = np.full(len(switch), -np.log(len(switch)) - gammaln(y + 1).sum())
    moments = {}
    for site, member in {"early_rate": early, "late_rate": ~early}.items():
        shape, rate = 1 + member @ y, 1 + member.sum(1)
        log_joint += gammaln(shape) - shape * np.log(rate)
        moments[site] = shape / rate, shape * (shape + 1) / rate**2
    log_evidence = logsumexp(log_joint)
    probs = np.exp(log_joint - log_evidence)
    mean = {site: probs @ first for site, (first, _) in moments.items()}
    sd = {s: np.sqrt(probs @ moments[s][1] - mean[s] ** 2) for s in moments}
    return {
        "mean": mean,
        "sd": sd,
        "probs": {"switch": probs},
        "log_evidence": log_evidence,
        "origin": "Exact: conjugate rates given the switch, summed over 112 values.",
    }
