"""Fits that must not be called both converged and trustworthy, and some that must.

Each trap is a function without arguments that returns a fit: one that was stopped, has
a family that cannot carry the posterior, a bad optimizer, or a posterior of several
modes. The benign ones keep the verdict from being useless.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer.autoguide import AutoMultivariateNormal

import bbvi
from bbvi.optimize.progress import Progress
from models import eight_schools_centered
from tests.cases import f, param, sample

X = np.linspace(-1.5, 2.0, 30, dtype=np.float32)
NOISE = np.random.default_rng(0).normal(size=30).astype(np.float32)
Y = 0.7 + 1.3 * X + 0.5 * NOISE
LINE = {"x": X, "y": Y}


def fit(model, data=None, **options):
    return bbvi.fit(model, data or {}, progress=False, **options)


def line(x, y, batch=None):
    a = sample("a", dist.Normal(0.0, 2.0))
    b = sample("b", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", 30, batch) as index:
        sample("y", dist.Normal(a + b * x[index], 0.5), obs=y[index])


def correlated():
    covariance = jnp.array([[1.0, 0.99], [0.99, 1.0]])
    sample("z", dist.MultivariateNormal(jnp.zeros(2), covariance))


def funnel():
    v = sample("v", dist.Normal(0.0, 3.0))
    sample("x", dist.Normal(jnp.zeros(9), jnp.exp(v / 2)).to_event(1))


def two_modes(weight=0.5, near=-6.0, far=6.0):
    def model():
        z = sample("z", dist.Normal(0.0, 20.0))
        first = jnp.log(weight) + dist.Normal(near, 0.7).log_prob(z)
        second = jnp.log1p(-weight) + dist.Normal(far, 0.7).log_prob(z)
        numpyro.factor("modes", jnp.logaddexp(first, second))

    return model


def product(y):
    w = sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    sample("y", dist.Normal(w[0] * w[1], 0.3), obs=y)


def switching(y):
    m = sample("m", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    parts = dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.5, 0.5])), dist.Normal(m, 0.5)
    )
    with numpyro.plate("rows", 8):
        sample("y", parts, obs=y)


def few_see_it():
    """Near 0 lies a mode with three quarters, and few starts come to the other."""
    z = sample("z", dist.Normal(0.0, 5.0))
    first = jnp.log(0.75) + dist.Normal(0.0, 0.2).log_prob(z)
    second = jnp.log(0.25) + dist.Normal(2.0, 0.2).log_prob(z)
    numpyro.factor("modes", jnp.logaddexp(first, second))


def banana():
    x = sample("x", dist.Normal(0.0, 1.5))
    sample("y", dist.Normal(x**2, 0.2))


def horseshoe(x, y):
    scale = sample("scale", dist.HalfCauchy(1.0).expand([4]).to_event(1))
    b = sample("b", dist.Normal(jnp.zeros(4), 0.1 * scale).to_event(1))
    with numpyro.plate("rows", 30):
        sample("y", dist.Normal(x @ b, 1.0), obs=y)


def exclusive(y):
    z = sample("z", dist.Bernoulli(0.5 * jnp.ones(2)).to_event(1))
    sample("y", dist.Normal(z.sum(), 0.1), obs=y)


def narrow_guide(x, y):
    sample("a", dist.Normal(param("a.loc", 0.0), 0.01))
    sample("b", dist.Normal(param("b.loc", 0.0), 0.01))


def wide_guide(x, y):
    sample("a", dist.Normal(param("a.loc", 0.0), 3.0))
    sample("b", dist.Normal(param("b.loc", 0.0), 3.0))


def wrong_place_guide(x, y):
    scale = dist.constraints.positive
    sample("a", dist.Normal(1.5, param("a.scale", 0.1, constraint=scale)))
    sample("b", dist.Normal(0.0, param("b.scale", 0.1, constraint=scale)))


def point_guide(x, y):
    sample("a", dist.Delta(param("a.loc", 0.0)))
    sample("b", dist.Delta(param("b.loc", 0.0)))


def tied_guide(x, y):
    scale = param("a.scale", 0.1, constraint=dist.constraints.positive)
    a = sample("a", dist.Normal(param("a.loc", 0.0), scale))
    sample("b", dist.Delta(a + param("b.loc", 0.0)))


class Interrupting(Progress):
    """A display that is interrupted after some steps, as by Ctrl-C."""

    def start(self, total):
        pass

    def update(self, steps, elbo, rate):
        raise KeyboardInterrupt

    def close(self, status):
        pass


DOUBLED = {"x": np.stack([X, X + 0.02 * NOISE], 1), "y": Y}


def collinear(x, y):
    b = sample("b", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 30):
        sample("y", dist.Normal(x @ b, 0.5), obs=y)


MeanField, FullRank = bbvi.guides.MeanField(), bbvi.guides.FullRank()
TRAPS = {
    "few steps": lambda: fit(line, LINE, max_steps=4),
    "few steps of gradients": lambda: fit(
        line, LINE, guide=bbvi.guides.LowRank(1), max_steps=100
    ),
    "few seconds": lambda: fit(line, LINE, max_seconds=0.001),
    "interrupted": lambda: bbvi.fit(line, LINE, progress=Interrupting()),
    "minibatches, few steps": lambda: fit(line, {**LINE, "batch": 5}, max_steps=150),
    "a rate far too high": lambda: fit(line, LINE, optimizer=optax.adam(30.0)),
    "a rate far too low": lambda: fit(line, LINE, optimizer=optax.adam(1e-7)),
    "mean field, correlated": lambda: fit(correlated, guide=MeanField),
    "mean field, collinear columns": lambda: fit(collinear, DOUBLED, guide=MeanField),
    "funnel, full rank": lambda: fit(funnel, guide=FullRank),
    "funnel, mean field": lambda: fit(funnel, guide=MeanField),
    "centred eight schools": lambda: fit(
        eight_schools_centered.model, eight_schools_centered.data(), guide=FullRank
    ),
    "two equal modes": lambda: fit(two_modes()),
    "two modes, 9 to 1": lambda: fit(two_modes(0.1)),
    "a mode that no start finds": lambda: fit(two_modes(0.1, -3.0, 25.0)),
    "a mode that one start of eight finds": lambda: fit(few_see_it, seed=3),
    "the better mode is far": lambda: fit(two_modes(0.3, 0.0, 15.0)),
    "signs": lambda: fit(product, {"y": f(4.0)[0]}),
    "labels switch": lambda: fit(
        switching, {"y": f(-2.1, -1.9, -2.4, -1.7, 2.2, 1.8, 2.1, 1.6)}
    ),
    "heavy tails": lambda: fit(lambda: sample("z", dist.Cauchy(0.0, 1.0))),
    "heavy tails, two degrees": lambda: fit(
        lambda: sample("z", dist.StudentT(2.0, 0.0, 1.0))
    ),
    "banana": lambda: fit(banana, guide=bbvi.guides.FullRank()),
    "horseshoe": lambda: fit(
        horseshoe, {"x": np.stack([X, X**2, X**3, NOISE], 1), "y": 0.2 * Y}
    ),
    "one of two indicators": lambda: fit(
        exclusive,
        {"y": f(1.0)[0]},
        guide=lambda y: sample(
            "z", dist.Bernoulli(logits=param("l", f(0.3, -0.2))).to_event(1)
        ),
    ),
    "a guide too narrow": lambda: fit(line, LINE, guide=narrow_guide),
    "a guide of points": lambda: fit(line, LINE, guide=point_guide),
    "a guide that ties one site to another": lambda: fit(line, LINE, guide=tied_guide),
    "a guide in the wrong place": lambda: fit(line, LINE, guide=wrong_place_guide),
}
BENIGN = {
    "line": lambda: fit(line, LINE),
    "line, an AutoGuide of one draw": lambda: fit(
        line, LINE, guide=AutoMultivariateNormal(line)
    ),
    "line, minibatches": lambda: fit(line, {**LINE, "batch": 10}),
    "collinear columns": lambda: fit(collinear, DOUBLED),
    "correlated": lambda: fit(correlated),
    "funnel": lambda: fit(funnel),
    "banana": lambda: fit(banana),
    "one normal": lambda: fit(lambda: sample("z", dist.Normal(3.0, 0.2))),
    "beta": lambda: fit(lambda: sample("z", dist.Beta(30.0, 50.0))),
    "beta, few counts": lambda: fit(lambda: sample("z", dist.Beta(3.0, 5.0))),
    "an indicator": lambda: fit(exclusive, {"y": f(1.9)[0]}),
}
