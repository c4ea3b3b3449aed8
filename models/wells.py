r"""Arsenic in wells of Bangladesh: logistic regression with flat priors.

Whether a household switches to another well depends on the distance to the next safe
one, in hundreds of metres, and on the arsenic in its own:

$$p(\alpha, \beta) \propto 1, \quad
y_i \sim \mathrm{Bernoulli}(\mathrm{logit}^{-1}(\alpha + \beta_1\, d_i / 100
+ \beta_2\, a_i)).$$

Data: Gelman and Hill (2007), "Data Analysis Using Regression and
Multilevel/Hierarchical Models", by way of posteriordb (BSD-3-Clause), where the model
is `wells_dist100ars`. In the zoo for improper priors, and for a plain regression of
3,020 rows.
"""

from itertools import product
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import expit

NODES = 10


def model(dist100: Array, arsenic: Array, switched: Array | None = None) -> None:
    """Logistic regression on two covariates.

    Args:
        dist100: distance to the next safe well in units of 100 m, `(num_households,)`.
        arsenic: arsenic in the household's well, `(num_households,)`.
        switched: 1 where the household switched, `(num_households,)`.
    """
    real = dist.constraints.real
    alpha = numpyro.sample("alpha", dist.ImproperUniform(real, (), ()))
    beta = numpyro.sample("beta", dist.ImproperUniform(real, (), (2,)))
    logits = alpha + beta[0] * dist100 + beta[1] * arsenic
    with numpyro.plate("households", len(dist100)):
        numpyro.sample("switched", dist.Bernoulli(logits=logits), obs=switched)


def data() -> dict[str, np.ndarray]:
    """The 3,020 households."""
    path = Path(__file__).parent / "data" / "wells.csv"
    switched, arsenic, distance = np.loadtxt(path, delimiter=",", skiprows=1).T
    return {
        "dist100": distance / 100,
        "arsenic": arsenic,
        "switched": switched.astype(int),
    }


def reference() -> dict:
    """The posterior by three-dimensional Gauss-Hermite quadrature around its mode."""
    values = data()
    x = np.stack([np.ones(len(values["arsenic"])), *list(values.values())[:2]], axis=1)
    y = values["switched"]
    mode = np.zeros(3)
    for _ in range(20):  # Newton's method
        p = expit(x @ mode)
        covariance = np.linalg.inv((x.T * p * (1 - p)) @ x)
        mode = mode + covariance @ (x.T @ (y - p))

    node, log_weight = np.polynomial.hermite_e.hermegauss(NODES)
    log_weight = np.log(log_weight) + 0.5 * node**2
    eps = np.array(list(product(node, repeat=3)))
    scale = np.linalg.cholesky(covariance)
    points = mode + eps @ scale.T
    logits = points @ x.T
    log_density = logits @ y - np.logaddexp(0, logits).sum(1)
    log_density += np.array(list(product(log_weight, repeat=3))).sum(1)
    log_density += np.log(np.diag(scale)).sum()
    peak = log_density.max()
    total = np.exp(log_density - peak).sum()
    weight = np.exp(log_density - peak) / total
    mean = weight @ points
    sd = np.sqrt(weight @ (points - mean) ** 2)
    return {
        "mean": {"alpha": mean[0], "beta": mean[1:]},
        "sd": {"alpha": sd[0], "beta": sd[1:]},
        "log_evidence": peak + np.log(total),
        "origin": f"Gauss-Hermite quadrature around the mode, {NODES}^3 points, "
        "accurate to 6 digits; the evidence takes the flat prior to have density one.",
    }
