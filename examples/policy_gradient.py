"""Policy gradient on a small Markov decision process, with a value baseline.

A walker on five squares steps left or right and slips one time in ten; the last square
pays 1 at every step, each step costs 0.1. The policy is a table of logits, one row a
square. Costs upstream of an action are left out of its gradient by themselves: they are
no descendants of it. A value function takes out more noise: rewards are shaped by it,

    r_t + V(s_{t+1}) - V(s_t),    V = 0 after the last step,

whose sum is that of the plain rewards minus V(s_0), a constant. What follows an action
then sums to its return minus V(s_t): the advantage. Any V leaves the gradient unbiased.

Ng, Harada and Russell (1999), Policy invariance under reward transformations; Sutton,
McAllester, Singh and Mansour (2000), Policy gradient methods.
"""

# %% The process
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import bbvi

SQUARES, HORIZON, SLIP = 5, 6, 0.1
PAY = jnp.array([-0.1, -0.1, -0.1, -0.1, 1.0])


def moves():
    """Probabilities of the next square, ``(square, action, square)``."""
    table = np.zeros((SQUARES, 2, SQUARES))
    for square in range(SQUARES):
        left, right = max(square - 1, 0), min(square + 1, SQUARES - 1)
        table[square, 0, left] += 1 - SLIP
        table[square, 0, right] += SLIP
        table[square, 1, right] += 1 - SLIP
        table[square, 1, left] += SLIP
    return jnp.asarray(table)


MOVES = moves()


def episode(values):
    """One walk; ``values`` is V, ``(HORIZON, SQUARES)``."""
    logits = numpyro.param("logits", jnp.zeros((SQUARES, 2)))
    ahead = jnp.concatenate([values[1:], jnp.zeros((1, SQUARES))])
    square = 1
    for t in range(HORIZON):
        action = numpyro.sample(f"action{t}", dist.Categorical(logits=logits[square]))
        after = numpyro.sample(f"square{t}", dist.Categorical(MOVES[square, action]))
        numpyro.factor(f"reward{t}", PAY[after] + ahead[t, after] - values[t, square])
        square = after


def returns(logits):
    """Expected return from each square at each time, by dynamic programming."""
    policy = jax.nn.softmax(logits)
    step = jnp.einsum("sa,sat->st", policy, MOVES)
    values = [jnp.zeros(SQUARES)]
    for _ in range(HORIZON):
        values.append(step @ (PAY + values[-1]))
    return jnp.stack(values[:0:-1])


# %% Its gradient, without and with a baseline
def slopes(reward, params, values, num_draws):
    """Many gradients of the expected return at one policy."""

    def slope(key):
        return jax.grad(reward, has_aux=True)(params, key, {"values": values})[0]

    keys = jax.random.split(jax.random.key(1), num_draws)
    return jax.jit(jax.vmap(slope))(keys)["logits"]


def train(reward, num_steps):
    """Climb; V is that of the policy at hand, from its own dynamic programme."""
    params = reward.init(jax.random.key(0))
    optimizer = optax.chain(optax.adam(0.1), optax.scale(-1.0))

    def step(carry, key):
        params, state = carry
        data = {"values": returns(params["logits"])}
        slope, _ = jax.grad(reward, has_aux=True)(params, key, data)
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(2), num_steps)
    go = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0])
    return go((params, optimizer.init(params)))[0]


def main(num_steps=300, num_draws=4_000):
    """Compare the noise of both with the exact gradient, then train."""
    none = jnp.zeros((HORIZON, SQUARES))
    score = bbvi.estimators.ScoreFunction(bbvi.estimators.RunningAverage())
    reward = bbvi.expectation(
        episode,
        {"values": none},
        estimators={f"action{HORIZON - 1}": score, f"square{HORIZON - 1}": score},
        num_particles=1,
    )
    print(reward)
    params = reward.init(jax.random.key(0))
    exact = jax.grad(lambda logits: returns(logits)[0, 1])(params["logits"])
    found = {
        "return": slopes(reward, params, none, num_draws),
        "advantage": slopes(reward, params, returns(params["logits"]), num_draws),
    }
    for name, draws in found.items():
        error = jnp.abs(draws.mean(0) - exact).max()
        print(f"{name:9} variance {draws.var(0).sum():.3f}, mean off by {error:.4f}")
    trained = train(reward, num_steps)
    before, after = (returns(p["logits"])[0, 1] for p in (params, trained))
    print(f"expected return before {before:.2f}, after {after:.2f}")
    return found, exact, (before, after)


# %%
if __name__ == "__main__":
    main()
