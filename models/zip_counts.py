r"""Movements of a foetal lamb: zero-inflated Poisson counts.

In each of 240 intervals of five seconds the lamb is either quiet ($z_i = 1$: a
structural zero) or moves a Poisson number of times:

$$\pi \sim \mathrm{Beta}(1, 1), \quad \lambda \sim \mathrm{Exponential}(1), \quad
z_i \sim \mathrm{Bernoulli}(\pi), \quad
y_i \sim \mathrm{Poisson}(\lambda\,[z_i = 0]).$$

Data: Leroux and Puterman (1992), "Maximum-penalized-likelihood estimation for
independent and Markov-dependent mixture models", Biometrics 48; the frequencies only,
so the order of the rows is arbitrary. In the zoo for a discrete latent with impossible
values: where a movement was seen, $z_i = 1$ has log density $-\infty$.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import betaln, gammaln, logsumexp


def model(y: Array | None = None, num_intervals: int = 240) -> None:
    """Counts, some of which are zero by structure.

    Args:
        y: movements in each interval, `(num_intervals,)`.
        num_intervals: how many to draw where there are no data.
    """
    pi = numpyro.sample("pi", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Exponential(1.0))
    with numpyro.plate("intervals", num_intervals if y is None else len(y)):
        z = numpyro.sample("z", dist.Bernoulli(pi))
        numpyro.sample("y", dist.Poisson(jnp.where(z == 1, 0.0, rate)), obs=y)


def data() -> dict[str, np.ndarray]:
    """One row an interval, in order of the count."""
    path = Path(__file__).parent / "data" / "lamb.csv"
    movements, intervals = np.loadtxt(path, delimiter=",", skiprows=1, dtype=int).T
    return {"y": np.repeat(movements, intervals)}


def reference() -> dict:
    r"""The exact posterior, a mixture over the number $k$ of structural zeros.

    Given $k$ of the $n_0$ zeros, $\pi \sim \mathrm{Beta}(1 + k, 1 + n - k)$ and
    $\lambda \sim \mathrm{Gamma}(1 + \sum y, 1 + n - k)$; the $\binom{n_0}{k}$ ways to
    choose them are equally probable.
    """
    y = data()["y"]
    n, zeros, total = len(y), (y == 0).sum(), y.sum()
    k = np.arange(zeros + 1)
    log_joint = (
        gammaln(zeros + 1) - gammaln(k + 1) - gammaln(zeros - k + 1)
        + betaln(1 + k, 1 + n - k)
        + gammaln(1 + total) - (1 + total) * np.log(1 + n - k)
        - gammaln(y + 1).sum()
    )  # fmt: skip
    log_evidence = logsumexp(log_joint)
    weight = np.exp(log_joint - log_evidence)
    moments = {
        "pi": ((1 + k) / (2 + n), (1 + k) * (2 + k) / ((2 + n) * (3 + n))),
        "rate": (
            (1 + total) / (1 + n - k),
            (1 + total) * (2 + total) / (1 + n - k) ** 2,
        ),
    }
    mean = {site: weight @ first for site, (first, _) in moments.items()}
    sd = {s: np.sqrt(weight @ moments[s][1] - mean[s] ** 2) for s in moments}
    quiet = np.where(y == 0, weight @ k / zeros, 0.0)
    return {
        "mean": mean,
        "sd": sd,
        "probs": {"z": np.stack([1 - quiet, quiet], axis=-1)},
        "log_evidence": log_evidence,
        "origin": "Exact: conjugate given the number of structural zeros, summed over "
        "its 183 values.",
    }
