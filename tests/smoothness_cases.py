"""Programs with a label: does the log density jump along their continuous sites?

`SMOOTH` and `JUMPY` hold functions of one standard normal vector `z` of three elements,
each a term of the log density; `SMOOTH_MODELS` and `JUMPY_MODELS` whole models with
their data, and for the latter the sites that must be found.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.experimental.ode import odeint
from numpyro import sample
from numpyro.contrib.control_flow import scan

DATA = jnp.array([0.3, -1.2, 0.8])
KNOTS = jnp.array([-2.0, -0.7, 0.4, 1.9])
HEIGHTS = jnp.array([0.5, -1.0, 2.0, 0.1])


def double_where(z):
    return jnp.where(z > 0, jnp.log1p(jnp.where(z > 0, z, 0.0)), 0.0)


def sinc(z):
    safe = jnp.where(z == 0, 1.0, z)
    return jnp.where(z == 0, 1.0, jnp.sin(safe) / safe)


def piecewise_linear(z):
    i = jnp.clip(jnp.searchsorted(KNOTS, z) - 1, 0, 2)
    part = (z - KNOTS[i]) / (KNOTS[i + 1] - KNOTS[i])
    return HEIGHTS[i] + part * (HEIGHTS[i + 1] - HEIGHTS[i])


def bilinear(z):
    """Sampling an image at a place, as spatial transformers do."""
    image = jnp.arange(36.0).reshape(6, 6) ** 1.5
    place = jnp.clip(2.5 + z[:2], 0.0, 4.999)
    low = jnp.floor(place).astype(int)
    part = place - low
    corners = lax.dynamic_slice(image, (low[0], low[1]), (2, 2))
    sides = jnp.stack([1 - part, part])
    return 0.01 * sides[:, 0] @ corners @ sides[:, 1]


def kernel(z):
    distance = jnp.abs(DATA[:, None] - DATA[None, :])
    return jnp.exp(z[0]) * jnp.exp(-distance / jnp.exp(z[1])) + 0.1 * jnp.eye(3)


def oscillator(z):
    def motion(state, t):
        return jnp.array([state[1], -jnp.exp(0.3 * z[0]) * state[0]])

    return odeint(motion, jnp.array([1.0, z[1]]), jnp.linspace(0.0, 3.0, 4))


def threshold_in_dynamics(z):
    def motion(state, t):
        return jnp.where(state > z[0], -state, -0.5 * state)

    return odeint(motion, jnp.array([1.0]), jnp.linspace(0.0, 1.0, 3))


@jax.custom_jvp
def own_rule(z):
    return jnp.tanh(z)


own_rule.defjvp(lambda z, t: (jnp.tanh(z[0]), t[0] / jnp.cosh(z[0]) ** 2))


def own_logsumexp(z):
    top = lax.stop_gradient(z.max())
    return jnp.log(jnp.exp(z - top).sum()) + top


def grid_of_cells(z):
    """A continuous function written with an index in each of its cells."""
    cell = jnp.floor(z)
    return jnp.where(cell % 2 == 0, z - cell, 1 - (z - cell))


SMOOTH = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "clip": lambda z: jnp.clip(z, -0.5, 0.7),
    "maximum": lambda z: jnp.maximum(z, 0.3) + jnp.minimum(z, z[0]),
    "where": lambda z: jnp.where(z > 0, z, 0.0),
    "where, shifted": lambda z: jnp.where(z < 0.4, 0.16, z**2),
    "double where": double_where,
    "sinc": sinc,
    "leaky relu": lambda z: jnp.where(z >= 0, z, 0.01 * z),
    "leaky relu of jax": jax.nn.leaky_relu,
    "elu": lambda z: jnp.where(z > 0, z, jnp.expm1(z)),
    "gelu and silu": lambda z: jax.nn.gelu(z) + jax.nn.silu(z),
    "huber": lambda z: jnp.where(jnp.abs(z) < 1, 0.5 * z**2, jnp.abs(z) - 0.5),
    "softplus": jax.nn.softplus,
    "softplus with a threshold": lambda z: jnp.where(
        8 * z > 20, 8 * z, jnp.log1p(jnp.exp(jnp.minimum(8 * z, 20.0)))
    ),
    "sort": lambda z: jnp.sort(z) * DATA,
    "median": jnp.median,
    "quantile": lambda z: jnp.quantile(z, 0.3),
    "sort by argsort": lambda z: z[jnp.argsort(z)] * DATA,
    "values of top_k": lambda z: lax.top_k(z, 2)[0] * DATA[:2],
    "value at argmax": lambda z: z[jnp.argmax(z)],
    "interp": lambda z: jnp.interp(z, KNOTS, HEIGHTS),
    "piecewise linear": piecewise_linear,
    "bilinear": bilinear,
    "logsumexp": jax.nn.logsumexp,
    "own logsumexp": own_logsumexp,
    "softmax": lambda z: jax.nn.softmax(z) @ DATA,
    "log softmax": lambda z: jax.nn.log_softmax(z) @ DATA,
    "cumsum": jnp.cumsum,
    "cumulative maximum": lambda z: lax.cummax(z) * DATA,
    "prefix logsumexp": lambda z: lax.cumlogsumexp(z),
    "cholesky": lambda z: jnp.linalg.cholesky(kernel(z)),
    "determinant": lambda z: jnp.linalg.slogdet(kernel(z))[1],
    "pivoted solve": lambda z: jnp.linalg.solve(kernel(z) - 0.5, DATA),
    "eigenvalues": lambda z: jnp.linalg.eigvalsh(kernel(z)),
    "fori_loop": lambda z: lax.fori_loop(0, 5, lambda i, x: jnp.sin(x) + z, z),
    "scan": lambda z: lax.scan(lambda c, x: (jnp.tanh(c + x), c), 0.0, z)[1],
    "relu in scan": lambda z: lax.scan(
        lambda c, x: (jnp.where(c + x > 0, c + x, 0.0), c), 0.0, z
    )[1],
    "map": lambda z: lax.map(lambda x: jnp.where(x > 0, x, 0.0), z),
    "cond on data": lambda z: lax.cond(DATA[0] > 0, jnp.sin, jnp.cos, z),
    "switch on data": lambda z: lax.switch(1, [jnp.sin, jnp.cos], z),
    "where on data": lambda z: jnp.where(DATA > 0, z, 1.0),
    "cond with equal values": lambda z: lax.cond(
        z[0] > 0, lambda z: z[0] * z[1], lambda z: 0.0, z
    ),
    "sign times value": lambda z: jnp.sign(z) * z,
    "triangle wave": lambda z: jnp.abs(z % 2 - 1),
    "triangle wave by cells": grid_of_cells,
    "angle wrapped": lambda z: jnp.cos(3 * z % (2 * jnp.pi)),
    "cosine of what rounding left": lambda z: jnp.cos(2 * jnp.pi * (z - jnp.round(z))),
    "angle of arctan2": lambda z: jnp.cos(jnp.arctan2(z[0], z[1] - 0.2)),
    "ode": oscillator,
    "ode with a threshold": threshold_in_dynamics,
    "checkpoint": jax.checkpoint(lambda z: jnp.where(z > 0, z, 0.0)),
    "jit": jax.jit(lambda z: jnp.where(z > 0, z, 0.0)),
    "own rule": own_rule,
    "norm": jnp.linalg.norm,
    "finite guard": lambda z: jnp.where(jnp.isfinite(z), z, 0.0),
    "nan_to_num": jnp.nan_to_num,
    "stop_gradient of data": lambda z: lax.stop_gradient(DATA) * z,
    "stop_gradient that cancels": lambda z: (
        z - lax.stop_gradient(z) + lax.stop_gradient(z)
    ),
    "comparison that goes nowhere": lambda z: z + 0.0 * (z > 0),
}


@jax.custom_vjp
def straight_through(z):
    return jnp.round(z)


straight_through.defvjp(lambda z: (jnp.round(z), None), lambda _, g: (g,))


@jax.custom_jvp
def wrong_rule(z):
    return jnp.sin(z)


wrong_rule.defjvp(lambda z, t: (jnp.sin(z[0]), 0.5 * t[0]))


@jax.custom_vjp
def clipped_gradient(z):
    return z**2


clipped_gradient.defvjp(
    lambda z: (z**2, z), lambda z, g: (jnp.clip(2 * z * g, -0.1, 0.1),)
)


def count_up(z):
    """A loop whose length depends on the latent."""
    return lax.while_loop(lambda i: i < 3 * z[0], lambda i: i + 1.0, 0.0)


def newton(z):
    """A loop that carries the latent itself has no reverse-mode derivative."""
    return lax.while_loop(
        lambda x: jnp.abs(x * x - jnp.exp(z[0])) > 1e-9,
        lambda x: 0.5 * (x + jnp.exp(z[0]) / x),
        1.0 + z[0] ** 2,
    )


def step_in_scan(z):
    return lax.scan(lambda c, x: (c + 1.0 * (x > 0.2), c), 0.0, z)[0]


JUMPY = {
    "step": lambda z: jnp.where(z > 0.5, 1.0, 0.0),
    "step of a slope": lambda z: jnp.where(z > 0.5, z, 0.0),
    "small step": lambda z: 1e-3 * (z > 0),
    "step far out": lambda z: 1.0 * (z > 3.5),
    "window": lambda z: 1.0 * (jnp.abs(z - 0.7) < 0.15),
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "fine rounding": lambda z: jnp.round(z, 8),
    "floor division": lambda z: z // 0.5,
    "modulus": lambda z: z % 1.0,
    "sawtooth": lambda z: z - jnp.floor(z),
    "sign": jnp.sign,
    "heaviside": lambda z: jnp.heaviside(z, 0.5),
    "integer": lambda z: z.astype(int),
    "truth": lambda z: (jnp.maximum(z, 0) != 0) * 1.0,
    "sum of comparisons": lambda z: (z > DATA).sum(),
    "argmax as an index": lambda z: DATA[jnp.argmax(z)],
    "argmin one-hot": lambda z: jax.nn.one_hot(jnp.argmin(z), 3) @ DATA,
    "argsort as indices": lambda z: DATA[jnp.argsort(z)] @ jnp.arange(3.0),
    "indices of top_k": lambda z: DATA[lax.top_k(z, 2)[1]] @ jnp.arange(2.0),
    "sorted along": lambda z: lax.sort((z, DATA), num_keys=1)[1] @ jnp.arange(3.0),
    "ranks": lambda z: jnp.argsort(jnp.argsort(z)) @ DATA,
    "integer index": lambda z: HEIGHTS[jnp.clip(z + 2, 0, 3).astype(int)],
    "searchsorted": lambda z: HEIGHTS[jnp.searchsorted(KNOTS, z).clip(0, 3)],
    "digitize": lambda z: jnp.digitize(z, KNOTS),
    "histogram": lambda z: jnp.histogram(z, bins=KNOTS)[0] @ DATA,
    "cond": lambda z: lax.cond(z[0] > 0, lambda: 1.0, lambda: 0.0),
    "switch": lambda z: lax.switch(
        jnp.clip(z[0] + 1, 0, 1.9).astype(int), [jnp.sin, jnp.cos], z
    ),
    "piecewise": lambda z: jnp.piecewise(z, [z < 0, z >= 0], [lambda x: -x, jnp.cos]),
    "loop count": count_up,
    "loop that carries": newton,
    "loop bound": lambda z: lax.fori_loop(
        0, (3 * jnp.exp(z[0])).astype(int), lambda i, x: x + 0.1, 0.0
    ),
    "step in scan": step_in_scan,
    "step in jit": jax.jit(lambda z: jnp.where(z > 0.5, 1.0, 0.0)),
    "step in vmap": jax.vmap(lambda x: lax.cond(x > 0, lambda: 1.0, lambda: 0.0)),
    "step in checkpoint": jax.checkpoint(lambda z: jnp.where(z > 0.5, 1.0, 0.0)),
    "step of a product": lambda z: jnp.where(z[0] * z[1] > 0.1, 1.0, z[2]),
    "step beside a relu": lambda z: jnp.where(z > 0, z + 0.1, 0.0),
    "mask by a latent": lambda z: jnp.where(z[0] < DATA, DATA**2, 0.0),
    "stop_gradient": lambda z: lax.stop_gradient(z) ** 2,
    "stop_gradient of a factor": lambda z: z * lax.stop_gradient(z),
    "detached half": lambda z: jnp.where(z > 1, lax.stop_gradient(z), z),
    "straight through": straight_through,
    "straight through by hand": lambda z: z + lax.stop_gradient(jnp.round(z) - z),
    "wrong rule": wrong_rule,
    "clipped gradient": clipped_gradient,
    "branch of arctan2": lambda z: jnp.arctan2(z[0], -1.0 - z[1] ** 2),
    "angle of a complex number": lambda z: jnp.angle(z - 0.5 + 0.3j * z[0]),
    "complex logarithm": lambda z: jnp.log(-1.0 + 1j * z).imag,
    "bits": lambda z: lax.bitcast_convert_type(z, f"int{8 * z.dtype.itemsize}") % 7,
    "parity of a cell": lambda z: jnp.floor(z) % 2,
    "step hidden by a guard": lambda z: jnp.where(jnp.isfinite(jnp.log(z)), 1.0, 0.0),
    "compared with nan": lambda z: jnp.where(jnp.isnan(jnp.sqrt(z)), 1.0, 0.0),
}


# --- whole models -------------------------------------------------------------------

Y = np.array([0.4, 1.3, 0.9], np.float32)
COUNTS = np.array([0, 3, 1])


def observed(make, *latents):
    """A model of latents with standard priors, and data `y` from `make(*latents)`."""

    def model(y):
        values = [sample(name, prior) for name, prior in latents]
        with numpyro.plate("rows", 3):
            sample("y", make(*values), obs=y)

    return model


def normal(name, scale=1.0):
    return name, dist.Normal(0.0, scale)


def positive(name):
    return name, dist.HalfNormal(1.0)


def moving_support(y):
    """A latent inside bounds that are latent: it can never leave them."""
    width = sample("width", dist.HalfNormal(2.0))
    middle = sample("middle", dist.Uniform(-width, width))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(middle, width), obs=y)


def truncated_prior(y):
    low = sample("low", dist.Normal(0.0, 1.0))
    z = sample("z", dist.TruncatedNormal(0.0, 1.0, low=low))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(z, 1.0), obs=y)


def lkj(y):
    factor = sample("factor", dist.LKJCholesky(3, 1.5))
    scale = sample("scale", dist.HalfNormal(1.0).expand([3]).to_event(1))
    sample("y", dist.MultivariateNormal(0, scale_tril=scale[:, None] * factor), obs=y)


def simplex(y):
    weights = sample("weights", dist.Dirichlet(jnp.ones(4)))
    with numpyro.plate("rows", 3):
        sample("y", dist.Categorical(weights), obs=y)


def beta_binomial(y):
    p = sample("p", dist.Beta(2.0, 3.0))
    q = sample("q", dist.Beta(1.0 + p, 2.0))
    with numpyro.plate("rows", 3):
        sample("y", dist.Binomial(5, p * q), obs=y)


def mixture(y):
    w = sample("w", dist.Beta(2.0, 2.0))
    loc = sample("loc", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    mixing = dist.Categorical(jnp.stack([w, 1 - w]))
    with numpyro.plate("rows", 3):
        sample("y", dist.MixtureSameFamily(mixing, dist.Normal(loc, 1.0)), obs=y)


def zero_inflated(y):
    gate = sample("gate", dist.Beta(1.0, 1.0))
    rate = sample("rate", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", 3):
        sample("y", dist.ZeroInflatedPoisson(gate, rate), obs=y)


def ordered(y):
    cuts = sample(
        "cuts",
        dist.TransformedDistribution(
            dist.Normal(0, 1).expand([3]), dist.transforms.OrderedTransform()
        ),
    )
    slope = sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3):
        sample("y", dist.OrderedLogistic(slope * DATA, cuts), obs=y)


def state_space(y):
    drift = sample("drift", dist.Normal(0.0, 1.0))
    noise = sample("noise", dist.HalfNormal(1.0))

    def transition(state, y_now):
        state = sample("state", dist.Normal(0.9 * state + drift, noise))
        sample("y", dist.Normal(state, 1.0), obs=y_now)
        return state, None

    scan(transition, 0.0, y)


def discrete_and_smooth(y):
    z = sample("z", dist.Bernoulli(0.4))
    mu = sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(jnp.where(z == 1, mu[0], mu[1]), 1.0), obs=y)


def regression_with_leaky_units(y):
    weights = sample("weights", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    hidden = DATA[:, None] * weights[:2] + 0.3
    hidden = jnp.where(hidden > 0, hidden, 0.1 * hidden)
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(hidden @ weights[2:], 1.0), obs=y)


def masked(y):
    z = sample("z", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3), numpyro.handlers.mask(mask=DATA > 0):
        sample("y", dist.Normal(jnp.where(DATA > 0, z, 0.0), 1.0), obs=y)


def censored(y):
    loc = sample("loc", dist.Normal(0.0, 1.0))
    scale = sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("rows", 3):
        base = dist.Normal(loc, scale)
        sample("y", dist.RightCensoredDistribution(base, COUNTS > 0), obs=y)


# The examples of Lee, Rival and Yang (2023) without a step, in small: the parts of each
# that an analysis of smoothness could stumble over.


def bayesian_regression(y):
    a = sample("a", dist.Normal(0.0, 10.0))
    b = sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = sample("sigma", dist.Uniform(0.0, 10.0))
    with numpyro.plate("rows", 3):
        loc = a + b[0] * DATA + b[1] * DATA**2
        sample("y", dist.Normal(loc, sigma), obs=y)


def sparse_gamma(y):
    top = sample("top", dist.Gamma(0.1, 0.1).expand([2]).to_event(1))
    weights = sample("weights", dist.Gamma(0.1, 0.3).expand([2, 3]).to_event(2))
    middle = sample("middle", dist.Gamma(0.1, 0.1 / (top @ weights)).to_event(1))
    with numpyro.plate("rows", 3):
        sample("y", dist.Poisson(middle), obs=y)


def topics(y):
    shares = sample("shares", dist.Dirichlet(jnp.ones(2)))
    words = sample("words", dist.Dirichlet(jnp.ones(4)).expand([2]).to_event(1))
    with numpyro.plate("rows", 3):
        topic = sample("topic", dist.Categorical(shares))
        sample("y", dist.Categorical(words[topic]), obs=y)


def product_of_experts_topics(y):
    z = sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    logits = HEIGHTS[:, None] * jax.nn.softmax(z)
    logits = (logits - logits.mean()) / jnp.sqrt(logits.var() + 1e-5)
    with numpyro.plate("rows", 3):
        sample("y", dist.Categorical(jax.nn.softmax(logits.sum(1))), obs=y)


def dirichlet_process(y):
    sticks = sample("sticks", dist.Beta(1.0, 1.5).expand([3]).to_event(1))
    rate = sample("rate", dist.Gamma(3.0, 0.05).expand([4]).to_event(1))
    left = jnp.cumprod(1 - sticks)
    shares = jnp.append(sticks, 1.0) * jnp.append(1.0, left)
    with numpyro.plate("rows", 3):
        z = sample("z", dist.Categorical(shares))
        sample("y", dist.Poisson(rate[z]), obs=y)


def deep_markov(y):
    z = jnp.zeros(2)
    for t in range(3):
        hidden = jax.nn.relu(z * HEIGHTS[:2] + 0.1)
        gate = jax.nn.sigmoid(hidden)
        loc = gate * jnp.maximum(hidden, z) + (1 - gate) * z
        scale = jax.nn.softplus(jax.nn.relu(loc))
        z = sample(f"z{t}", dist.Normal(loc, scale).to_event(1))
        chance = jax.nn.sigmoid(jax.nn.relu(z) @ KNOTS[:2])
        sample(f"y{t}", dist.Bernoulli(chance), obs=y[t] > 0)


def mixed_hidden_markov(y):
    effect = sample("effect", dist.Normal(0.0, 1.0))
    angle = sample("angle", dist.Normal(0.0, 1.0))
    transition = jax.nn.softmax(HEIGHTS.reshape(2, 2) + effect)
    state = 0
    for t in range(3):
        state = sample(f"state{t}", dist.Categorical(transition[state]))
        steps = dist.Gamma(jnp.exp(effect) + state, 1.0)
        sample(f"y{t}", steps, obs=jnp.abs(y[t]))
        sample(f"turn{t}", dist.VonMises(angle, 1.0 + state), obs=y[t])


def single_cells(y):
    z = sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    size = sample("size", dist.LogNormal(1.0, 0.5))
    hidden = jax.nn.relu(jnp.outer(DATA, z)).sum(1)
    counts = dist.NegativeBinomialLogits(2.0, jnp.log(size) + hidden)
    with numpyro.plate("rows", 3):
        sample("y", dist.ZeroInflatedDistribution(counts, gate_logits=hidden), obs=y)


def autoencoder(y):
    z = sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    kind = sample("kind", dist.Categorical(jnp.ones(3) / 3))
    hidden = jax.nn.softplus(jnp.outer(DATA, z).sum(1) + HEIGHTS[kind])
    hidden = jax.nn.leaky_relu(hidden - 1.0)
    with numpyro.plate("rows", 3):
        sample("y", dist.Bernoulli(jax.nn.sigmoid(hidden)), obs=y > 0)


SMOOTH_MODELS = {
    "br": (bayesian_regression, Y),
    "sgdef": (sparse_gamma, COUNTS),
    "lda": (topics, COUNTS),
    "prodlda": (product_of_experts_topics, COUNTS),
    "dpmm": (dirichlet_process, COUNTS),
    "dmm": (deep_markov, COUNTS),
    "mhmm": (mixed_hidden_markov, Y),
    "scanvi": (single_cells, COUNTS),
    "vae, ssvae and cvae": (autoencoder, COUNTS),
    "support that moves": (moving_support, Y),
    "truncated prior": (truncated_prior, Y),
    "lkj": (lkj, Y),
    "dirichlet": (simplex, COUNTS),
    "beta and binomial": (beta_binomial, COUNTS),
    "mixture": (mixture, Y),
    "zero-inflated": (zero_inflated, COUNTS),
    "ordered logistic": (ordered, COUNTS),
    "state space": (state_space, Y),
    "a choice by a discrete site": (discrete_and_smooth, Y),
    "leaky units": (regression_with_leaky_units, Y),
    "masked": (masked, Y),
    "censored": (censored, Y),
    "truncated": (
        observed(
            lambda m, s: dist.TruncatedNormal(m, s, low=0.0), normal("m"), positive("s")
        ),
        Y,
    ),
    "student": (
        observed(dist.StudentT, positive("df"), normal("m"), positive("s")),
        Y,
    ),
    "laplace": (observed(dist.Laplace, normal("m"), positive("s")), Y),
    "asymmetric laplace": (
        observed(dist.AsymmetricLaplace, normal("m"), positive("s"), positive("a")),
        Y,
    ),
    "von mises": (observed(dist.VonMises, normal("m"), positive("k")), Y),
    "gamma": (observed(dist.Gamma, positive("a"), positive("b")), Y),
    "weibull": (observed(dist.Weibull, positive("a"), positive("b")), Y),
    "beta": (observed(dist.Beta, positive("a"), positive("b")), Y / 2),
    "negative binomial": (
        observed(dist.NegativeBinomial2, positive("m"), positive("c")),
        COUNTS,
    ),
    "logits": (observed(lambda z: dist.Bernoulli(logits=z), normal("z")), COUNTS > 0),
}


def spnor(y):
    """Two latents, of which one decides a branch: of Lee, Rival and Yang too."""
    z1 = sample("z1", dist.Normal(0.0, 5.0))
    z2 = sample("z2", dist.Normal(z1, 3.0))
    loc = lax.cond(z2 > 0, lambda: 1.0, lambda: -2.0)
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(loc, 1.0), obs=y)


def changepoint(y):
    when = sample("when", dist.Uniform(-2.0, 2.0))
    before, after = sample("levels", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(jnp.where(when > DATA, before, after), 1.0), obs=y)


def mixed_supports(y):
    parts = [dist.HalfNormal(1.0), dist.Normal(0.0, 1.0)]
    support = dist.constraints.real
    prior = dist.MixtureGeneral(
        dist.Categorical(jnp.ones(2) / 2), parts, support=support
    )
    z = sample("z", prior)
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(z, 1.0), obs=y)


def one_of_two(y):
    a = sample("a", dist.Normal(0.0, 1.0))
    b = sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(jnp.where(a > 0, b, -b), 1.0), obs=y)


def far_from_zero(y):
    z = sample("z", dist.Normal(1_000.0, 10.0))
    sample("y", dist.Normal(1.0 * (z > 1_004.0), 1.0).expand([3]).to_event(1), obs=y)


def steep(y):
    """A jump of one nat beside a likelihood of millions."""
    z = sample("z", dist.Normal(0.0, 1_000.0))
    numpyro.factor("step", 1.0 * (z > 3.0))
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(z, 0.01), obs=y)


def callback(y):
    z = sample("z", dist.Normal(0.0, 1.0))
    rate = jax.pure_callback(np.exp, z, z, vmap_method="broadcast_all")
    numpyro.factor("y", -0.5 * ((rate - y) ** 2).sum())


def rows_of_a_table(y):
    z = sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    k = sample("k", dist.Bernoulli(0.5))
    height = jnp.where(k == 1, jnp.floor(2 * z), 0.0)
    with numpyro.plate("rows", 3):
        sample("y", dist.Normal(height, 1.0), obs=y)


JUMPY_MODELS = {
    "spnor": (spnor, Y, {"z2"}),
    "change point": (changepoint, Y, {"when"}),
    "components of different supports": (mixed_supports, Y, {"z"}),
    "one of two": (one_of_two, Y, {"a"}),
    "far from zero": (far_from_zero, Y, {"z"}),
    "steep": (steep, Y, {"z"}),
    "callback": (callback, Y, {"z"}),
    "for one value of a discrete site": (rows_of_a_table, Y, {"z"}),
    "upper bound": (
        observed(lambda b: dist.Uniform(0.0, 1.0 + b), positive("b")),
        Y,
        {"b"},
    ),
    "lower bound": (
        observed(
            lambda a, s: dist.TruncatedNormal(0, s, low=a), normal("a"), positive("s")
        ),
        Y,
        {"a"},
    ),
    "pareto": (observed(lambda a: dist.Pareto(a, 1.5), positive("a")), Y, {"a"}),
    "shifted exponential": (
        observed(
            lambda a: dist.TransformedDistribution(
                dist.Exponential(1.0), dist.transforms.AffineTransform(a, 1.0)
            ),
            normal("a"),
        ),
        Y,
        {"a"},
    ),
}
