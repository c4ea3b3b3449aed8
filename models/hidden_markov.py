r"""A hidden Markov model of two states, the states explicit inside `scan`.

The state moves by the rows of a transition matrix and is seen through noise:

$$\theta_k \sim \mathrm{Dirichlet}(1, 1), \quad \mu_1 \sim N(3, 1), \quad
\mu_2 \sim N(10, 1),$$
$$z_1 \sim \mathrm{Uniform}\{1, 2\}, \quad
z_t \sim \mathrm{Categorical}(\theta_{z_{t-1}}), \quad y_t \sim N(\mu_{z_t}, 1).$$

The priors tell the states apart: around the means in the other order they are
$e^{-41}$ times as large, so that the constraint $0 < \mu_1 < \mu_2$ of the original is
left out.

Data: `hmm_example` of posteriordb (BSD-3-Clause), 100 simulated steps. In the zoo for a
chain of discrete latents, which one pass sums out.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.contrib.control_flow import scan

DATA = Path(__file__).parent / "data"
BEFORE = 2
"""The row from which the first state is drawn."""


def model(y: Array | None = None, num_steps: int = 100) -> None:
    """Two states seen through Normal noise.

    Args:
        y: observations, `(num_steps,)`.
        num_steps: how many to draw where there are no data.
    """
    with numpyro.plate("states", 2):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(jnp.array([3.0, 10.0]), 1.0).to_event(1))
    rows = jnp.concatenate([theta, jnp.full((1, 2), 0.5)])

    def step(before: Array, now: Array | None) -> tuple[Array, None]:
        z = numpyro.sample("z", dist.Categorical(rows[before]))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=now)
        return z, None

    scan(step, BEFORE, y, length=num_steps if y is None else len(y))


def data() -> dict[str, np.ndarray]:
    """The 100 simulated observations."""
    return {"y": np.loadtxt(DATA / "hidden_markov.csv", skiprows=1)}


def reference() -> dict:
    """The posterior by four-dimensional quadrature, z summed out going forwards."""
    stored = json.loads((DATA / "hidden_markov_reference.json").read_text())
    second = np.array(stored["prob_second"])
    return {
        "mean": {site: np.array(v) for site, v in stored["mean"].items()},
        "sd": {site: np.array(v) for site, v in stored["sd"].items()},
        "probs": {"z": np.stack([1 - second, second], axis=-1)},
        "log_evidence": stored["log_evidence"],
        "origin": stored["origin"],
    }
