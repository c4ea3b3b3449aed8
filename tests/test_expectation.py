"""`bbvi.expectation` has the exact gradient: enumeration, a grid, or by hand."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import bbvi
from bbvi import PlanError
from bbvi.estimators import (
    LeaveOneOut,
    LocalExpectation,
    Marginalized,
    Reparameterized,
    RunningAverage,
    ScoreFunction,
)
from tests import cases
from tests.cases import bits, line, table
from tests.statistics import assert_biased, assert_unbiased

sample, param, factor = numpyro.sample, numpyro.param, numpyro.factor
Score, Local = ScoreFunction(LeaveOneOut()), LocalExpectation()
Past = ScoreFunction(RunningAverage())


def expected(program, params, grid, data=None, cell=0.0):
    """Sum over the grid of the density of the nodes times the sum of the factors."""

    def one(values):
        trace = cases.run(program, data or {}, params, values)
        nodes = {n: s for n, s in trace.items() if not s.get("is_observed")}
        costs = {n: s for n, s in trace.items() if s.get("is_observed")}
        weight = jnp.exp(cases.density(nodes, plain=True) + cell)
        return weight * cases.density(costs)

    return jnp.sum(jax.vmap(one)(cases.combinations(grid)))


def draws_of(made, params, samples, data=None):
    """Value and gradient by each of many keys."""

    def one(key):
        (value, _), slope = jax.value_and_grad(made, has_aux=True)(params, key, data)
        return jnp.concatenate([value[None], jax.flatten_util.ravel_pytree(slope)[0]])

    keys = jax.random.split(jax.random.key(2), samples)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def exact_of(bound, params):
    value, slope = jax.value_and_grad(bound)(params)
    flat, _ = jax.flatten_util.ravel_pytree(slope)
    return np.concatenate([np.asarray(value)[None], np.asarray(flat)])


def demands(exact, detectable=0.25):
    largest = np.full(exact.shape, np.abs(exact[1:]).max())
    largest[0] = max(abs(exact[0]), 0.3)
    return {"detectable": detectable * largest, "rounding": 1e-4 * largest}


# --- programs ------------------------------------------------------------------------


def both_sides():
    """One parameter before, one after, and one on both sides of the node."""
    before, after, both = (param(n, 0.0) for n in ("before", "after", "both"))
    z = sample("z", dist.Bernoulli(logits=before + both))
    factor("cost", (z - after) ** 2 * jnp.exp(both))


def chain():
    """Each node's costs are those downstream of it; one lies before them all."""
    a, b = param("a", 0.0), param("b", 0.0)
    factor("first", 0.5 * jnp.cos(a))
    z1 = sample("z1", dist.Bernoulli(logits=a))
    factor("second", 1.5 * z1)
    z2 = sample("z2", dist.Categorical(logits=jnp.stack([0.3 * a, b * z1, b - a])))
    factor("third", jnp.array([0.4, -1.2, 2.0])[z2] * (1 + z1) + b)


def plate(batch=None):
    logits = param("logits", jnp.zeros(3))
    weights = param("weights", jnp.ones(3))
    with numpyro.plate("rows", 3, batch) as index:
        z = sample("z", dist.Bernoulli(logits=logits[index]))
        factor("own", jnp.array([1.0, -2.0, 0.5])[index] * z * weights[index])


def coupled_plate():
    logits = param("logits", jnp.zeros(3))
    with numpyro.plate("rows", 3):
        z = sample("z", dist.Bernoulli(logits=logits))
    factor("all", jnp.prod(z + jnp.array([0.5, 1.0, -0.3])))


def vector():
    z = sample("z", dist.Bernoulli(logits=param("logits", jnp.zeros(3))).to_event(1))
    factor("own", (jnp.array([1.0, -2.0, 0.5]) * z).sum())


def steps():
    """A Markov chain inside NumPyro's scan, a reward at each step."""
    slope, start = param("slope", 0.0), param("start", jnp.zeros(3))

    def step(before, start):
        z = sample("z", dist.Bernoulli(logits=start + slope * before))
        factor("reward", jnp.where(z == 1, 1.0, 0.2 * slope))
        return z, None

    scan(step, jnp.array(0), start)


def gaussian():
    m, s, target = param("m", 0.0), param("s", 0.0), param("target", 0.0)
    x = sample("x", dist.Normal(m, jnp.exp(s)))
    factor("cost", -((x - target) ** 2) + 0.5 * m)


def mixed():
    """A discrete node downstream of a continuous one, and costs of both."""
    x = sample("x", dist.Normal(param("m", 0.0), jnp.exp(param("s", 0.0))))
    z = sample("z", dist.Bernoulli(logits=param("w", 0.0) * x))
    factor("cost", jnp.sin(x) * (1 + 2.0 * z) + param("w", 0.0) * z)


def jump():
    x = sample("x", dist.Normal(param("m", 0.0), jnp.exp(param("s", 0.0))))
    factor("cost", jnp.where(x > 0.5, 2.0, -1.0))


def jump_in_a_node():
    """The costs do not jump along x, the distribution of the next node does."""
    x = sample("x", dist.Normal(param("m", 0.0), jnp.exp(param("s", 0.0))))
    z = sample("z", dist.Bernoulli(jnp.where(x > 0.5, 0.9, 0.2)))
    factor("cost", 2.0 * z + 0.3 * x)


def jump_in_a_draw():
    x = sample("x", dist.Normal(param("m", 0.0), jnp.exp(param("s", 0.0))))
    y = sample("y", dist.Normal(jnp.where(x > 0.5, 1.5, -0.5), 0.7))
    factor("cost", 2.0 * jnp.tanh(y) + 0.3 * x)


BOTH = {"before": 0.4, "after": 0.3, "both": -0.2}
CHAIN = {"a": 0.4, "b": -0.7}
ROWS = {"logits": cases.f(0.4, -0.6, 1.1), "weights": cases.f(0.7, 1.2, -0.4)}
LOGITS = {"logits": cases.f(0.4, -0.6, 1.1)}
STEPS = {"slope": 1.3, "start": cases.f(0.4, -0.6, 0.3)}
GAUSSIAN = {"m": 0.3, "s": -0.4, "target": 0.9}
MIXED = {"m": 0.3, "s": -0.4, "w": 0.8}
JUMP = {"m": 0.3, "s": -0.4}
X, CELL = line(-5.0, 6.0, 400)
COARSE = line(-4.0, 5.0, 180)
PAIR = {"x": X, "z": bits()}
LINES = {"x": COARSE[0], "y": COARSE[0]}
CHAIN_GRID = {"z1": bits(), "z2": table([0, 1, 2])}

# {id: (program, params, grid, log volume of a cell, estimators, data)}
PROGRAMS = {
    "both sides, local": (both_sides, BOTH, {"z": bits()}, 0.0, {"z": Local}, {}),
    "both sides, score": (both_sides, BOTH, {"z": bits()}, 0.0, {"z": Score}, {}),
    "both sides, past": (both_sides, BOTH, {"z": bits()}, 0.0, {"z": Past}, {}),
    "chain": (chain, CHAIN, CHAIN_GRID, 0.0, {}, {}),
    "plate, local": (plate, ROWS, {"z": bits(3)}, 0.0, {"z": Local}, {}),
    "plate, score": (plate, ROWS, {"z": bits(3)}, 0.0, {"z": Score}, {}),
    "minibatch, local": (plate, ROWS, {"z": bits(3)}, 0.0, {}, {"batch": 2}),
    "minibatch, score": (plate, ROWS, {"z": bits(3)}, 0.0, {"z": Score}, {"batch": 2}),
    "coupled, local": (coupled_plate, LOGITS, {"z": bits(3)}, 0.0, {"z": Local}, {}),
    "coupled, score": (coupled_plate, LOGITS, {"z": bits(3)}, 0.0, {"z": Score}, {}),
    "vector, score": (vector, LOGITS, {"z": bits(3)}, 0.0, {"z": Score}, {}),
    "steps": (steps, STEPS, {"z": bits(3)}, 0.0, {}, {}),
    "gaussian, pathwise": (gaussian, GAUSSIAN, {"x": X}, CELL, {}, {}),
    "gaussian, score": (gaussian, GAUSSIAN, {"x": X}, CELL, {"x": Score}, {}),
    "mixed, local": (mixed, MIXED, {"x": X, "z": bits()}, CELL, {}, {}),
    "mixed, score": (
        mixed,
        MIXED,
        {"x": X, "z": bits()},
        CELL,
        {"x": Score, "z": Score},
        {},
    ),
    "jump": (jump, JUMP, {"x": X}, CELL, {}, {}),
    "jump in a node, local": (jump_in_a_node, JUMP, PAIR, CELL, {}, {}),
    "jump in a node, score": (jump_in_a_node, JUMP, PAIR, CELL, {"z": Score}, {}),
    "jump in a draw": (jump_in_a_draw, JUMP, LINES, 2 * COARSE[1], {}, {}),
}
SLOW = {
    "both sides, local",
    "plate, score",
    "minibatch, local",
    "coupled, local",
    "vector, score",
    "mixed, score",
    "gaussian, score",
    "steps",
    "chain",
    "jump in a node, local",
}


def made(name, **options):
    program, params, grid, cell, estimators, data = PROGRAMS[name]
    options = {"num_particles": 4, **options}
    found = bbvi.expectation(program, data, estimators=estimators, **options)
    params = jax.tree.map(jnp.asarray, params)
    exact = exact_of(lambda p: expected(program, p, grid, {}, cell), params)
    return found, params, exact


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PROGRAMS],
)
def test_gradient_is_unbiased(name):
    found, params, exact = made(name)
    for site, estimator in PROGRAMS[name][4].items():
        assert found.choices[site].estimator == estimator
    assert set(found.init(jax.random.key(0))) == set(params)
    assert_unbiased(draws_of(found, params, 16_000), exact, **demands(exact))


def test_one_particle_and_its_baselines():
    found, params, exact = made("both sides, past", num_particles=1)
    _, outcome = found(params, jax.random.key(0))
    assert outcome.terms.keys() == {"cost"}
    draws = {}
    for shift in (0.0, 1.5):
        baselines = {n: cost * 0 + 0.5 + shift for n, cost in outcome.costs.items()}

        def near(params, key, data, baselines=baselines):
            return found(params, key, data, baselines)

        draws[shift] = draws_of(near, params, 16_000)
        assert_unbiased(draws[shift], exact, **demands(exact))
    assert draws[0.0].var(0).sum() < draws[1.5].var(0).sum()


# --- negative controls ---------------------------------------------------------------


def but(found, **changes):
    """The expectation with its plan changed."""
    return bbvi.Expectation(dataclasses.replace(found.plan, **changes))


@pytest.mark.slow
def test_control_that_forgets_a_cost_downstream():
    found, params, exact = made("chain")
    left = {t: f for t, f in found.plan.influence.items() if t != "third"}
    draws = draws_of(but(found, influence=left), params, 4_000)
    assert_biased(draws, exact, **demands(exact, 0.15))


def test_control_pathwise_through_a_jump():
    """What differentiating the draw would make of a cost that jumps."""
    found, params, exact = made("jump")
    choice = bbvi.Choice(Reparameterized(), "", {})
    wrong = but(found, choices={"x": choice})
    assert_biased(draws_of(wrong, params, 4_000), exact, **demands(exact))


def test_densities_of_nodes_are_no_costs():
    found = bbvi.expectation(both_sides)
    (only,) = (t for t, nodes in found.plan.influence.items() if "z" in nodes)
    assert only == "cost"


# --- what is chosen ------------------------------------------------------------------


def test_the_table_of_rewards():
    def program():
        logits = param("logits", jnp.zeros(2))
        action = sample("action", dist.Categorical(logits=logits))
        factor("reward", jnp.array([10.0, 0.0])[action])

    found = bbvi.expectation(program)
    params = found.init(jax.random.key(0))
    (_, _), slope = jax.value_and_grad(found, has_aux=True)(params, jax.random.key(1))
    keys = jax.random.split(jax.random.key(1), 2_000)
    values = jax.vmap(lambda key: found(params, key)[0])(keys)
    error = values.std() / 2_000**0.5
    assert abs(values.mean() - 5.0) < 5 * error, "the expectation, not a loss"
    np.testing.assert_allclose(slope["logits"], [2.5, -2.5], rtol=1e-6)
    assert found.choices["action"].estimator == Local


def test_choices_have_reasons_in_the_words_of_a_program():
    found = bbvi.expectation(chain)
    assert isinstance(found.choices["z1"].estimator, type(Score))
    assert found.choices["z2"].estimator == Local
    text = repr(found)
    assert text.startswith("Plan for tests.test_expectation.chain")
    assert "later draws of the program (z2) depend on its value" in text
    for word in ("guide", "entropy", "Marginalized"):
        assert word not in text + repr(bbvi.expectation(gaussian))


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n.startswith("jump")])
def test_a_node_along_which_something_jumps_is_scored(name):
    found, *_ = made(name)
    assert found.choices["x"].estimator == ScoreFunction()
    assert "jumps" in found.choices["x"].reason
    if "y" in found.choices:
        assert found.choices["y"].estimator == Reparameterized()


def test_costs_upstream_of_a_node_are_left_out():
    found = bbvi.expectation(chain)
    reached = {t for t, nodes in found.plan.influence.items() if "z2" in nodes}
    assert reached == {"third"}
    assert {t for t, nodes in found.plan.influence.items() if "z1" in nodes} == {
        "second",
        "third",
    }


def test_nodes_without_a_cost_need_no_estimator():
    def program():
        z = sample("z", dist.Poisson(param("rate", 1.0)))
        sample("idle", dist.Poisson(z + 1.0))
        factor("cost", z * 1.0)

    found = bbvi.expectation(program, num_particles=4)
    assert found.choices.keys() == {"z"}
    draws = draws_of(found, {"rate": jnp.array(1.3)}, 16_000)
    assert_unbiased(draws, np.array([1.3, 1.0]), detectable=np.array([0.3, 0.25]))


def test_a_program_without_nodes_has_the_direct_gradient():
    found = bbvi.expectation(lambda: factor("cost", param("a", 2.0) ** 2))
    slope, _ = jax.grad(found, has_aux=True)({"a": 3.0}, jax.random.key(0))
    assert slope["a"] == 6.0


def test_constrained_parameters_are_taken_unconstrained():
    def program(y):
        rate = param("rate", 2.0, constraint=dist.constraints.positive)
        x = sample("x", dist.Exponential(rate))
        factor("cost", x * y)

    found = bbvi.expectation(program, {"y": 3.0})
    params = found.init(jax.random.key(0))
    np.testing.assert_allclose(params["rate"], jnp.log(2.0), rtol=1e-6)
    draws = draws_of(found, params, 16_000, {"y": jnp.array(3.0)})
    assert_unbiased(draws, np.array([1.5, -1.5]), detectable=np.array([0.4, 0.4]))


@pytest.mark.parametrize("estimator", [Marginalized()])
def test_summing_inside_a_logarithm_is_refused(estimator):
    match = r"'z' cannot use Marginalized\(\).*LocalExpectation\(\)"
    with pytest.raises(PlanError, match=match):
        bbvi.expectation(both_sides, estimators={"z": estimator})


def test_an_unsound_override_is_refused():
    with pytest.raises(PlanError, match="'z'.*its draws jump as the parameters move"):
        bbvi.expectation(both_sides, estimators={"z": Reparameterized()})


def test_an_observed_site_is_no_cost():
    def program(y):
        x = sample("x", dist.Normal(param("m", 0.0), 1.0))
        sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(PlanError) as caught:
        bbvi.expectation(program, {"y": 1.0})
    assert "site 'y' is observed, and its density no cost" in str(caught.value)
    assert "it has no costs: write numpyro.factor" in str(caught.value)


def test_randomness_that_is_no_site_is_refused():
    def program():
        x = sample("x", dist.Normal(param("m", 0.0), 1.0))
        noise = jax.random.normal(numpyro.prng_key())
        factor("cost", x * noise)

    with pytest.raises(PlanError, match="cost 'cost' depends on random numbers"):
        bbvi.expectation(program)
    with pytest.raises(TypeError, match="program must be a function"):
        bbvi.expectation(3)
