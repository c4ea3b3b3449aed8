"""Score function against reparameterisation, on one Gaussian.

Both are unbiased for the gradient of E[cost(x)], x ~ Normal(m, 1), and the choice
between them is one of noise: the pathwise gradient looks at the slope of the cost, the
score function at its height. So a cost that waves fast turns the tables.
"""

# %% One program, with a cost of a given frequency
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpyro
import numpyro.distributions as dist

import bbvi

ESTIMATORS = {
    "pathwise": bbvi.estimators.Reparameterized(),
    "score": bbvi.estimators.ScoreFunction(),
}
FREQUENCIES = jnp.array([0.25, 0.5, 1.0, 2.0, 4.0])


def program(frequency):
    """A wave over a Gaussian."""
    m = numpyro.param("m", 0.5)
    x = numpyro.sample("x", dist.Normal(m, 1.0))
    numpyro.factor("cost", jnp.sin(frequency * x))


def exact(frequency, m=0.5):
    """E[sin(f x)] = exp(-f^2 / 2) sin(f m), differentiated in m."""
    return frequency * jnp.exp(-(frequency**2) / 2) * jnp.cos(frequency * m)


def moments(estimator, num_draws):
    """Mean and variance of single-draw gradients at every frequency."""
    cost = bbvi.expectation(
        program,
        {"frequency": 1.0},
        estimators={"x": estimator},
        num_particles=2,
    )
    params = cost.init(jax.random.key(0))

    def slope(key, frequency):
        data = {"frequency": frequency}
        return jax.grad(cost, has_aux=True)(params, key, data)[0]["m"]

    keys = jax.random.split(jax.random.key(1), num_draws)
    every = jax.vmap(jax.vmap(slope, (0, None)), (None, 0))
    draws = jax.jit(every)(keys, FREQUENCIES)
    return draws.mean(1), draws.var(1)


# %% Their variances
def plot(found):
    """Variance by frequency, one line an estimator."""
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name, (_, variance) in found.items():
        axes.loglog(FREQUENCIES, variance, marker="o", label=name)
    axes.set(xlabel="frequency of the cost", ylabel="variance of the gradient")
    axes.legend()
    return figure


def main(num_draws=4_000):
    """Print means beside the exact gradient, and plot the variances."""
    found = {name: moments(e, num_draws) for name, e in ESTIMATORS.items()}
    print(f"exact     {exact(FREQUENCIES)}")
    for name, (mean, variance) in found.items():
        print(f"{name:9} {mean}  variance {variance}")
    return found, plot(found)


# %%
if __name__ == "__main__":
    main()
    plt.show()
