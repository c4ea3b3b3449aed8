"""Eight schools (Rubin 1981), non-centred, as a NumPyro model with its data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

SITES = ("mu", "tau", "z")


def model(sigma: jax.Array, y: jax.Array) -> None:
    """School effects `theta = mu + tau z`, seen with known errors `sigma`."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def data() -> dict[str, Any]:
    """The eight estimated effects and their standard errors."""
    return {
        "sigma": jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
        "y": jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    }
