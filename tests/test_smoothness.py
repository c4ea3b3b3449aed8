"""Sites along which the log density jumps are found, and nothing else is.

The programs and their labels are in `tests/smoothness_cases.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bbvi
from bbvi.analysis import settling
from bbvi.estimators import Reparameterized, ScoreFunction
from bbvi.guides import FullRank, MeanField
from tests import smoothness_cases as cases
from tests.compiles import count_compiles
from tests.statistics import assert_biased, assert_unbiased


@functools.cache
def jumps_of(table, part):
    """Jumps of one model of half of the functions of a table, each with its site."""
    functions = list(getattr(cases, table).items())[part::2]

    def model():
        for name, function in functions:
            z = numpyro.sample(name, dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            term = -0.5 * jnp.sum((function(z) - 0.3) ** 2)
            numpyro.factor(f"term of {name}", term)

    return bbvi.analyze(model, {}).jumps


def halves(table):
    """Names of a table, each with its half; those of the second are slow."""
    return [
        pytest.param(name, at % 2, marks=pytest.mark.slow if at % 2 else [])
        for at, name in enumerate(table)
    ]


@pytest.mark.parametrize(("name", "part"), halves(cases.SMOOTH))
def test_look_alikes_pass(name, part):
    assert name not in jumps_of("SMOOTH", part)


@pytest.mark.parametrize(("name", "part"), halves(cases.JUMPY))
def test_jumps_are_found(name, part):
    found = jumps_of("JUMPY", part)[name]
    assert found.term == f"term of {name}"
    assert ".py:" in found.line


@pytest.mark.parametrize("name", cases.SMOOTH_MODELS)
def test_smooth_models_pass(name):
    model, y = cases.SMOOTH_MODELS[name]
    assert bbvi.analyze(model, {"y": y}).jumps == {}


@pytest.mark.parametrize("name", cases.JUMPY_MODELS)
def test_models_that_jump_are_found_out(name):
    model, y, sites = cases.JUMPY_MODELS[name]
    analysis = bbvi.analyze(model, {"y": y})
    assert set(analysis.jumps) == sites
    for site in sites:
        assert f"site {site!r}: {analysis.jumps[site]}" in repr(analysis)


# --- what the plan makes of it ------------------------------------------------------


def step_model(y):
    z = numpyro.sample("z", dist.Normal(0.3, 1.2))
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.where(z > 0.4, 1.5, -0.5) + w, 0.8), obs=y)


STEP = {"y": np.array(1.1)}
PARAMS = {"z.loc": 0.2, "z.scale": -0.3, "w.loc": -0.4, "w.scale": -0.5}


def test_the_plan_scores_what_jumps_and_says_why():
    plan = bbvi.plan(step_model, STEP)
    choice = plan.choices["z"]
    assert plan.guide == MeanField()
    assert "the log density jumps" in plan.guide_reason
    assert choice.estimator == ScoreFunction()
    assert plan.choices["w"].estimator == Reparameterized()
    why = "the log density of 'y' jumps along it: gt at test_smoothness.py:"
    assert why in choice.reason
    assert choice.rejected[Reparameterized()].startswith(why)
    assert plan.note.startswith(f"Site 'z' has ScoreFunction(), as {why}")


def test_only_the_site_that_decides_the_branch_is_scored():
    model, y, _ = cases.JUMPY_MODELS["spnor"]
    choices = bbvi.plan(model, {"y": y}).choices
    assert choices["z1"].estimator == Reparameterized()
    assert choices["z2"].estimator == ScoreFunction()


def test_an_override_that_is_wrong_is_refused():
    with pytest.raises(bbvi.PlanError, match=r"site 'z'.*jumps along it: gt at.*Use"):
        bbvi.plan(step_model, STEP, estimators={"z": Reparameterized()})


def test_a_joint_draw_is_refused():
    with pytest.raises(bbvi.PlanError, match=r"site 'z'.*jumps.*guides.MeanField\(\)"):
        bbvi.plan(step_model, STEP, guide=FullRank())


def exact_bound(params):
    """The bound of the step model: z by its two sides, w in closed form."""
    loc, scale = params["z.loc"], jnp.exp(params["z.scale"])
    mean, sd = params["w.loc"], jnp.exp(params["w.scale"])
    above = 1 - jax.scipy.stats.norm.cdf(0.4, loc, scale)

    def gauss(residual_mean, variance, sigma):
        square = (residual_mean**2 + variance) / sigma**2
        return -0.5 * square - jnp.log(sigma * jnp.sqrt(2 * jnp.pi))

    def likelihood(height):
        return gauss(STEP["y"] - height - mean, sd**2, 0.8)

    entropy = jnp.log(scale) + jnp.log(sd) + jnp.log(2 * jnp.pi * jnp.e)
    prior = gauss(loc - 0.3, scale**2, 1.2) + gauss(mean, sd**2, 1.0)
    return prior + entropy + above * likelihood(1.5) + (1 - above) * likelihood(-0.5)


def gradients(plan, num_draws=20_000):
    params = {name: jnp.asarray(value) for name, value in PARAMS.items()}
    loss, data = bbvi.loss(plan), plan.analysis.arguments.arrays

    def one(key):
        slope = jax.grad(loss, has_aux=True)(params, key, data)[0]
        return -jnp.stack([slope[name] for name in PARAMS])

    keys = jax.random.split(jax.random.key(3), num_draws)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


@functools.cache
def exact_gradient():
    slope = jax.grad(exact_bound)({n: jnp.asarray(x) for n, x in PARAMS.items()})
    return np.array([slope[name] for name in PARAMS])


def test_gradient_of_the_plan_is_unbiased():
    plan = bbvi.plan(step_model, STEP)
    assert_unbiased(gradients(plan), exact_gradient(), detectable=0.2)


def test_control_pathwise_through_the_step():
    plan = bbvi.plan(step_model, STEP)
    wrong = bbvi.planning.Choice(Reparameterized(), "", {})
    plan = dataclasses.replace(plan, choices={**plan.choices, "z": wrong})
    assert_biased(gradients(plan), exact_gradient(), detectable=0.2)


def test_the_verdict_names_the_jump(tmp_path):
    fit = bbvi.fit(step_model, STEP, max_steps=200, num_starts=2, progress=False)
    note = "Site 'z' has ScoreFunction(), as the log density of 'y' jumps"
    assert fit.verdict.note.startswith(note)
    assert str(fit.verdict).endswith(fit.verdict.note)
    fit.save(tmp_path / "fit.npz")
    assert bbvi.load(tmp_path / "fit.npz").verdict == fit.verdict


# --- guides of one's own ------------------------------------------------------------


def pair(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(a, 1.0))
    numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def guide_of(link):
    def guide(y):
        loc = numpyro.param("loc", 0.1)
        a = numpyro.sample("a", dist.Normal(loc, 1.0))
        numpyro.sample("b", dist.Normal(link(a) + y, 0.7))

    return guide


@pytest.mark.parametrize(
    ("link", "estimator"),
    [
        (jax.nn.relu, Reparameterized()),
        (lambda a: jnp.where(a > 0, a, 0.1 * a), Reparameterized()),
        (jnp.floor, ScoreFunction()),
        (lambda a: jnp.where(a > 0, 1.0, 0.0), ScoreFunction()),
        (jax.lax.stop_gradient, ScoreFunction()),
    ],
)
def test_later_draws_of_the_guide_count_too(link, estimator):
    plan = bbvi.plan(pair, STEP, guide=guide_of(link))
    assert plan.analysis.jumps == {}
    assert plan.choices["a"].estimator == estimator
    assert plan.choices["b"].estimator == Reparameterized()


# --- cost ---------------------------------------------------------------------------


def test_models_without_doubt_are_not_evaluated(monkeypatch):
    def never(program):
        raise AssertionError("evaluated")

    monkeypatch.setattr(settling, "settle", never)
    for name in ("student", "beta", "mixture", "dirichlet", "state space", "logits"):
        model, y = cases.SMOOTH_MODELS[name]
        assert bbvi.analyze(model, {"y": y}).jumps == {}


def test_a_second_look_compiles_nothing():
    for model, y in (
        cases.JUMPY_MODELS["spnor"][:2],
        cases.SMOOTH_MODELS["leaky units"],
    ):
        first = bbvi.analyze(model, {"y": y}).jumps
        with count_compiles() as count:
            assert bbvi.analyze(model, {"y": y + 1}).jumps.keys() == first.keys()
        assert count.compiled == []


def test_loops_that_never_end_are_left():
    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        stuck = jax.lax.while_loop(lambda x: x != 1.0, lambda x: 0.5 * x, z)
        numpyro.factor("term", jnp.where(stuck > 0, z, -z))

    assert set(bbvi.analyze(model, {}).jumps) == {"z"}


def test_types_that_differ_in_64_bits_are_settled_in_32():
    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))

        def body(carry, x):
            return (carry + jnp.where(z > 0, z, 0.0) * x).astype(jnp.float32), None

        total, _ = jax.lax.scan(body, jnp.zeros((), jnp.float32), y)
        scanned, _ = jax.lax.scan(lambda c, x: (c + x * z, None), np.float32(0), y)
        numpyro.factor("smooth", total + scanned)
        numpyro.factor("step", 1.0 * (w > 0.3))

    y = np.ones(3, np.float32)
    assert set(bbvi.analyze(model, {"y": y}).jumps) == {"w"}
