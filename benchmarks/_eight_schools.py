"""Eight schools (Rubin 1981), non-centred, as a NumPyro model with its data."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist

SITES = ("mu", "tau", "z")


def model(sigma: np.ndarray, y: np.ndarray) -> None:
    """School effects `theta = mu + tau z`, seen with known errors `sigma`."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def data() -> dict[str, Any]:
    """The eight estimated effects and their standard errors."""
    return {
        "sigma": np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32),
        "y": np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32),
    }
