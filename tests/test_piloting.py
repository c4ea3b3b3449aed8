"""`bbvi.pilot`: what it measures, what it takes, and what it says of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bbvi
from bbvi import estimators, piloting

PROBABILITY, LOCATION = 0.3, 2.0


def coin(y):
    """One bit, and where it is a one the observation lies elsewhere."""
    z = numpyro.sample("z", dist.Bernoulli(PROBABILITY))
    numpyro.sample("y", dist.Normal(LOCATION * z, 1.0), obs=y)


def coin_plan(control=None, num_particles=2):
    asked = {"z": estimators.ScoreFunction(control_variate=control)}
    return bbvi.plan(coin, {"y": 1.1}, estimators=asked, num_particles=num_particles)


def exact_moments(params):
    r"""Mean and standard deviation of $|\nabla|^2$: two particles, leave-one-out.

    With the logit of $q(z = 1) = \pi$ as parameter the gradient is
    $-\frac12 (f(1) - f(0))$ where the particles differ, else 0.
    """
    (logits,) = jax.tree.leaves(params)
    probability = float(jax.nn.sigmoid(logits))
    log_joint = [
        float(
            dist.Bernoulli(PROBABILITY).log_prob(z)
            + dist.Normal(LOCATION * z, 1.0).log_prob(1.1)
        )
        for z in (0, 1)
    ]
    log_q = np.log([1 - probability, probability])
    differ = 2 * probability * (1 - probability)
    square = np.diff(log_joint - log_q).item() ** 2 / 4
    return square * differ, square * (differ * (1 - differ)) ** 0.5


def piloted(monkeypatch, plan, seconds, **options):
    """The pilot's plan where gradients take some seconds by control variate, else 1."""
    measure = piloting._tried

    def tried(*arguments):
        control = arguments[-1].estimators["z"].control(2)
        trial = measure(*arguments)
        return trial._replace(seconds=seconds.get(type(control), 1.0))

    monkeypatch.setattr(piloting, "_tried", tried)
    return bbvi.pilot(plan, num_gradients=50, **options)


def test_second_moment_is_the_exact_one():
    plan, number = coin_plan(estimators.LeaveOneOut()), 20_000
    params = {"z.logits": jnp.float32(0.4)}
    keys = jax.random.split(jax.random.key(0), number)
    data = plan.analysis.arguments.arrays
    found = piloting._tried(params, keys, data, plan).moment
    exact, deviation = exact_moments(params)
    error = deviation / number**0.5
    assert error < 0.05 * exact  # it could tell a sum, or a half, from the mean
    assert abs(found - exact) < 4 * error


ALL = (
    estimators.SumAndSample,
    estimators.Antithetic,
    estimators.LeaveOneOut,
    estimators.RunningAverage,
    estimators.OptimalScale,
    estimators.DoubleControl,
)


def test_the_least_product_is_taken_and_recorded(monkeypatch):
    plan, quick = coin_plan(), estimators.DoubleControl
    best = piloted(monkeypatch, plan, {quick: 1e-9})
    choice = best.choices["z"]
    assert type(choice.estimator.control(2)) is quick
    assert choice.reason.startswith("discrete, one element; costs that each site")
    assert "; best in a pilot of 6: E|gradient|^2 " in choice.reason
    tried = {e: why for e, why in choice.rejected.items() if "in the pilot" in why}
    assert {type(e.control(2)) for e in tried} == {*ALL} - {quick}
    assert plan.choices["z"].rejected.items() <= choice.rejected.items()
    assert repr(best).count("in the pilot") == len(set(tried.values()))
    assert best.guide_reason == plan.guide_reason


@pytest.mark.slow
def test_without_differences_in_time_the_least_moment_is_taken(monkeypatch):
    best = piloted(monkeypatch, coin_plan(), {}).choices["z"]
    moment = re.compile(r"E\|gradient\|\^2 (\S+) x")
    least = float(moment.search(best.reason)[1])
    others = [moment.search(why) for why in best.rejected.values()]
    assert least <= min(float(other[1]) for other in others if other)


@pytest.mark.slow
def test_a_fit_takes_what_the_pilot_chose(monkeypatch):
    best = piloted(monkeypatch, coin_plan(), {estimators.OptimalScale: 1e-9})
    fit = bbvi.fit(
        coin, {"y": 1.1}, estimators=best.estimators, num_particles=2, progress=False
    )
    assert fit.plan.estimators == best.estimators


def test_one_particle_has_fewer_control_variates():
    tried = bbvi.pilot(coin_plan(num_particles=1), num_gradients=5).choices["z"].reason
    assert "best in a pilot of 2" in tried


@pytest.mark.slow
def test_other_sites_and_unscored_plans_stay_as_they_are():
    plan = bbvi.plan(coin, {"y": 1.1})
    assert bbvi.pilot(plan) is plan

    def model(y):
        z = numpyro.sample("z", dist.Bernoulli(PROBABILITY))
        mu = numpyro.sample("mu", dist.Normal(z, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    asked = {"z": estimators.ScoreFunction(control_variate=estimators.LeaveOneOut())}
    plan = bbvi.plan(model, {"y": 1.1}, estimators=asked)
    found = bbvi.pilot(plan, num_gradients=5)
    assert found.choices["mu"] == plan.choices["mu"]
    assert list(found.choices) == list(plan.choices)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_not_taken(monkeypatch):
    measure = piloting._tried

    def tried(*arguments):
        trial = measure(*arguments)
        control = arguments[-1].estimators["z"].control(2)
        is_bad = isinstance(control, estimators.LeaveOneOut)
        return trial._replace(moment=np.nan if is_bad else trial.moment, seconds=1.0)

    monkeypatch.setattr(piloting, "_tried", tried)
    chosen = bbvi.pilot(coin_plan(estimators.LeaveOneOut()), num_gradients=5)
    assert chosen.estimators["z"].control(2) != estimators.LeaveOneOut()


WRONG = {
    "no plan": ((coin,), {}, TypeError, "pilot takes a plan.*found function"),
    "gradients": ((), {"num_gradients": 0}, ValueError, "num_gradients.*found 0"),
    "seed": ((), {"seed": "a"}, TypeError, "seed"),
    "params": (
        (),
        {"params": {"z": 1.0}},
        ValueError,
        r"params must be those of the plan.*\['z.logits'\]; found \['z'\]",
    ),
    "params without a finite gradient": (
        (),
        {"params": {"z.logits": np.float32(np.nan)}},
        ValueError,
        "no control variate of site 'z' has a finite gradient",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name):
    arguments, options, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        bbvi.pilot(*(arguments or (coin_plan(),)), **options)
