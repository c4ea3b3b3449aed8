"""Hard attention: a classifier that looks at one place of each example.

Every example is a row of eight numbers. A marker stands at a random place; the number
to its right decides the class, all others are noise. The network looks for the marker
and reads one number. Where it looks is a discrete draw, so attention is learned through
an expectation, while the classifier behind the draw is differentiated as ever.
"""

# %% Data
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import bbvi

PLACES, MARKER = 8, 4.0


def data(num_rows=256):
    """Rows of noise with a marker; the class is the sign of its neighbour."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(num_rows, PLACES)).astype(np.float32)
    at = generator.integers(PLACES - 1, size=num_rows)
    rows = np.arange(num_rows)
    x[rows, at] = MARKER
    return {"x": jnp.asarray(x), "label": jnp.asarray(x[rows, at + 1] > 0)}


# %% The program: where to look, what is seen, what it is worth
def program(x, label):
    """Expected log likelihood of the labels; its parameters lie on both sides."""
    look = numpyro.param("look", 0.1 * jnp.ones(3))
    slope, level = numpyro.param("slope", 0.1), numpyro.param("level", 0.0)
    before = jnp.concatenate([jnp.zeros((len(x), 1)), x[:, :-1]], axis=1)
    scores = look[0] * x + look[1] * before + look[2] * before**2
    with numpyro.plate("rows", len(x)):
        place = numpyro.sample("place", dist.Categorical(logits=scores))
        seen = jnp.take_along_axis(x, place[:, None], axis=1)[:, 0]
        guess = dist.Bernoulli(logits=slope * seen + level)
        numpyro.factor("log_likelihood", guess.log_prob(label) / len(x))


def accuracy(params, x, label):
    """Of the class at the likeliest place."""
    before = jnp.concatenate([jnp.zeros((len(x), 1)), x[:, :-1]], axis=1)
    look = params["look"]
    place = jnp.argmax(look[0] * x + look[1] * before + look[2] * before**2, axis=1)
    seen = jnp.take_along_axis(x, place[:, None], axis=1)[:, 0]
    return jnp.mean((params["slope"] * seen + params["level"] > 0) == label)


# %% Training, with the exact sum over places or with scores
def train(rows, estimator, num_steps):
    """Climb the expected log likelihood."""
    worth = bbvi.expectation(
        program, rows, estimators={"place": estimator}, num_particles=4
    )
    params = worth.init(jax.random.key(0))
    optimizer = optax.chain(optax.adam(0.05), optax.scale(-1.0))

    def step(carry, key):
        params, state = carry
        (value, _), slope = jax.value_and_grad(worth, has_aux=True)(params, key, rows)
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(1), num_steps)
    start = params, optimizer.init(params)
    (params, _), values = jax.jit(lambda c: jax.lax.scan(step, c, keys))(start)
    return params, values


def main(num_steps=600, num_rows=256):
    """Train with both estimators; print what they reach."""
    rows = data(num_rows)
    print(bbvi.expectation(program, rows))
    found = {}
    for estimator in (
        bbvi.estimators.LocalExpectation(),
        bbvi.estimators.ScoreFunction(bbvi.estimators.LeaveOneOut()),
    ):
        params, values = train(rows, estimator, num_steps)
        found[repr(estimator)] = float(accuracy(params, **rows))
        print(
            f"{estimator!r}: log likelihood {values[-20:].mean():.3f}, "
            f"accuracy {found[repr(estimator)]:.2f}"
        )
    return found


# %%
if __name__ == "__main__":
    main()
