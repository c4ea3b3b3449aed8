"""Programs are kept by what they compute."""

import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import bbvi
from bbvi import estimators, guides, programs
from bbvi.programs import programs_of

ADAM = optax.adam(0.1)


def define(scale=1.0, prior=1.0):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, prior))
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(mu + z, scale), obs=y)

    return model


def kept(model=None, y=(1.0, 2.0), optimizer=ADAM, steps=10, starts=2, **options):
    plan = bbvi.plan(model or define(), {"y": np.array(y)}, **options)
    return programs_of(plan, optimizer, steps, starts)


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    monkeypatch.setattr(programs, "_kept", type(programs._kept)())


def test_steps_of_a_family_count():
    short, long = Stepping(0.5), Stepping(2.0)
    assert kept(guide=short) is not kept(guide=long)
    assert kept(guide=short) is kept(guide=Stepping(0.5))


def test_equal_plans_share_their_programs():
    assert kept() is kept()
    assert kept() is kept(define(), y=[5.0, 3.0])
    assert kept() is kept(optimizer=optax.adam(0.1))


@dataclass(frozen=True)
class Stepping(guides.MeanField):
    """A family whose option is seen by its steps alone."""

    stride: float

    def retract(self, params, step):
        return jax.tree.map(lambda x, a: x + self.stride * a, params, step)


DIFFERENT = {
    "a constant of the likelihood": {"model": define(scale=2.0)},
    "a constant of the prior": {"model": define(prior=2.0)},
    "shape of the data": {"y": [1.0, 2.0, 3.0]},
    "dtype of the data": {"y": [1, 2]},
    "learning rate": {"optimizer": optax.adam(0.2)},
    "optimizer": {"optimizer": optax.sgd(0.1)},
    "schedule": {"optimizer": optax.adam(optax.exponential_decay(0.1, 10, 0.5))},
    "steps": {"steps": 11},
    "starts": {"starts": 3},
    "particles": {"num_particles": 3},
    "guide": {"guide": guides.FullRank()},
    "estimator": {"estimators": {"z": estimators.LocalExpectation()}},
    "option of an estimator": {
        "estimators": {"mu": estimators.Reparameterized(stick_the_landing=True)}
    },
}


SLOW = {
    "dtype of the data",
    "learning rate",
    "schedule",
    "steps",
    "starts",
    "particles",
}


@pytest.mark.parametrize(
    "case", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in DIFFERENT]
)
def test_what_changes_the_computation_has_programs_of_its_own(case):
    assert kept() is not kept(**DIFFERENT[case])


def test_a_constant_array_of_the_model_counts():
    def define(offset):
        def model(y):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + offset, 1.0), obs=y)

        return model

    one, two = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])
    assert kept(define(one)) is kept(define(one + 0))
    assert kept(define(one)) is not kept(define(two))


def with_jvp(slope):
    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    @rounded.defjvp
    def rule(primals, tangents):
        return rounded(*primals), slope * tangents[0]

    return rounded


def with_vjp(slope):
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (slope * g,))
    return rounded


@pytest.mark.parametrize("ruled", [with_jvp, with_vjp])
def test_rules_of_derivatives_count(ruled):
    """Of which a jaxpr shows no more than the name."""

    def define(slope):
        def model(y):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(jax.jit(ruled(slope))(mu), 1.0), obs=y)

        return model

    assert kept(define(1.0)) is kept(define(1.0))
    assert kept(define(1.0)) is not kept(define(2.0))


def test_own_guides_count():
    def define_guide(start):
        def guide(y):
            loc = numpyro.param("loc", start)
            numpyro.sample("mu", dist.Normal(loc, 1.0))
            numpyro.sample("z", dist.Bernoulli(0.5))

        return guide

    one = kept(guide=define_guide(0.0))
    assert one is kept(guide=define_guide(0.0))
    assert one is not kept(guide=define_guide(1.0))


@pytest.mark.slow
def test_only_so_many_are_kept_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 3)
    made = [kept(steps=steps) for steps in (1, 2, 3)]
    assert kept(steps=1) is made[0]
    kept(steps=4)
    assert len(programs._kept) == 3
    assert kept(steps=1) is made[0]
    assert kept(steps=2) is not made[1]


def test_kept_programs_hold_no_data():
    plan = bbvi.plan(define(), {"y": np.array([1.0, 2.0])})
    lean = programs._without_data(plan)
    held = lean.analysis.arguments.arrays["y"]
    assert not hasattr(held, "__array__")


@pytest.mark.slow
def test_optax_is_imported_once_gradients_are_stochastic():
    code = """
import sys

import bbvi
import numpyro
import numpyro.distributions as dist


def smooth():
    numpyro.sample("mu", dist.Normal())


def scored():
    numpyro.factor("score", numpyro.sample("count", dist.Poisson(2.0)) * 0.1)


for model in smooth, scored:
    bbvi.fit(model, guide=bbvi.guides.MeanField(), max_steps=100, progress=False)
    assert ("optax" in sys.modules) == (model is scored), model
"""
    subprocess.run([sys.executable, "-c", code], check=True)
