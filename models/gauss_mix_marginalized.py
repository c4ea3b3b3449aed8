r"""A mixture of two Normals, its assignments summed out by hand.

Each of 1,000 rows comes from one of two components:

$$\mu_k \sim N(0, 2) \text{ with } \mu_1 < \mu_2, \quad
\sigma_k \sim \text{half-}N(2), \quad \theta \sim \mathrm{Beta}(5, 5),$$
$$p(y_n) = \theta\, N(y_n \mid \mu_1, \sigma_1)
+ (1 - \theta)\, N(y_n \mid \mu_2, \sigma_2).$$

The sorted pair is written through its middle and its gap, which are independent:
$(\mu_1 + \mu_2) / 2 \sim N(0, \sqrt 2)$ and
$\mu_2 - \mu_1 \sim \text{half-}N(\sqrt 8)$. This is the same prior as the ordering
constraint of Stan, but proper, and it can be drawn from.

Data: `low_dim_gauss_mix` of posteriordb (BSD-3-Clause), 1,000 simulated rows. In the
zoo as the oracle of `gauss_mix`, which has the assignments explicit: both must give the
same answer.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

DATA = Path(__file__).parent / "data"


def model(y: Array | None = None, num_rows: int = 1000) -> None:
    """Normal mixture of two ordered components.

    Args:
        y: observations, `(num_rows,)`.
        num_rows: how many to draw where there are no data.
    """
    middle = numpyro.sample("middle", dist.Normal(0.0, 2**0.5))
    gap = numpyro.sample("gap", dist.HalfNormal(8**0.5))
    mu = numpyro.deterministic("mu", middle + gap * jnp.array([-0.5, 0.5]))
    with numpyro.plate("components", 2):
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(jnp.stack([theta, 1 - theta]))
    mixture = dist.MixtureSameFamily(weights, dist.Normal(mu, sigma))
    with numpyro.plate("rows", num_rows if y is None else len(y)):
        numpyro.sample("y", mixture, obs=y)


def data() -> dict[str, np.ndarray]:
    """The 1,000 simulated observations."""
    return {"y": np.loadtxt(DATA / "gauss_mix.csv", skiprows=1)}


def reference() -> dict:
    """The posterior by five-dimensional quadrature, z summed out in closed form."""
    stored = json.loads((DATA / "gauss_mix_reference.json").read_text())
    return {
        "mean": {site: np.array(v) for site, v in stored["mean"].items()},
        "sd": {site: np.array(v) for site, v in stored["sd"].items()},
        "log_evidence": stored["log_evidence"],
        "origin": stored["origin"],
    }
