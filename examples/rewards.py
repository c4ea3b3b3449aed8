"""REINFORCE on a table of rewards: the smallest policy there is.

One action out of two, the first earns 10, the second nothing. At equal odds the
gradient of the expected reward in the logits is [2.5, -2.5]; every estimator here has
that mean, and they differ in noise alone.
"""

# %% The program: a sample statement acts, a factor pays
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax

import bbvi

REWARDS = jnp.array([10.0, 0.0])


def program():
    """Raw logits go in, not probabilities; the action is an integer, fit to index."""
    logits = numpyro.param("logits", jnp.zeros(2))
    action = numpyro.sample("action", dist.Categorical(logits=logits))
    numpyro.factor("reward", REWARDS[action])


def as_probabilities():
    """A trap: the same numbers taken for probabilities. 0 and 0 are none."""
    probs = numpyro.param("probs", jnp.array([0.5, 0.5]))
    action = numpyro.sample("action", dist.Categorical(probs=probs))
    numpyro.factor("reward", REWARDS[action])


def slopes(program, num_draws, **options):
    """Many gradients of the expected reward at the initial parameters."""
    reward = bbvi.expectation(program, **options)
    params = reward.init(jax.random.key(0))

    def slope(key):
        (found,) = jax.grad(reward, has_aux=True)(params, key)[0].values()
        return found

    return jax.vmap(slope)(jax.random.split(jax.random.key(1), num_draws))


# %% Climb the expected reward
def train(num_steps):
    """The value is the reward itself: the optimizer is told to climb."""
    reward = bbvi.expectation(program)
    params = reward.init(jax.random.key(0))
    optimizer = optax.chain(optax.adam(0.1), optax.scale(-1.0))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        (value, _), slope = jax.value_and_grad(reward, has_aux=True)(params, key)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    for key in jax.random.split(jax.random.key(2), num_steps):
        params, state, value = step(params, state, key)
    return params, value


def main(num_steps=200, num_draws=2_000):
    """Print mean and standard deviation of each estimator, then train."""
    print(bbvi.expectation(program))
    one = bbvi.estimators.ScoreFunction(bbvi.estimators.RunningAverage())
    four = bbvi.estimators.ScoreFunction(bbvi.estimators.LeaveOneOut())
    found = {
        "exact sum": slopes(program, num_draws),
        "score, one draw": slopes(
            program, num_draws, estimators={"action": one}, num_particles=1
        ),
        "score, four draws": slopes(
            program, num_draws, estimators={"action": four}, num_particles=4
        ),
    }
    for name, draws in found.items():
        print(f"{name:18} mean {draws.mean(0)}  sd {draws.std(0)}")
    # In probabilities the gradient belongs to another parametrisation, and a plain step
    # along it leaves the simplex: the two entries need not sum to one any more.
    print(f"in probabilities   mean {slopes(as_probabilities, num_draws).mean(0)}")
    params, value = train(num_steps)
    print(f"expected reward after {num_steps} steps {value:.2f}")
    return found, params, value


# %%
if __name__ == "__main__":
    main()
