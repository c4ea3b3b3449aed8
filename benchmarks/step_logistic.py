"""Does a step of bbvi cost what a hand-written step costs? Mean-field ADVI.

Logistic regression, 10,000 rows and 20 coefficients, 8 particles, Adam; both sides in
one process, compiled before the clock starts.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

from benchmarks._report import Row
from benchmarks._timing import Loss, build_steps, interleave

LogLik = Callable[[jax.Array, jax.Array], jax.Array]
NUM_ROWS, NUM_COLUMNS, NUM_PARTICLES, NUM_STEPS = 10_000, 20, 8, 200


def run(repeats: int = 61) -> list[Row]:
    """Microseconds a step."""
    builders = {
        "bbvi.loss": build_ours,
        "jax floor": functools.partial(build_floor, sharp_log_lik),
        "jax floor, NumPyro's density": functools.partial(build_floor, plain_log_lik),
    }
    figures = interleave(builders, repeats)
    ours = figures.pop("bbvi.loss")
    targets = {"jax floor": 1.05}
    return [
        Row("step_logistic", "us a step", "bbvi.loss", ours, rival, figure, target)
        for rival, figure in figures.items()
        for target in [targets.get(rival)]
    ]


def build_ours() -> Callable[[], float]:
    """The step from `bbvi.loss`."""
    import bbvi

    data = simulated()
    guide = bbvi.guides.MeanField()
    plan = bbvi.plan(model, data, guide=guide, num_particles=NUM_PARTICLES)
    params = plan.init(jax.random.key(0))
    return build_steps(bbvi.loss(plan), params, data, optax.adam(1e-2), NUM_STEPS)


def build_floor(log_lik: LogLik) -> Callable[[], float]:
    """The step written by hand."""
    loss, params = floor_loss(log_lik), floor_params()
    return build_steps(loss, params, simulated(), optax.adam(1e-2), NUM_STEPS)


def floor_params() -> dict[str, jax.Array]:
    """Where the hand-written fit starts."""
    return {
        "loc": jnp.zeros(NUM_COLUMNS),
        "log_scale": jnp.full(NUM_COLUMNS, jnp.log(0.1)),
    }


def floor_loss(log_lik: LogLik) -> Loss:
    """$-$ELBO up to a constant: reparameterised, the entropy in closed form.

    The particles are the columns of one matrix product.
    """

    def loss(
        params: dict[str, jax.Array], key: jax.Array, data: dict[str, jax.Array]
    ) -> tuple[jax.Array, None]:
        loc, log_scale = params["loc"], params["log_scale"]
        eps = jax.random.normal(key, (NUM_PARTICLES, NUM_COLUMNS))
        beta = loc + jnp.exp(log_scale) * eps
        logits = data["x"] @ beta.T
        log_joint = log_lik(logits, data["y"][:, None]) - 0.5 * jnp.sum(beta**2)
        return -log_joint / NUM_PARTICLES - jnp.sum(log_scale), None

    return loss


def sharp_log_lik(logits: jax.Array, y: jax.Array) -> jax.Array:
    r"""$-\sum \log(1 + e^{(1 - 2y)\ell})$, the quickest of the stable forms tried."""
    return -jnp.sum(jax.nn.softplus((1 - 2 * y) * logits))


def plain_log_lik(logits: jax.Array, y: jax.Array) -> jax.Array:
    r"""$\sum y\ell - \log(1 + e^\ell)$ as `BernoulliLogits.log_prob` computes it."""
    softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(y * logits - softplus)


def model(x: jax.Array, y: jax.Array) -> None:
    """Bayesian logistic regression."""
    prior = dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1)
    beta = numpyro.sample("beta", prior)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def simulated() -> dict[str, Any]:
    """Standard normal columns, standard normal coefficients."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((NUM_ROWS, NUM_COLUMNS), dtype=np.float32)
    logits = x @ rng.standard_normal(NUM_COLUMNS, dtype=np.float32)
    y = rng.random(NUM_ROWS) < 1 / (1 + np.exp(-logits))
    return {"x": jnp.asarray(x), "y": jnp.asarray(y, jnp.float32)}
