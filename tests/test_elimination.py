"""Finite sites summed out together: the sum, its gradient, and draws given the rest.

Each model is small enough to be summed by brute force over all values of all sites.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate, enum
from numpyro.contrib.funsor.infer_util import log_density as funsor_log_density
from numpyro.infer import TraceEnum_ELBO
from scipy import stats

import bbvi
from bbvi import choosing
from bbvi.estimators.elimination import eliminate
from bbvi.estimators.summation import draw_summed, model_terms
from bbvi.estimators.tables import factor_tables
from bbvi.planning import PlanError
from tests import cases
from tests.cases import f

sample, plate = numpyro.sample, numpyro.plate
Marginalized = bbvi.estimators.Marginalized()
MOVES = jnp.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.15, 0.05, 0.8]])
WEIGHTS = jnp.array([0.2, 0.5, 0.3])


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, its data, values of its continuous sites, and how it is summed."""

    model: Callable[..., Any]
    data: Mapping[str, Any]
    reason: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"mu": 0.4})

    @functools.cached_property
    def analysis(self):
        return bbvi.analyze(self.model, self.data)

    @functools.cached_property
    def grid(self):
        sites = self.analysis.latents.items()
        return {
            n: cases.table(list(s.values), *s.shape)
            for n, s in sites
            if s.values is not None
        }

    def log_joint(self, values):
        """Of all combinations of the finite sites' values."""

        def one(z):
            return cases.density(cases.run(self.model, self.data, {}, {**values, **z}))

        return jax.jit(jax.vmap(one))(cases.combinations(self.grid))


def prior():
    return sample("mu", dist.Normal(0.3, 1.1))


def pair(y):
    mu = prior()
    with plate("rows", 3):
        z = sample("z", dist.Bernoulli(0.3))
        logits = mu * jnp.array([[0.0, 0.0, 0.3], [0.0, 0.7, 1.0]])
        w = sample("w", dist.Categorical(logits=logits[z]))
        sample("y", dist.Normal(mu + z - 0.5 * w, 0.7), obs=y)


def shared(y):
    mu = prior()
    a = sample("a", dist.Bernoulli(0.35))
    b = sample("b", dist.Categorical(WEIGHTS))
    c = sample("c", dist.DiscreteUniform(1, 2))
    sample("y", dist.Normal(1.2 * a + 0.7 * b * c + mu, 0.8), obs=y)


def nested(y):
    mu = prior()
    g = sample("g", dist.Categorical(WEIGHTS))
    with plate("groups", 2, dim=-2):
        a = sample("a", dist.Bernoulli(logits=mu * g - 0.3))
        with plate("rows", 3, dim=-1):
            b = sample("b", dist.Bernoulli(jnp.where(a == 1, 0.8, 0.3)))
            sample("y", dist.Normal(a + 1.4 * b + mu * g, 0.9), obs=y)


def two_plates(y, x):
    """A global site above two plates of different sizes, one of them without sites."""
    mu = prior()
    g = sample("g", dist.Categorical(WEIGHTS))
    with plate("rows", 3):
        a = sample("a", dist.Bernoulli(logits=mu * g - 0.3))
        sample("y", dist.Normal(a * mu, 0.9), obs=y)
    with plate("columns", 2):
        sample("x", dist.Normal(mu - g, 1.3), obs=x)


def crossed(y):
    """Two plates that cross, but only one of them has a finite site."""
    mu = prior()
    with plate("rows", 2, dim=-2):
        a = sample("a", dist.Bernoulli(0.4))
        with plate("columns", 3, dim=-1):
            sample("y", dist.Normal(mu * a, 0.9), obs=y)
    with plate("rows", 2, dim=-2):
        sample("b", dist.Categorical(logits=jnp.stack([mu * a, 0 * a, 1 - a], -1)))


def tree(y):
    mu = prior()
    r = sample("r", dist.Categorical(WEIGHTS))
    a = sample("a", dist.Bernoulli(logits=mu * r - 0.5))
    # Nowhere 0, where the derivative of NumPyro's density is off by a half.
    b = sample("b", dist.Bernoulli(logits=0.5 - mu * r))
    logits = mu * jnp.array([[0.0, 0.0, 0.3], [0.0, 0.7, 1.0]])
    c = sample("c", dist.Categorical(logits=logits[a]))
    d = sample("d", dist.Bernoulli(logits=a - 0.5))
    for i, x in enumerate([a, b, c, d]):
        sample(f"y{i}", dist.Normal(x * mu + x, 0.8), obs=y[i])


def loop(y):
    mu, z = prior(), 0
    for t in range(len(y)):
        z = sample(f"z{t}", dist.Categorical(MOVES[z]))
        sample(f"y{t}", dist.Normal(mu * z, 0.8), obs=y[t])


def masked(y, seen):
    mu = prior()
    with plate("rows", 3):
        z = sample("z", dist.Bernoulli(0.3))
        w = sample("w", dist.Categorical(MOVES[z]))
        with handlers.mask(mask=seen):
            sample("y", dist.Normal(mu + z - 0.5 * w, 0.7), obs=y)


def partly_seen(y, seen):
    """`obs_mask`: what was not seen is a latent of its own."""
    mu = prior()
    with plate("rows", 3):
        z = sample("z", dist.Bernoulli(0.3))
        w = sample("w", dist.Categorical(MOVES[z]))
        sample("y", dist.Normal(mu + z - 0.5 * w, 0.7), obs=y, obs_mask=seen)


def chain(y):
    mu = prior()

    def step(z, y):
        z = sample("z", dist.Categorical(MOVES[z]))
        sample("y", dist.Normal(mu * z, 0.8), obs=y)
        return z, None

    scan(step, jnp.array(1), y)


def learned(y):
    """A hidden Markov model whose rows are latent."""
    mu = prior()
    with plate("states", 2):
        rows = sample("rows", dist.Dirichlet(jnp.array([2.0, 3.0])))

    def step(z, y):
        z = sample("z", dist.Categorical(rows[z]))
        sample("y", dist.Normal(mu * z, 0.8), obs=y)
        return z, None

    first = sample("first", dist.Categorical(jnp.array([0.4, 0.6])))
    scan(step, first, y)


def factorial(y):
    """Two chains that share observations, a regime over both, an outlier a step."""
    mu = prior()
    g = sample("g", dist.Bernoulli(0.3))

    def step(before, y):
        z, w = before
        z = sample("z", dist.Categorical(MOVES[z]))
        w = sample("w", dist.Bernoulli(logits=mu * w - 0.3 + g))
        odd = sample("odd", dist.Bernoulli(0.2))
        sample("y", dist.Normal(mu * z - w + odd, 0.8), obs=y)
        return (z, w), None

    scan(step, (jnp.array(1), jnp.array(0)), y)


def second_order(y):
    mu = prior()

    def step(before, y):
        first, second = before
        z = sample("z", dist.Bernoulli(logits=mu * first + 0.8 * second - 0.9))
        sample("y", dist.Normal(mu * z, 0.8), obs=y)
        return (second, z), None

    scan(step, (jnp.array(1), jnp.array(0)), y)


def many_chains(y):
    """A plate of sequences inside each step."""
    mu = prior()

    def step(z, y):
        with plate("series", 2):
            z = sample("z", dist.Categorical(MOVES[z]))
            sample("y", dist.Normal(mu * z, 0.8), obs=y)
        return z, None

    scan(step, jnp.array([1, 0]), y)


def partly_seen_chain(y, seen):
    mu = prior()

    def step(z, now):
        y, seen = now
        z = sample("z", dist.Categorical(MOVES[z]))
        with handlers.mask(mask=seen):
            sample("y", dist.Normal(mu * z, 0.8), obs=y)
        return z, None

    scan(step, jnp.array(1), (y, seen))


def vectorised(y):
    """A chain written as one array, with costs between neighbours."""
    mu = prior()
    with plate("steps", 4):
        z = sample("z", dist.Bernoulli(jnp.array([0.4, 0.5, 0.7, 0.6])))
        sample("y", dist.Normal(mu * z, 0.8), obs=y)
    numpyro.factor("smooth", jnp.where(z[1:] == z[:-1], 0.5, mu))


def ends(y):
    """Costs that reach over both ends of the chain."""
    mu = prior()
    with plate("steps", 3):
        z = sample("z", dist.Bernoulli(jnp.array([0.4, 0.5, 0.7])))
    padded = jnp.pad(mu * z, 1)
    sample("y", dist.Normal(padded[1:] - 0.7 * padded[:-1], 0.8), obs=y)


def turned_round(y):
    """A chain whose costs run backwards, beyond both its ends."""
    mu = prior()
    with plate("steps", 3):
        z = sample("z", dist.Bernoulli(jnp.array([0.4, 0.5, 0.7])))
    numpyro.factor("moves", jnp.log(MOVES)[z[:-1], z[1:]][::-1])
    padded = jnp.pad(mu * z, 1)[::-1]
    sample("y", dist.Normal(padded[1:] - 0.7 * padded[:-1], 0.8), obs=y)


def some_steps(y):
    """Observations of the last steps alone."""
    mu = prior()
    with plate("steps", 3):
        z = sample("z", dist.Bernoulli(jnp.array([0.4, 0.5, 0.7])))
        w = sample("w", dist.Categorical(MOVES[z]))
    sample("y", dist.Normal(mu * z[1:] - w[1:], 0.8), obs=y)


Y3, Y4 = f(0.3, 1.9, -0.4), f(0.3, 1.2, -0.4, 1.7)
Y23 = f(0.3, 1.9, -0.4, 2.2, 0.7, 1.0).reshape(2, 3)
SEEN = np.array([True, False, True])
MODELS = {
    "pair in a plate": Model(pair, {"y": Y3}, "tree of z and w along .*: 6 evalu"),
    "shared cost": Model(shared, {"y": f(1.6)[0]}, "group of a, b and c: 12 eval"),
    "nested plates": Model(nested, {"y": Y23}, "group of g, a and b along.*: 12 eval"),
    "two plates": Model(
        two_plates, {"y": Y3, "x": Y3[:2]}, "tree of g and a along their plates: 6 eval"
    ),
    "crossed plates": Model(crossed, {"y": Y23}, "tree of a and b along .*: 6 eval"),
    "tree": Model(tree, {"y": Y4}, "tree of r, a, b and 2 more: 6 evaluations"),
    "loop": Model(loop, {"y": Y4}, "chain of z0, z1, z2 and z3: 9 evaluations"),
    "masked data": Model(masked, {"y": Y3, "seen": SEEN}, "tree of z and w"),
    "partly seen data": Model(
        partly_seen,
        {"y": Y3, "seen": SEEN},
        "tree of z and w",
        {"mu": 0.4, "y_unobserved": f(0.1, -0.7, 0.5)},
    ),
}
STEPS = np.array([True, False, False, True])
SCANS = {
    "scan": Model(chain, {"y": Y4}, "chain of 4 steps with 3 states: 9 evaluations"),
    "learned rows": Model(
        learned,
        {"y": Y4},
        "chain of 4 steps with 2 states",
        {"mu": 0.4, "rows": f(0.3, 0.7, 0.8, 0.2).reshape(2, 2)},
    ),
    "factorial": Model(
        factorial, {"y": Y3}, r"chain of 3 steps with 3 x 2 x 2 states \(g, z, w and"
    ),
    "second order": Model(
        second_order, {"y": Y4}, "chain of 4 steps with 2 states: 8 evaluations"
    ),
    "many chains": Model(
        many_chains, {"y": Y23.T}, "chain of 3 steps with 3 states: 9 evaluations"
    ),
    "partly seen chain": Model(
        partly_seen_chain, {"y": Y4, "seen": STEPS}, "chain of 4 steps with 3 states"
    ),
    "vectorised": Model(
        vectorised, {"y": Y4}, "chain of 4 steps with 2 states: 4 evaluations"
    ),
    "ends": Model(
        ends, {"y": Y4}, "chain of 3 steps with 2 states: 4 evaluations", {"mu": 1.3}
    ),
    "turned round": Model(
        turned_round,
        {"y": Y4},
        "chain of 3 steps with 2 states: 4 evaluations",
        {"mu": 1.3},
    ),
    "some steps": Model(some_steps, {"y": Y3[1:]}, "tree of z and w along .*: 6 eval"),
}
QUICK = ("pair in a plate", "nested plates", "loop", "many chains", "ends")


def slowly(names, quick):
    """Names as parameters, all but some of them marked slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


every_model = pytest.mark.parametrize("name", [*MODELS, *SCANS])


def model_of(name):
    return {**MODELS, **SCANS}[name]


def pieces(case):
    """What `model_terms` and `factor_tables` are given."""
    analysis = case.analysis
    groups = eliminate(analysis, case.grid)
    kwargs = analysis.arguments.bind(analysis.arguments.arrays)
    return analysis, groups, kwargs, jax.tree.map(jnp.asarray, case.values)


def summed(case):
    """The log joint with all finite sites summed out, and its derivative."""
    analysis, groups, kwargs, values = pieces(case)

    @jax.jit
    @jax.value_and_grad
    def log_marginal(values):
        terms, _ = model_terms(analysis, groups, kwargs, jax.random.key(0), values)
        return sum(map(jnp.sum, terms.values()))

    return log_marginal(values)


def brute_force(case):
    def log_marginal(values):
        return jax.nn.logsumexp(case.log_joint(values))

    values = jax.tree.map(jnp.asarray, case.values)
    return jax.jit(jax.value_and_grad(log_marginal))(values)


def assert_same(found, exact):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5),
        found,
        exact,
    )


@pytest.mark.parametrize("name", slowly([*MODELS, *SCANS], QUICK))
def test_sum_and_its_gradient_are_those_of_brute_force(name):
    case = model_of(name)
    assert_same(summed(case), brute_force(case))


@every_model
def test_plan_sums_all_finite_sites_and_says_how(name):
    case = model_of(name)
    plan = bbvi.plan(case.model, case.data)
    assert set(plan.marginalized) == set(case.grid)
    for site in case.grid:
        assert plan.choices[site].estimator == Marginalized
        assert re.search(case.reason, plan.choices[site].reason)


def enumerated(case):
    """The model with its continuous sites fixed, marked as NumPyro wants it."""
    return config_enumerate(handlers.condition(case.model, case.values))


FUNSOR = ["pair in a plate", "nested plates", "tree", "loop", "scan"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNSOR)
def test_sum_is_that_of_funsor(name):
    case = model_of(name)
    exact, _ = funsor_log_density(enum(enumerated(case), -3), (), dict(case.data), {})
    np.testing.assert_allclose(summed(case)[0], exact, rtol=1e-5)


def trace_enum(case):
    loss = TraceEnum_ELBO()
    guide = lambda **_: None  # noqa: E731
    return -loss.loss(jax.random.key(0), {}, enumerated(case), guide, **case.data)


@pytest.mark.parametrize(
    "name", slowly(["pair in a plate", "tree", "loop"], ("pair in a plate",))
)
def test_sum_is_that_of_numpyro_outside_scan(name):
    case = MODELS[name]
    np.testing.assert_allclose(summed(case)[0], trace_enum(case), rtol=1e-5)


def test_sum_is_right_inside_scan_where_that_of_numpyro_is_not():
    case = SCANS["scan"]
    exact = brute_force(case)[0]
    np.testing.assert_allclose(summed(case)[0], exact, rtol=1e-5)
    assert abs(trace_enum(case) - exact) > 0.5


# --- draws ---------------------------------------------------------------------------


def frequencies(case, draws):
    """Counts of the joint values of all finite sites, and their exact probabilities."""
    rows = cases.combinations(case.grid)

    def flat(values):
        number = len(next(iter(values.values())))
        return np.concatenate([np.reshape(values[n], (number, -1)) for n in rows], 1)

    index = {tuple(row): i for i, row in enumerate(flat(rows).tolist())}
    found = [index[tuple(row)] for row in flat(draws).tolist()]
    probs = jax.nn.softmax(case.log_joint(jax.tree.map(jnp.asarray, case.values)))
    return np.bincount(found, minlength=len(index)), np.asarray(probs, float)


def p_value(counts, probs, fewest=5):
    """Of Pearson's chi-square test, values of small probability taken together."""
    expected = counts.sum() * probs / probs.sum()
    rare = expected < fewest
    seen, wanted = counts[~rare], expected[~rare]
    if expected[rare].sum() >= fewest:
        seen = np.append(seen, counts[rare].sum())
        wanted = np.append(wanted, expected[rare].sum())
    statistic = np.sum((seen - wanted) ** 2 / wanted)
    return stats.chi2.sf(statistic, len(wanted) - 1)


@pytest.mark.parametrize("name", slowly([*MODELS, *SCANS], ("ends",)))
def test_draws_are_from_the_joint_conditional(name):
    """One false alarm in a million; sites drawn each on its own would be found out."""
    case = model_of(name)
    analysis, groups, kwargs, values = pieces(case)

    @jax.jit
    @jax.vmap
    def draw(key):
        tables = factor_tables(analysis, groups, kwargs, jax.random.key(0), values)
        return draw_summed(analysis, groups, tables, key)

    drawn = jax.device_get(draw(jax.random.split(jax.random.key(1), 20_000)))
    for site, values in drawn.items():
        assert values.dtype == analysis.sites[site].dtype
        assert values.shape[1:] == analysis.sites[site].shape
    assert p_value(*frequencies(case, drawn)) > 1e-6
    rng = np.random.default_rng(0)
    apart = {n: rng.permuted(x, axis=0) for n, x in drawn.items()}
    assert p_value(*frequencies(case, apart)) < 1e-12


# --- what is not summed --------------------------------------------------------------


def not_chosen(model, data, site, **arguments):
    """Why a site is not summed out."""
    choice = bbvi.plan(model, data, **arguments).choices[site]
    assert choice.estimator != Marginalized
    return choice.rejected[Marginalized]


def bipartite(y):
    with plate("rows", 2, dim=-2):
        a = sample("a", dist.Bernoulli(0.4))
    with plate("columns", 3, dim=-1):
        b = sample("b", dist.Bernoulli(0.3))
    with plate("rows", 2, dim=-2), plate("columns", 3, dim=-1):
        sample("y", dist.Normal(a + 0.5 * b, 0.9), obs=y)


def test_rows_that_meet_all_columns():
    """One side is summed given the other; both sides together cannot be."""
    plan = bbvi.plan(bipartite, {"y": Y23})
    assert plan.marginalized == ("a",)
    reason = plan.choices["b"].rejected[Marginalized]
    assert (
        reason == "every element of a and b meets every element of others in a "
        "cost term"
    )
    both = {"a": Marginalized, "b": Marginalized}
    with pytest.raises(PlanError, match=r"'b'.*meets every element"):
        bbvi.plan(bipartite, {"y": Y23}, estimators=both)


def grid_model(y):
    z = sample("z", dist.Bernoulli(jnp.full((3, 4), 0.4)))
    sample("y", dist.Normal(z[1:, 1:] + 0.5 * z[:-1, :-1], 1.0), obs=y)


def test_a_grid():
    y = np.zeros((2, 3), np.float32)
    assert "neighbours along two axes" in not_chosen(grid_model, {"y": y}, "z")


def test_sites_of_different_lengths_along_a_chain():
    def model(y):
        z = sample("z", dist.Bernoulli(jnp.full(4, 0.4)))
        w = sample("w", dist.Bernoulli(jnp.full(3, 0.3)))
        sample("y", dist.Normal(z[1:] * w + z[:-1], 1.0), obs=y)

    assert "different lengths" in not_chosen(model, {"y": Y3}, "w")


def test_a_chain_beside_another_of_another_shape():
    """Many chains that all look at one: their steps cannot be passed one by one."""

    def model(y):
        def step(before, y):
            z, w = before
            z = sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.2)))
            with plate("series", 2):
                w = sample("w", dist.Categorical(MOVES[w + z]))
                sample("y", dist.Normal(1.0 * w, 0.8), obs=y)
            return (z, jnp.minimum(w, 1)), None

        scan(step, (jnp.array(0), jnp.array([1, 0])), y)

    assert "chains of different shapes" in not_chosen(model, {"y": Y23.T}, "w")


def test_scales_that_differ():
    """A global site over a minibatch; its rows are summed given it."""

    def model(y):
        g = sample("g", dist.Bernoulli(0.3))
        with plate("rows", 3, 2) as index:
            z = sample("z", dist.Bernoulli(jnp.where(g == 1, 0.7, 0.2)))
            w = sample("w", dist.Bernoulli(jnp.where(z == 1, 0.6, 0.1)))
            sample("y", dist.Normal(1.0 * z - w, 1.0), obs=y[index])

    plan = bbvi.plan(model, {"y": Y3})
    assert plan.marginalized == ("z", "w")
    assert "different scales" in plan.choices["g"].rejected[Marginalized]


def test_masked_sites_stay_in_q():
    def model(y, seen):
        with plate("rows", 3):
            z = sample("z", dist.Bernoulli(0.3))
            with handlers.mask(mask=seen):
                w = sample("w", dist.Categorical(MOVES[z]))
            sample("y", dist.Normal(1.0 * z - w, 1.0), obs=y)

    data = {"y": Y3, "seen": SEEN}
    assert bbvi.plan(model, data).marginalized == ("z",)
    assert "masked" in not_chosen(model, data, "w")


def many_values(y):
    z = sample("z", dist.Categorical(jnp.ones(40) / 40))
    w = sample("w", dist.Categorical(jnp.ones(30) / 30))
    sample("y", dist.Normal(1.0 * z - w, 1.0), obs=y)


def test_too_many_evaluations():
    plan = bbvi.plan(many_values, {"y": f(1.0)[0]})
    assert plan.marginalized == ("z",)
    reason = plan.choices["w"].rejected[Marginalized]
    assert reason == "1,200 evaluations with z and w, more than 1,024"
    both = {"z": Marginalized, "w": Marginalized}
    plan = bbvi.plan(many_values, {"y": f(1.0)[0]}, estimators=both)
    assert plan.marginalized == ("z", "w")
    assert "as asked; finite tree of z and w" in plan.choices["w"].reason


def test_too_large_a_table(monkeypatch):
    monkeypatch.setattr(choosing, "MAX_CELLS", 8)
    reason = not_chosen(loop, {"y": Y4}, "z1")
    assert reason == "a table of 9 numbers with z0 and z1, more than 8"


def test_too_long_a_memory():
    """Seven values that go on to matter make a message of 7^4 numbers a step."""

    def model(y):
        z = sample("z", dist.Categorical(jnp.ones((9, 7)) / 7))
        sample("y", dist.Normal(z[:-4] + 1.0 * z[1:-3] - z[4:], 1.0), obs=y)

    data = {"y": np.zeros(5, np.float32)}
    assert "16,807 evaluations, more than 1,024" in not_chosen(model, data, "z")


def test_overridden_sites_are_left_out():
    """What is left of the loop falls into groups of its own."""
    estimators = {"z1": bbvi.estimators.LocalExpectation()}
    plan = bbvi.plan(loop, {"y": Y4}, estimators=estimators)
    assert plan.marginalized == ("z0", "z2", "z3")
    assert [group.sites for group in plan.groups] == [("z0",), ("z2", "z3")]


# --- in a fit ------------------------------------------------------------------------


def test_impossible_moves_leave_the_gradient_finite():
    def model(y):
        p = sample("p", dist.Beta(2.0, 2.0))
        zero = jnp.zeros_like(p)
        rows = jnp.stack([jnp.stack([p, 1 - p]), jnp.stack([zero, zero + 1])])
        logits = jnp.log(jnp.where(rows > 0, rows, 1.0))
        logits = jnp.where(rows > 0, logits, -jnp.inf)

        def step(z, y):
            z = sample("z", dist.Categorical(logits=logits[z]))
            sample("y", dist.Normal(1.0 * z, 0.8), obs=y)
            return z, None

        scan(step, jnp.array(1), y)

    case = Model(model, {"y": Y4}, "", {"p": 0.3})
    value, slope = summed(case)
    exact, _ = brute_force(case)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert np.isfinite(slope["p"])


@pytest.mark.slow
def test_a_fit_draws_chains_and_bounds_the_evidence():
    """Everything is discrete: the bound is the evidence, each draw exact."""

    def model(y):
        def step(z, y):
            z = sample("z", dist.Categorical(MOVES[z]))
            sample("y", dist.Normal(0.9 * z, 0.8), obs=y)
            return z, None

        scan(step, jnp.array(1), y)

    case = Model(model, {"y": Y4}, "", {})
    fit = bbvi.fit(model, case.data, progress=False)
    exact = jax.nn.logsumexp(case.log_joint({}))
    np.testing.assert_allclose(fit.elbo.value, exact, rtol=1e-5)
    draws = {"z": fit.draws(20_000)["z"]}
    assert p_value(*frequencies(case, draws)) > 1e-6


def test_large_tables_take_fewer_particles():
    """A message over two chains of nine states is what a draw needs most."""

    def model(y):
        mu = prior()
        moves = jnp.ones((9, 9)) / 9

        def step(before, y):
            first = sample("z0", dist.Categorical(moves[before[0]]))
            second = sample("z1", dist.Categorical(moves[before[1]]))
            sample("y", dist.Normal(mu + first - second, 1.0), obs=y)
            return (first, second), None

        scan(step, (0, 0), y)

    data = {"y": np.zeros(40, np.float32)}
    plan = bbvi.plan(model, data)
    assert plan.marginalized == ("z0",)
    reason = plan.choices["z1"].rejected[Marginalized]
    assert reason == "6,561 evaluations with z0 and z1, more than 1,024"
    both = {"z0": Marginalized, "z1": Marginalized}
    plan = bbvi.plan(model, data, estimators=both)
    assert plan.num_elements == 40 * 9**3
    assert plan.num_particles == 1
