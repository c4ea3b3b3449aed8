"""Every estimator is unbiased, in every situation that it supports.

The mean of many gradients of `bbvi.loss` is compared with the exact gradient of the
exact bound; see `tests/cases.py`.
"""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import bbvi
from bbvi import objective, surrogates
from bbvi.analysis.windows import Aligned
from bbvi.estimators import antithetic, controls, relaxing, tables
from tests import cases
from tests.statistics import assert_biased, assert_unbiased

GRADIENTS = cases.GRADIENTS
QUICKLY = {"xla_backend_optimization_level": 0}
"""How to compile: the programs are small, and run once."""


def slowly(*names):
    return pytest.param(*names, marks=pytest.mark.slow)


def params_of(case):
    params = jax.tree.map(jnp.asarray, dict(case.params))
    kept = [n for n in params if not any(n.startswith(f"{s}.") for s in case.summed)]
    return {n: params[n] for n in kept}


def plan_of(case):
    return bbvi.plan(
        case.model,
        case.data,
        guide=case.guide if case.family is None else case.family,
        estimators=case.estimators,
        num_particles=case.num_particles,
    )


def draws_of(case, plan, baselines=None, seed=0):
    """Bound and gradient by each of many keys, `(samples, 1 + parameters)`."""
    keys = jax.random.split(jax.random.key(seed), case.samples)
    return np.asarray(sampler_of(case, plan, baselines)(keys))


def sampler_of(case, plan, baselines=None):
    """From keys to the bound and gradient by each."""
    params, data = params_of(case), plan.analysis.arguments.arrays
    loss = bbvi.loss(plan)

    def one(key):
        (_, info), slope = jax.value_and_grad(loss, has_aux=True)(
            params, key, data, baselines
        )
        flat, _ = jax.flatten_util.ravel_pytree(slope)
        return jnp.concatenate([info.elbo[None], -flat])

    return jax.jit(jax.vmap(one), compiler_options=QUICKLY)


def exact_of(case):
    """Exact bound and gradient."""

    def both(params):
        value, slope = jax.value_and_grad(case.bound)(params)
        return value, jax.flatten_util.ravel_pytree(slope)[0]

    value, flat = jax.jit(both, compiler_options=QUICKLY)(params_of(case))
    return np.concatenate([np.asarray(value)[None], np.asarray(flat)])


def demands(case, exact):
    """Of the error found and the error of single precision, oracle included."""
    largest = np.full(exact.shape, np.abs(exact[1:]).max(initial=0.3))
    largest[0] = max(abs(exact[0]), 0.3)
    return {"detectable": case.detectable * largest, "rounding": 1e-4 * largest}


@pytest.mark.parametrize(
    "name", [slowly(name) if name in cases.SLOW else name for name in GRADIENTS]
)
def test_gradient_is_unbiased(name):
    case = GRADIENTS[name]
    plan = plan_of(case)
    for site, estimator in case.estimators.items():
        assert plan.choices[site].estimator == estimator
    assert set(plan.marginalized) == set(case.summed)
    assert set(params_of(case)) == set(plan.parameters)
    exact = exact_of(case)
    assert_unbiased(draws_of(case, plan), exact, **demands(case, exact))


@pytest.mark.parametrize("name", [n for n in GRADIENTS if n.endswith("summed out")])
def test_summing_leaves_no_noise_of_its_own(name):
    """Where nothing else is drawn, each single gradient is the exact one."""
    case = GRADIENTS[name].but(samples=100)
    plan = plan_of(case)
    if plan.nodes or plan.analysis.subsampled:
        pytest.skip("other sites or a minibatch bring their own noise")
    exact, draws = exact_of(case), draws_of(case, plan)
    assert np.all(draws == draws[0])
    np.testing.assert_allclose(draws[0], exact, rtol=1e-4, atol=1e-5)


def test_local_expectation_of_one_element_is_exact():
    case = GRADIENTS["scalar, local"]
    draws = draws_of(case.but(samples=100), plan_of(case))[:, 1:]
    np.testing.assert_allclose(
        draws, exact_of(case)[None, 1:].repeat(100, 0), rtol=1e-4
    )


def test_marginal_bound_is_the_evidence():
    """With everything summed out the bound is the log evidence, in closed form."""
    case = GRADIENTS["scalar, summed out"]
    plan = plan_of(case)
    value, _ = bbvi.loss(plan)(params_of(case), jax.random.key(0), case.data)
    y, weights = case.data["y"], np.array([0.7, 0.3])
    density = np.exp(-0.5 * ((y - np.array([0.2, 1.7])) / 0.7) ** 2)
    exact = np.log(weights @ density / (0.7 * np.sqrt(2 * np.pi)))
    np.testing.assert_allclose(-value, exact, rtol=1e-5)


@pytest.mark.parametrize("name", ["plate, score of 1", slowly("scan, score of 1")])
def test_baselines_leave_the_gradient_unbiased_and_quieter(name):
    case = GRADIENTS[name]
    plan = plan_of(case)
    exact = exact_of(case)
    loss, data = bbvi.loss(plan), plan.analysis.arguments.arrays
    keys = jax.random.split(jax.random.key(5), 500)
    _, info = jax.vmap(lambda key: loss(params_of(case), key, data))(keys)
    baselines = {n: cost.mean(0) for n, cost in info.costs.items()}
    quiet = draws_of(case, plan, baselines)
    assert_unbiased(quiet, exact, **demands(case, exact))
    shifted = {n: cost - 3.0 for n, cost in baselines.items()}
    noisy = draws_of(case, plan, shifted)
    assert_unbiased(noisy, exact, **demands(case, exact))
    assert quiet[:, 1:].var(0).sum() < noisy[:, 1:].var(0).sum()


def test_more_particles_are_quieter():
    def variance(num_particles):
        case = cases.by(cases.PLATE, z=cases.Score).but(num_particles=num_particles)
        return draws_of(case, plan_of(case))[:, 1:].var(0).sum()

    assert variance(4) < variance(2)


def test_scoring_a_continuous_chain_in_scan_is_refused():
    """NumPyro's scan hides its draws, so their gradient could not be stopped."""

    def guide(y):
        def step(before, loc):
            x = cases.sample("x", cases.dist.Normal(loc + 0.9 * before, 1.0))
            return x, None

        cases.scan(step, jnp.zeros(()), cases.param("loc", jnp.zeros(3)))

    def model(y):
        def step(before, y):
            x = cases.sample("x", cases.dist.Normal(before, 1.0))
            cases.sample("y", cases.dist.Normal(x, 0.5), obs=y)
            return x, None

        cases.scan(step, jnp.zeros(()), y)

    data = cases.PLATE.data
    assert bbvi.plan(model, data, guide=guide).choices["x"].estimator == cases.Pathwise
    with pytest.raises(bbvi.planning.PlanError, match="'x'.*inside scan.*Reparameter"):
        bbvi.plan(model, data, guide=guide, estimators={"x": cases.Score})


@pytest.mark.parametrize("estimator", [cases.Score, cases.Local])
def test_an_impossible_draw_shows_in_the_gradient(estimator):
    """What surrogates add to the value is 0 whatever they see."""

    def model():
        z = cases.sample("z", cases.dist.Bernoulli(0.5))
        numpyro.factor("wall", jnp.where(z == 1, -jnp.inf, 0.0))

    plan = bbvi.plan(model, estimators={"z": estimator}, num_particles=8)
    params = plan.init(jax.random.key(0))
    slope, _ = jax.grad(bbvi.loss(plan), has_aux=True)(params, jax.random.key(1), {})
    assert not np.isfinite(slope["z.logits"]).any()


# Negative controls: each is wrong on purpose, and must be found out.


def control(name, plan=None, **changes):
    case = GRADIENTS[name].but(detectable=0.1, **changes)
    exact = exact_of(case)
    draws = draws_of(case, plan_of(case) if plan is None else plan(plan_of(case)))
    assert_biased(draws, exact, **demands(case, exact))


@pytest.mark.parametrize("name", ["plate, score of 4", "scan, score of 2"])
def test_control_without_score_term(name, monkeypatch):
    monkeypatch.setattr(controls, "leave_one_out", lambda cost: cost)
    control(name)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("minibatch of 1, score", 5.0),
        ("minibatch of 2, score", 2.5),
        ("mixed minibatch of 1, score", 4.0),
        ("scale 2, score", 2.0),
    ],
)
def test_control_with_the_scale_twice(name, scale, monkeypatch):
    honest = controls.leave_one_out
    monkeypatch.setattr(
        controls, "leave_one_out", lambda c: c - scale * (c - honest(c))
    )
    control(name)


def test_control_with_its_own_cost_in_the_baseline(monkeypatch):
    monkeypatch.setattr(
        controls, "leave_one_out", lambda cost: cost.mean(0, keepdims=True)
    )
    control("plate, score of 4")


def test_control_antithetic_without_its_correction(monkeypatch):
    monkeypatch.setattr(antithetic, "correlation", lambda probs, number: 0.0)
    control("scalar, antithetic of 2")
    control("coupled by matrix, antithetic")


def test_control_with_the_optimal_scale_of_all_particles(monkeypatch):
    monkeypatch.setattr(
        controls, "leave_one_out", lambda cost: cost.mean(0, keepdims=True)
    )
    control("scalar, optimal scale of 2")


def test_control_double_control_without_what_it_took(monkeypatch):
    monkeypatch.setattr(relaxing, "expectation", lambda slope, mean: 0.0)
    control("coupled by matrix, double control")


def test_control_double_control_with_its_own_slope(monkeypatch):
    monkeypatch.setattr(
        relaxing, "leave_one_out", lambda slope: slope.mean(0, keepdims=True)
    )
    control("scalar, double control of 2")


@pytest.mark.parametrize("name", ["plate", slowly("minibatch of 2")])
def test_control_double_control_scaled_by_its_own_row(name, monkeypatch):
    monkeypatch.setattr(relaxing, "of_others", lambda rows: rows)
    control(f"{name}, double control")


@pytest.mark.parametrize(
    "name",
    [slowly("poisson of 1, two values summed"), "categorical, two values summed"],
)
def test_control_that_sums_what_it_samples(name, monkeypatch):
    honest = objective.scored_site

    def forgetful(*args):
        seen = honest(*args)
        return seen._replace(is_summed=jnp.zeros_like(seen.is_summed))

    monkeypatch.setattr(objective, "scored_site", forgetful)
    control(name)


def test_control_learned_from_its_own_row(monkeypatch):
    def fitted(features, cost):
        design = jnp.stack([jnp.ones_like(features), features], 1)
        return design @ jnp.linalg.lstsq(design, cost)[0]

    monkeypatch.setattr(surrogates, "predictions", fitted)
    control("amortised, learned baseline")


def trusting(plan):
    """The plan as if its plates made all elements independent."""

    def aligned(site):
        return tuple(map(Aligned, range(len(plan.nodes[site].shape))))

    influence = {
        term: {site: aligned(site) for site in found}
        for term, found in plan.influence.items()
    }
    return dataclasses.replace(plan, influence=influence)


@pytest.mark.parametrize("how", ["sum", "roll", slowly("matrix"), slowly("flip")])
@pytest.mark.parametrize("estimator", ["local", "score"])
def test_control_that_trusts_a_coupled_plate(how, estimator):
    control(f"coupled by {how}, {estimator}", trusting)


def narrower(side):
    """The plan with every window of several indices one narrower."""

    def narrow(entry):
        if entry is None or entry.width == 1:
            return entry
        change = {"low": entry.low + 1} if side == "low" else {"high": entry.high - 1}
        return entry._replace(**change)

    def changed(plan):
        influence = {
            term: {site: tuple(map(narrow, axes)) for site, axes in found.items()}
            for term, found in plan.influence.items()
        }
        return dataclasses.replace(plan, influence=influence)

    return changed


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize(
    "name",
    ["chain, score", "grid, local", "ring, score", slowly("shifted plate, local")],
)
def test_control_with_a_window_too_narrow(name, side):
    control(name, narrower(side))


def test_windows_make_a_score_quieter():
    """Costs beyond the window leave it unbiased, and bring their noise."""
    case = GRADIENTS["chain, score"]
    plan, exact = plan_of(case), exact_of(case)
    influence = {term: {"z": (None,)} for term in plan.influence}
    mixed = draws_of(case, dataclasses.replace(plan, influence=influence))
    assert_unbiased(mixed, exact, **demands(case, exact))
    assert draws_of(case, plan)[:, 1:].var(0).sum() < mixed[:, 1:].var(0).sum() / 1.5


PLAIN = controls.LeaveOneOut()


def rows_with(cost):
    """A factor of three coupled bits for each of 40 rows."""

    def model():
        with numpyro.plate("rows", 40):
            z = numpyro.sample("z", cases.dist.Bernoulli(0.5 * jnp.ones(3)).to_event(1))
            numpyro.factor("cost", cost(z.astype(float)))

    return model


def variance_of(model, control, num_samples=200):
    estimators = {"z": bbvi.estimators.ScoreFunction(control_variate=control)}
    plan = bbvi.plan(model, estimators=estimators, num_particles=3)
    params = jax.tree.map(jnp.zeros_like, plan.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), num_samples)
    slope = jax.grad(bbvi.loss(plan), has_aux=True)
    draws = jax.jit(jax.vmap(lambda key: slope(params, key, {})[0]["z.logits"]))(keys)
    return np.var(draws, 0).sum()


@pytest.mark.slow
def test_double_control_learns_whether_the_cost_is_linear():
    """At logits 0 the curved cost has no linear part, and a scale of 1 does harm."""
    learnt, whole = relaxing.DoubleControl(), relaxing.DoubleControl(scale=1.0)
    linear = rows_with(lambda z: z @ jnp.array([1.0, -2.0, 3.0]))
    assert variance_of(linear, learnt) < variance_of(linear, PLAIN) / 20
    curved = rows_with(lambda z: -3.0 * (jnp.sum(z, -1) - 1.5) ** 2)
    assert variance_of(curved, whole) > variance_of(curved, PLAIN) * 2
    assert variance_of(curved, learnt) < variance_of(curved, PLAIN) * 1.1


def test_the_learnt_scale_is_that_of_least_squares_over_other_rows():
    rng = np.random.default_rng(0)
    mean = np.broadcast_to(rng.uniform(0.2, 0.8, (5, 2)), (3, 5, 2))
    value = rng.binomial(1, mean).astype(float)
    cost, slope = rng.normal(size=(3, 5, 1)), rng.normal(size=(3, 5, 2))
    change = np.sum(slope * (value - mean), -1, keepdims=True)
    seen = controls.Scored(value, cost, value=value, mean=mean, rows=(0,))
    found = relaxing.learned_scale(seen, slope, change)

    def centred(x):
        return x - (x.sum(0) - x) / 2

    score = value - mean
    plain = (score * centred(cost)).mean(0)
    added = (slope * mean * (1 - mean) - score * centred(change)).mean(0)
    ridge = relaxing.RIDGE**0.5 * plain
    for row in range(5):
        others = np.arange(5) != row
        columns = np.concatenate([added[others].ravel(), ridge[others].ravel()])
        target = np.concatenate([-plain[others].ravel(), np.zeros(8)])
        exact = np.linalg.lstsq(columns[:, None], target)[0]
        np.testing.assert_allclose(found[row, 0], exact[0], rtol=1e-4)


def test_elements_of_a_cost_that_no_element_reaches_stay(monkeypatch):
    """The control: forgetting them is biased."""
    whole = tables.log_density

    def seen(site):
        return whole(site) * (np.arange(4) > 0 if site["name"] == "y" else 1)

    monkeypatch.setattr(tables, "log_density", seen)
    control("late plate, summed out")


@pytest.mark.parametrize("name", ["chain", "grid", "torus", "chain in reverse"])
def test_elements_of_one_colour_are_changed_together(name):
    case = GRADIENTS[f"{name}, local"]
    plan = plan_of(case)
    assert plan.choices["z"].reason.endswith(
        {
            "chain": "4 coupled elements in 2 colours: 2 further evaluations",
            "grid": "9 coupled elements in 2 colours: 2 further evaluations",
            "torus": "8 coupled elements in 2 colours: 2 further evaluations",
            "chain in reverse": "4 coupled elements in 2 colours: "
            "2 further evaluations",
        }[name]
        + " sum it under q"
    )


@pytest.mark.parametrize("name", ["no plate, score"])
def test_control_that_takes_matching_shapes_for_independence(name):
    control(name, trusting)


def without(plan, term):
    """The plan without the cost of one term."""
    influence = {n: f for n, f in plan.influence.items() if n != term}
    return dataclasses.replace(plan, influence=influence)


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("nested, score", "b"),
        ("scalar, score of 4", "y"),
    ],
)
def test_control_that_forgets_a_cost(name, term):
    control(name, lambda plan: without(plan, term))


@pytest.mark.parametrize("name", ["gamma, pathwise", "normal, pathwise"])
def test_control_that_stops_the_path(name, monkeypatch):
    honest = objective.run_guide

    def stopped(program, kwargs, key, values, detached=(), uniforms=None):
        return honest(program, kwargs, key, values, ("mu",), uniforms)

    monkeypatch.setattr(objective, "run_guide", stopped)
    control(name)


@pytest.mark.parametrize("case", ["STEP", "ROUNDING"])
def test_control_pathwise_through_a_jump(case):
    """What a pathwise gradient would make of a density that jumps."""
    wrong = getattr(cases, case).but(estimators={})
    plan = plan_of(wrong)
    choice = bbvi.planning.Choice(cases.Pathwise, "", {})
    plan = dataclasses.replace(plan, choices={"mu": choice}, num_particles=1)
    exact = exact_of(wrong)
    assert_biased(draws_of(wrong, plan), exact, **demands(wrong, exact))
