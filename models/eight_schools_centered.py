r"""Eight schools, centred: the effects of coaching, with a funnel in the posterior.

The estimated effect $y_j$ of coaching in school $j$, with known standard error
$\sigma_j$, varies around a common mean:

$$\mu \sim N(0, 5), \quad \tau \sim \text{half-Cauchy}(5), \quad
\theta_j \sim N(\mu, \tau), \quad y_j \sim N(\theta_j, \sigma_j).$$

Data: Rubin (1981), "Estimation in parallel randomized experiments", Journal of
Educational Statistics 6, by way of posteriordb (BSD-3-Clause). In the zoo for the
funnel: as $\tau$ goes to 0 the effects are pinned to $\mu$, which no Gaussian over
$(\mu, \log \tau, \theta)$ can follow. `eight_schools` is the same posterior, written
without it.
"""

from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

MU_SCALE = TAU_SCALE = 5.0


def model(sigma: Array, y: Array | None = None) -> None:
    """Normal effects of eight schools around a common mean.

    Args:
        sigma: standard errors of the estimated effects, `(num_schools,)`.
        y: estimated effects, `(num_schools,)`.
    """
    mu = numpyro.sample("mu", dist.Normal(0, MU_SCALE))
    tau = numpyro.sample("tau", dist.HalfCauchy(TAU_SCALE))
    with numpyro.plate("schools", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def data() -> dict[str, np.ndarray]:
    """The eight estimates and their standard errors."""
    path = Path(__file__).parent / "data" / "eight_schools.csv"
    y, sigma = np.loadtxt(path, delimiter=",", skiprows=1).T
    return {"sigma": sigma, "y": y}


def reference() -> dict:
    """The exact posterior: Normal given tau, and tau by quadrature.

    With theta integrated out, `y[j]` is Normal with mean mu and variance
    `total = sigma[j]**2 + tau**2`, so that mu given tau is Normal with mean `loc` and
    variance `1 / precision`.
    """
    sigma, y = data().values()
    log_tau = np.linspace(-30, 12, 20_001)
    tau = np.exp(log_tau)[:, None]  # (grid, school)
    total = sigma**2 + tau**2
    precision = 1 / MU_SCALE**2 + (1 / total).sum(1, keepdims=True)
    loc = (y / total).sum(1, keepdims=True) / precision

    log_joint = -0.5 * (np.log(2 * np.pi * total) + y**2 / total).sum(1)
    log_joint += 0.5 * (precision * loc**2 - np.log(precision * MU_SCALE**2))[:, 0]
    log_joint += np.log(2 / np.pi / TAU_SCALE) - np.log1p((tau[:, 0] / TAU_SCALE) ** 2)
    joint = np.exp(log_joint + log_tau) * (log_tau[1] - log_tau[0])
    weight = joint / joint.sum()

    pooling = sigma**2 / total
    given_tau = {  # site: mean, variance
        "mu": (loc, 1 / precision),
        "tau": (tau, np.zeros_like(tau)),
        "theta": (
            (1 - pooling) * y + pooling * loc,
            (1 - pooling) * sigma**2 + pooling**2 / precision,
        ),
    }
    mean, sd = {}, {}
    for site, (first, variance) in given_tau.items():
        mean[site] = np.squeeze(weight @ first)
        sd[site] = np.sqrt(np.squeeze(weight @ (variance + first**2)) - mean[site] ** 2)
    return {
        "mean": mean,
        "sd": sd,
        "log_evidence": np.log(joint.sum()),
        "origin": "Exact: Normal given tau, with quadrature over tau (trapezoid rule, "
        "20,001 points in log(tau)).",
    }
