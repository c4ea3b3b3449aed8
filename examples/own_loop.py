"""One's own loop: bbvi's gradients, optax's optimizer, nothing else.

`bbvi.loss` is a pure function of parameters, key and data, so it goes wherever a JAX
function goes. Here it meets a learning-rate schedule, gradient clipping and a loop
inside `jax.lax.scan`.
"""

# %% A model: counts with too many zeros
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import bbvi


def model(counts):
    """Visitors a day; on some days the place is closed."""
    open_share = numpyro.sample("open_share", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.LogNormal(1.0, 1.0))
    with numpyro.plate("days", len(counts)):
        is_open = numpyro.sample("is_open", dist.Bernoulli(open_share))
        visitors = dist.Poisson(jnp.where(is_open == 1, rate, 1e-3))
        numpyro.sample("counts", visitors, obs=counts)


def data():
    """Two hundred days."""
    generator = np.random.default_rng(3)
    is_open = generator.random(200) < 0.6
    return {"counts": jnp.asarray(generator.poisson(np.where(is_open, 4.0, 0.0)))}


# %% The loop
def run(loss, params, optimizer, num_steps, rows):
    """The optimisation as one compiled loop."""

    def step(carry, key):
        params, state = carry
        gradient, info = jax.grad(loss, has_aux=True)(params, key, rows)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), info.elbo

    keys = jax.random.split(jax.random.key(1), num_steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)


def main(num_steps=2_000):
    """Plan, optimise, look at the guide."""
    rows = data()
    # Every day is summed out of the model: the loss has two continuous sites left.
    plan = bbvi.plan(model, rows, guide=bbvi.guides.MeanField(), num_particles=4)
    print(plan)
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0),
        optax.adam(optax.cosine_decay_schedule(0.1, num_steps)),
    )
    loss = bbvi.loss(plan)
    go = jax.jit(lambda params, rows: run(loss, params, optimizer, num_steps, rows))
    (params, _), elbos = go(plan.init(jax.random.key(0)), rows)

    # %% The bound, and what the guide says; parameters are unconstrained
    print(f"ELBO of the last steps {elbos[-num_steps // 4 :].mean():.2f}")
    print(f"rate, median {jnp.exp(params['rate.loc']):.2f}")
    return params, elbos


# %%
if __name__ == "__main__":
    main()
