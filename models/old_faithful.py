r"""Old Faithful: waiting times as a mixture of two Normals, assignments explicit.

The minutes from one eruption of the geyser to the next cluster around a short and a
long wait:

$$w \sim \mathrm{Dirichlet}(2, 2), \quad
\mu_1 \sim N(60, 10), \quad \log(\mu_2 - \mu_1) \sim N(3, 0.5), \quad
\log\sigma_k \sim N(2, 0.5),$$
$$z_i \sim \mathrm{Categorical}(w), \quad y_i \sim N(\mu_{z_i}, \sigma_{z_i}).$$

The prior of $\mu$ is a Normal sent through the ordering transform, so that the
components cannot change places.

Data: Azzalini and Bowman (1990), "A look at some data on the Old Faithful geyser",
Applied Statistics 39. In the zoo for discrete assignments in a plate that overlap: some
waits could be of either kind.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

DATA = Path(__file__).parent / "data"


def model(y: Array | None = None, num_eruptions: int = 272) -> None:
    """Normal mixture of two ordered components.

    Args:
        y: minutes waited, `(num_eruptions,)`.
        num_eruptions: how many to draw where there are no data.
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 2.0])))
    base = dist.Normal(jnp.array([60.0, 3.0]), jnp.array([10.0, 0.5])).to_event(1)
    ordered = dist.transforms.OrderedTransform()
    mu = numpyro.sample("mu", dist.TransformedDistribution(base, ordered))
    with numpyro.plate("components", 2):
        sigma = numpyro.sample("sigma", dist.LogNormal(2.0, 0.5))
    with numpyro.plate("eruptions", num_eruptions if y is None else len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


def data() -> dict[str, np.ndarray]:
    """The 272 waiting times, in minutes."""
    waiting = np.loadtxt(DATA / "old_faithful.csv", delimiter=",", skiprows=1)[:, 1]
    return {"y": waiting}


def reference() -> dict:
    """The posterior by five-dimensional quadrature, z summed out in closed form."""
    stored = json.loads((DATA / "old_faithful_reference.json").read_text())
    second = np.array(stored["prob_second"])
    return {
        "mean": {site: np.array(v) for site, v in stored["mean"].items()},
        "sd": {site: np.array(v) for site, v in stored["sd"].items()},
        "probs": {"z": np.stack([1 - second, second], axis=-1)},
        "log_evidence": stored["log_evidence"],
        "origin": stored["origin"],
    }
