r"""Diabetes: spike-and-slab regression, with the selection of variables explicit.

The progression of the disease in 442 patients is regressed on ten baseline variables,
all standardised; each is in the model or not:

$$\gamma_j \sim \mathrm{Bernoulli}(0.5), \quad \beta_j \sim N(0, 0.5), \quad
\sigma \sim \text{half-}N(1), \quad
y_i \sim N\big(\textstyle\sum_j x_{ij} \gamma_j \beta_j,\, \sigma\big).$$

Data: Efron, Hastie, Johnstone and Tibshirani (2004), "Least angle regression", Annals
of Statistics 32, as shipped with scikit-learn (BSD-3-Clause). In the zoo for discrete
latents that are coupled through every observation (the blood serum variables are nearly
collinear), for $\beta$ falling back to its prior where $\gamma = 0$, and for a
posterior that is exact all the same, over the 1,024 subsets.
"""

from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import logsumexp

SLAB = 0.5


def model(x: Array, y: Array | None = None) -> None:
    """Linear regression with an indicator for every coefficient.

    Args:
        x: standardised covariates, `(num_patients, num_features)`.
        y: standardised response, `(num_patients,)`.
    """
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("features", x.shape[1]):
        gamma = numpyro.sample("gamma", dist.Bernoulli(0.5))
        beta = numpyro.sample("beta", dist.Normal(0.0, SLAB))
        coef = numpyro.deterministic("coef", gamma * beta)
    mean = x @ coef
    with numpyro.plate("patients", x.shape[0]):
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def data() -> dict[str, np.ndarray]:
    """The 442 patients, every column with mean 0 and standard deviation 1."""
    path = Path(__file__).parent / "data" / "diabetes.csv"
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    table = (table - table.mean(0)) / table.std(0)
    return {"x": table[:, :-1], "y": table[:, -1]}


def reference() -> dict:
    r"""The exact posterior: 1,024 subsets, and for each sigma by quadrature.

    Given $\gamma$ and $\sigma$, $\beta$ is Normal with precision
    $G / \sigma^2 + I / \mathrm{SLAB}^2$, where $G$ is $x^\top x$ with the rows and
    columns of the excluded variables set to 0; its eigenvectors serve every $\sigma$.
    """
    x, y = data().values()
    n, p = x.shape
    gamma = (np.arange(2**p)[:, None] >> np.arange(p)) & 1  # (subset, feature)
    gram = gamma[:, :, None] * (x.T @ x) * gamma[:, None, :]
    value, vector = np.linalg.eigh(gram)
    value = value.clip(0)[:, None]  # (subset, sigma, direction)
    projection = np.einsum("sjd,sj->sd", vector, gamma * (x.T @ y))[:, None]
    sigma = np.exp(np.linspace(np.log(0.5), np.log(1.5), 201))

    # The log joint of subset and log(sigma), beta integrated out.
    variance = sigma[:, None] ** 2
    shrunk = value + variance / SLAB**2
    log_joint = (
        -0.5 * n * np.log(2 * np.pi * sigma**2)
        - 0.5 * np.log(shrunk * SLAB**2 / variance).sum(-1)
        - 0.5 * (y @ y - (projection**2 / shrunk).sum(-1)) / sigma**2
        + 0.5 * np.log(2 / np.pi) - 0.5 * sigma**2 + np.log(sigma)
        + p * np.log(0.5)
    )  # fmt: skip
    log_total = logsumexp(log_joint)
    weight = np.exp(log_joint - log_total)  # (subset, sigma)

    loc = np.einsum("sjd,skd->skj", vector, projection / shrunk)
    spread = np.einsum("sjd,skd->skj", vector**2, variance / shrunk)
    first = np.einsum("sk,skj->sj", weight, loc)
    second = np.einsum("sk,skj->sj", weight, spread + loc**2)
    included = weight.sum(1) @ gamma
    mean = {
        "sigma": (weight @ sigma).sum(),
        "beta": first.sum(0),
        "coef": (gamma * first).sum(0),
    }
    square = {
        "sigma": (weight @ sigma**2).sum(),
        "beta": second.sum(0),
        "coef": (gamma * second).sum(0),
    }
    return {
        "mean": mean,
        "sd": {site: np.sqrt(square[site] - mean[site] ** 2) for site in mean},
        "probs": {"gamma": np.stack([1 - included, included], axis=-1)},
        "log_evidence": log_total + np.log(np.log(sigma[1] / sigma[0])),
        "origin": "Exact: conjugate coefficients, summed over the 1,024 subsets, with "
        "quadrature over sigma (trapezoid rule, 201 points in log(sigma)).",
    }
