"""Cold process: hand-written mean-field ADVI of eight schools, on `jax` alone.

Latents are the vector (mu, log tau, z_1 .. z_8). 5,000 Adam steps of one particle in
one `lax.scan`. Prints the fitted moments as JSON.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

SIGMA = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)
Y = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)
NUM_STEPS = 5_000
RATE = 0.01


def log_joint(u: jax.Array) -> jax.Array:
    """The log joint up to a constant, with the Jacobian of `tau = exp(u_1)`."""
    mu, log_tau, z = u[0], u[1], u[2:]
    tau = jnp.exp(log_tau)
    log_prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) - 0.5 * z @ z
    residual = (Y - mu - tau * z) / SIGMA
    return log_prior + log_tau - 0.5 * residual @ residual


def loss(params: jax.Array, eps: jax.Array) -> jax.Array:
    """-ELBO up to a constant; the rows of `params` are locs and log scales."""
    loc, log_scale = params
    return -log_joint(loc + jnp.exp(log_scale) * eps) - jnp.sum(log_scale)


@jax.jit
def optimize(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fitted parameters `(2, 10)` and the losses on the way."""

    def step(carry: tuple, key: jax.Array) -> tuple:
        params, m, v, t = carry
        value, g = jax.value_and_grad(loss)(params, jax.random.normal(key, (10,)))
        m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, t + 1
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        return (params - RATE * m_hat / (jnp.sqrt(v_hat) + 1e-8), m, v, t), value

    params = jnp.stack([jnp.zeros(10), jnp.full(10, jnp.log(0.1))])
    start = (params, jnp.zeros((2, 10)), jnp.zeros((2, 10)), 0.0)
    (params, *_), losses = jax.lax.scan(step, start, jax.random.split(key, NUM_STEPS))
    return params, losses


def main() -> None:
    """Fits, and prints the moments."""
    params, _ = optimize(jax.random.key(0))
    loc, scale = np.asarray(params[0]), np.exp(params[1])
    moments = {
        name: {"mu": float(v[0]), "tau": float(v[1]), "z": v[2:].tolist()}
        for name, v in (("loc", loc), ("scale", scale))
    }
    sys.stdout.write(json.dumps(moments) + "\n")


if __name__ == "__main__":
    main()
