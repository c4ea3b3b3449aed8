"""The Gaussian families: exact gradients, densities, steps, refusals, moves.

The oracles build the whole covariance of q by hand from its parameters. Where the log
joint is quadratic the bound is closed form; elsewhere it is Gauss-Hermite quadrature,
rows given globals.
"""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import util

import bbvi
from bbvi import guides
from bbvi.diagnostics import Estimate
from bbvi.drawing import draw, whole
from bbvi.families import default_guide, richer_guide
from bbvi.fitting import _is_better
from bbvi.guides.base import prior_centre
from bbvi.guides.rows import Block
from tests import cases
from tests.cases import f, hermite, sample
from tests.statistics import assert_biased, assert_unbiased
from tests.test_gradients import demands, draws_of, exact_of, params_of, plan_of

TRIL = dist.biject_to(dist.constraints.lower_cholesky)
HALF = 0.5 * (1 + math.log(2 * math.pi))

# --- rows of a plate, a log joint that is not quadratic ------------------------------


def rows_model(y, batch=None):
    mu = sample("mu", dist.Normal(0.4, 1.1))
    tau = sample("tau", dist.Gamma(3.0, 2.0))
    with numpyro.plate("rows", 3, batch) as index:
        a = sample("a", dist.Normal(mu, tau))
        b = sample("b", dist.Gamma(2.5, 1.5))
        sample("y", dist.Normal(jnp.tanh(a) + 0.3 * a, 0.4 + b), obs=y[index])


ROWS = {"y": f(0.3, 1.9, -0.4)}
ROWS_PARAMS = {
    "_joint.loc": f(0.5, 0.2),
    "_joint.scale_tril": f(0.3, -0.9, -1.2),
    "_rows.rows.loc": f(0.2, -0.3, 1.1, 0.4, -0.6, 0.1).reshape(3, 2),
    "_rows.rows.slope": 0.3
    * f(1, -1, 0.5, 2, 0.3, 0, -0.7, 1.5, 1, 0.2, 0.8, -0.4).reshape(3, 2, 2),
    "_rows.rows.scale_tril": f(
        0.2, -0.8, -1.0, -0.3, -1.1, -0.6, 0.4, -0.5, -0.9
    ).reshape(3, 3),
}


def rows_bound(params):
    nodes, weights = hermite(2, 14)
    tril = TRIL(params["_joint.scale_tril"])
    u = params["_joint.loc"] + nodes @ tril.T
    mu, log_tau = u.T
    tau = jnp.exp(log_tau)
    total = weights @ (
        dist.Normal(0.4, 1.1).log_prob(mu)
        + dist.Gamma(3.0, 2.0).log_prob(tau)
        + log_tau
    )
    total += jnp.log(jnp.diagonal(tril)).sum() + 2 * HALF
    for r, y in enumerate(ROWS["y"]):
        own = TRIL(params["_rows.rows.scale_tril"][r])
        mean = params["_rows.rows.loc"][r] + nodes @ params["_rows.rows.slope"][r].T
        v = mean[:, None, :] + (nodes @ own.T)[None]
        a, log_b = v[..., 0], v[..., 1]
        b = jnp.exp(log_b)
        log_p = (
            dist.Normal(mu[:, None], tau[:, None]).log_prob(a)
            + dist.Gamma(2.5, 1.5).log_prob(b)
            + log_b
            + dist.Normal(jnp.tanh(a) + 0.3 * a, 0.4 + b).log_prob(y)
        )
        total += weights @ log_p @ weights
        total += jnp.log(jnp.diagonal(own)).sum() + 2 * HALF
    return total


def rows_case(batch):
    return cases.Case(
        rows_model,
        {**ROWS, "batch": batch},
        None,
        ROWS_PARAMS,
        family=guides.Structured(),
        exact=rows_bound,
        samples=40_000,
    )


# --- quadratic log joints: any layout of plates, a closed form -----------------------


def quadratic_bound(model, data, sites, moments):
    """Bound of a Gaussian q on a quadratic log joint over real sites.

    `moments(params)` gives mean, `(d,)`, and root of the covariance, `(d, d)`.
    """

    def log_p(flat):
        values, start = {}, 0
        for name, shape in sites.items():
            size = math.prod(shape)
            values[name] = flat[start : start + size].reshape(shape)
            start += size
        given = {name: jnp.asarray(x) for name, x in data.items()}
        return util.log_density(model, (), given, values)[0]

    def bound(params):
        mean, root = moments(params)
        spread = 0.5 * jnp.trace(jax.hessian(log_p)(mean) @ root @ root.T)
        entropy = jnp.linalg.slogdet(root)[1] + len(mean) * HALF
        return log_p(mean) + spread + entropy

    return bound


def cells_model(y, groups=None):
    """Two nested plates, a vector in the inner, a global vector; minibatch outside."""
    w = sample("w", dist.Normal(0.3, 1.2).expand([2]).to_event(1))
    with numpyro.plate("groups", 3, groups, dim=-2) as index:
        a = sample("a", dist.Normal(w[0], 0.8))
        with numpyro.plate("cells", 2, dim=-1):
            b = sample(
                "b", dist.Normal(a[..., None], jnp.array([0.7, 1.3])).to_event(1)
            )
            mean = b[..., 0] - 0.6 * b[..., 1] * 1.0 + w[1]
            sample("y", dist.Normal(mean, 0.9), obs=y[index])


CELLS = {"y": f(0.3, 1.9, -0.4, 2.2, 0.7, 1.0).reshape(3, 2)}
_SITES = {"w": (2,), "a": (3, 1), "b": (3, 2, 2)}


def _wave(*shape, shift=0.0):
    """Numbers without symmetry."""
    size = math.prod(shape)
    return (
        (0.6 * np.sin(1.7 * np.arange(size) + shift)).astype(np.float32).reshape(shape)
    )


CELLS_PARAMS = {
    "_joint.loc": f(0.5, -0.3),
    "_joint.scale_tril": f(0.4, -0.9, -0.5),
    "_rows.groups.loc": _wave(3, 1),
    "_rows.groups.slope": _wave(3, 1, 2, shift=1.0),
    "_rows.groups.scale_tril": _wave(3, 1, shift=2.0) - 0.5,
    "_rows.groups.cells.loc": _wave(3, 2, 2, shift=3.0),
    "_rows.groups.cells.slope": _wave(3, 2, 2, 2, shift=4.0),
    "_rows.groups.cells.scale_tril": _wave(3, 2, 3, shift=5.0) - 0.5,
}


def cells_moments(params):
    p = {n.removeprefix("_rows.groups."): x for n, x in params.items()}
    root = jnp.zeros((17, 17)).at[:2, :2].set(TRIL(p["_joint.scale_tril"]))
    for g in range(3):
        root = root.at[2 + g, :2].set(p["slope"][g, 0])
        root = root.at[2 + g, 2 + g].set(jnp.exp(p["scale_tril"][g, 0]))
        for c in range(2):
            at = 5 + 4 * g + 2 * c
            root = root.at[at : at + 2, :2].set(p["cells.slope"][g, c])
            own = TRIL(p["cells.scale_tril"][g, c])
            root = root.at[at : at + 2, at : at + 2].set(own)
    parts = (p["_joint.loc"], p["loc"].ravel(), p["cells.loc"].ravel())
    return jnp.concatenate(parts), root


def cells_case(groups):
    return cases.Case(
        cells_model,
        {**CELLS, "groups": groups},
        None,
        CELLS_PARAMS,
        family=guides.Structured(),
        exact=quadratic_bound(cells_model, CELLS, _SITES, cells_moments),
        samples=20_000,
    )


LOW_RANK_PARAMS = {
    "_joint.loc": _wave(17),
    "_joint.scale": _wave(17, shift=1.0) - 0.5,
    "_joint.factor": _wave(17, 3, shift=2.0),
}


def low_rank_moments(params):
    diagonal = jnp.diag(jnp.exp(2 * params["_joint.scale"]))
    factor = params["_joint.factor"]
    return params["_joint.loc"], jnp.linalg.cholesky(diagonal + factor @ factor.T)


LOW_RANK = cases.Case(
    cells_model,
    CELLS,
    None,
    LOW_RANK_PARAMS,
    family=guides.LowRank(3),
    exact=quadratic_bound(cells_model, CELLS, _SITES, low_rank_moments),
    samples=20_000,
)

# --- discrete sites in a minibatch beside a regressed row ----------------------------


def discrete_model(y, batch=None):
    mu = sample("mu", dist.Normal(0.5, 1.0))
    with numpyro.plate("rows", 4, batch) as index:
        a = sample("a", dist.Normal(mu, 0.9))
        z = sample("z", dist.Bernoulli(0.35))
        sample("y", dist.Normal(a + 2.0 * z, 0.8), obs=y[index])


_DISCRETE = {"y": f(0.3, 2.9, -0.4, 1.6)}
_LOGITS = f(0.4, -0.6, 1.1, 0.2)
DISCRETE_PARAMS = {
    "_joint.loc": f(0.4),
    "_joint.scale_tril": f(-0.7),
    "_rows.rows.loc": _wave(4, 1),
    "_rows.rows.slope": _wave(4, 1, 1, shift=1.0),
    "_rows.rows.scale_tril": _wave(4, 1, shift=2.0) - 0.5,
    "z.logits": _LOGITS,
}


def discrete_bound(params, summed):
    """Rows are independent given `mu`: 2 dimensions, and 2 values of z."""
    nodes, weights = hermite(1, 20)
    eps = nodes[:, 0]
    mu = params["_joint.loc"][0] + eps * jnp.exp(params["_joint.scale_tril"][0])
    total = weights @ dist.Normal(0.5, 1.0).log_prob(mu)
    total += params["_joint.scale_tril"][0] + HALF
    for r, y in enumerate(_DISCRETE["y"]):
        mean = (
            params["_rows.rows.loc"][r, 0] + eps * params["_rows.rows.slope"][r, 0, 0]
        )
        sd = jnp.exp(params["_rows.rows.scale_tril"][r, 0])
        a = mean[:, None] + sd * eps[None]
        joint = jnp.stack(
            [
                jnp.log(p) + dist.Normal(a + 2.0 * z, 0.8).log_prob(y)
                for z, p in ((0, 0.65), (1, 0.35))
            ]
        )
        if summed:
            cost = jax.nn.logsumexp(joint, 0)
        else:
            log_q = jax.nn.log_sigmoid(jnp.array([-1, 1]) * params["z.logits"][r])
            cost = jnp.tensordot(jnp.exp(log_q), joint - log_q[:, None, None], 1)
        cost += dist.Normal(mu[:, None], 0.9).log_prob(a)
        total += weights @ cost @ weights + jnp.log(sd) + HALF
    return total


def discrete_case(batch, estimator):
    summed = estimator is cases.Marginalized
    return cases.Case(
        discrete_model,
        {**_DISCRETE, "batch": batch},
        None,
        DISCRETE_PARAMS,
        family=guides.Structured(),
        estimators={"z": estimator},
        summed=("z",) if summed else (),
        exact=lambda params: discrete_bound(params, summed),
        samples=40_000,
    )


def landing(case, *sites):
    return case.but(estimators=dict.fromkeys(sites, cases.Landing))


GRADIENTS = {
    "low rank": LOW_RANK,
    "low rank, sticking the landing": landing(LOW_RANK, "w", "a", "b"),
    "cells": cells_case(None),
    "cells, groups of 1": cells_case(1).but(samples=60_000),
    "cells, groups of 2": cells_case(2),
    "rows": rows_case(None),
    "rows of 1": rows_case(1),
    "rows of 2": rows_case(2),
    "rows of 2, sticking the landing": landing(rows_case(2), "mu", "tau", "a", "b"),
    "discrete rows of 1, score": discrete_case(1, cases.Score),
    "discrete rows of 2, score": discrete_case(2, cases.Score),
    "discrete rows of 2, local": discrete_case(2, cases.Local),
    "discrete rows of 2, summed out": discrete_case(2, cases.Marginalized),
}


def slowly(*names):
    return pytest.param(*names, marks=pytest.mark.slow)


SLOW = {
    "rows of 2, sticking the landing",
    "discrete rows of 2, summed out",
    "low rank, sticking the landing",
    "cells",
    "cells, groups of 1",
    "rows",
    "rows of 1",
    "discrete rows of 1, score",
    "discrete rows of 2, local",
    "cells, groups of 2",
}


@pytest.mark.parametrize(
    "name",
    [slowly(n) if n in SLOW else n for n in GRADIENTS],
)
def test_gradient_is_unbiased(name):
    case = GRADIENTS[name]
    plan = plan_of(case)
    assert set(plan.marginalized) == set(case.summed)
    assert set(params_of(case)) == set(plan.parameters)
    exact = exact_of(case)
    assert_unbiased(draws_of(case, plan), exact, **demands(case, exact))


@pytest.mark.parametrize("name", ["rows of 2", slowly("cells, groups of 2")])
def test_control_that_forgets_the_scale_of_the_rows(name, monkeypatch):
    monkeypatch.setattr(Block, "scale", 1.0)
    case = GRADIENTS[name].but(detectable=0.1)
    exact = exact_of(case)
    assert_biased(draws_of(case, plan_of(case)), exact, **demands(case, exact))


# --- densities, steps, refusals -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["low rank", "cells, groups of 2", "rows of 2"])
def test_draws_carry_the_density_of_the_whole_gaussian(name):
    """`log_q` on the full data is that of the constrained Gaussian, by hand."""
    case = GRADIENTS[name].but(estimators={}, num_particles=1)
    plan = plan_of(case)
    made = draw(
        whole(plan),
        params_of(case),
        jax.random.key(3),
        plan.analysis.arguments.arrays,
        values=True,
    )
    moments = low_rank_moments if name == "low rank" else cells_moments
    if name == "rows of 2":
        moments, sites = rows_moments, {"mu": (), "tau": (), "a": (3,), "b": (3,)}
    else:
        sites = _SITES
    mean, root = moments(params_of(case))
    positive = {"tau", "b"} if name == "rows of 2" else set()
    log_jacobian, flat = 0.0, []
    for site in sites:
        value = jnp.ravel(made.values[site])
        if site in positive:
            value = jnp.log(value)
            log_jacobian += value.sum()
        flat.append(value)
    joint = dist.MultivariateNormal(mean, covariance_matrix=root @ root.T)
    exact = joint.log_prob(jnp.concatenate(flat)) - log_jacobian
    np.testing.assert_allclose(made.log_q, exact, rtol=1e-4)


def rows_moments(params):
    """Sites one after the other: mu, tau, a (3), b (3)."""
    root = jnp.zeros((8, 8)).at[:2, :2].set(TRIL(params["_joint.scale_tril"]))
    for r in range(3):
        at = np.array([2 + r, 5 + r])
        root = root.at[at, :2].set(params["_rows.rows.slope"][r])
        root = root.at[np.ix_(at, at)].set(TRIL(params["_rows.rows.scale_tril"][r]))
    loc = params["_rows.rows.loc"]
    return jnp.concatenate([params["_joint.loc"], loc[:, 0], loc[:, 1]]), root


MOMENTS = {
    "low rank": low_rank_moments,
    "cells, groups of 2": cells_moments,
    "rows of 2": rows_moments,
}


@pytest.mark.parametrize(
    "name", ["low rank", "rows of 2", slowly("cells, groups of 2")]
)
def test_gaussian_of_a_family_has_its_moments(name):
    case = GRADIENTS[name]
    plan = plan_of(case)
    names = tuple(plan.analysis.latents)
    found = case.family.gaussian(plan.analysis, names, params_of(case))
    mean, root = MOMENTS[name](params_of(case))
    covariance = root @ root.T
    flat = [np.concatenate([x.ravel() for x in part.values()]) for part in found[:2]]
    np.testing.assert_allclose(flat[0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(flat[1] ** 2, np.diagonal(covariance), rtol=1e-4)
    np.testing.assert_allclose(found.covariance(), covariance, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["low rank", *map(slowly, ("cells, groups of 2", "rows of 2"))]
)
def test_full_rank_starts_where_another_family_ended(name):
    case = GRADIENTS[name].but(data=rows_case(None).data if "rows" in name else CELLS)
    plan = plan_of(case)
    names = tuple(plan.analysis.latents)
    full = bbvi.plan(case.model, case.data, guide=guides.FullRank())
    found = case.family.gaussian(plan.analysis, names, params_of(case))
    start = full.init(jax.random.key(0))
    moved = full.guide.start_from(full.analysis, names, start, found)
    mean, root = MOMENTS[name](params_of(case))
    tril = TRIL(jnp.asarray(moved["_joint.scale_tril"]))
    np.testing.assert_allclose(moved["_joint.loc"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tril @ tril.T, root @ root.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "family", [slowly(guides.Structured()), guides.LowRank(3), guides.FullRank()]
)
def test_richer_families_start_from_mean_field(family):
    names, data = ("w", "a", "b"), CELLS
    poor = bbvi.plan(cells_model, data, guide=guides.MeanField())
    params = poor.init(jax.random.key(1))
    params = {n: x + 0.1 if n.endswith("scale") else x for n, x in params.items()}
    rich = bbvi.plan(cells_model, data, guide=family)
    found = poor.guide.gaussian(poor.analysis, names, params)
    start = rich.init(jax.random.key(0))
    moved = family.start_from(rich.analysis, names, start, found)
    assert {n: np.shape(x) for n, x in moved.items()} == {
        n: np.shape(x) for n, x in start.items()
    }
    again = family.gaussian(rich.analysis, names, moved)
    for site in names:
        np.testing.assert_allclose(again.loc[site], found.loc[site], rtol=1e-5)
        np.testing.assert_allclose(again.scale[site], found.scale[site], rtol=0.1)


@pytest.mark.parametrize(
    "name", ["rows of 2", *map(slowly, ("low rank", "cells, groups of 2"))]
)
def test_steps_are_in_units_of_q(name):
    """A step of the locations alone moves the mean by a root of the covariance."""
    case = GRADIENTS[name]
    params, family = params_of(case), case.family
    zeros = jax.tree.map(jnp.zeros_like, params)
    for key, value in family.retract(params, zeros).items():
        np.testing.assert_allclose(value, params[key], rtol=1e-5, atol=1e-6)
    mean, root = MOMENTS[name](params)
    locations = [n for n in params if n.endswith(".loc")]

    def moved(steps):
        after = family.retract(params, {**zeros, **steps})
        return MOMENTS[name](after)[0]

    slope = jax.jacobian(moved)({n: zeros[n] for n in locations})
    columns = [slope[n].reshape(len(mean), -1) for n in locations]
    turn = jnp.concatenate(columns, 1)
    np.testing.assert_allclose(turn @ turn.T, root @ root.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MOMENTS)
def test_units_are_standard_deviations(name):
    case = GRADIENTS[name]
    params = params_of(case)
    units = case.family.units(params)
    assert {n: np.shape(x) for n, x in units.items()} == {
        n: np.shape(x) for n, x in params.items()
    }
    _, root = MOMENTS[name](params)
    sd = np.sqrt(np.diagonal(root @ root.T))
    locations = np.concatenate([units[n].ravel() for n in params if n.endswith(".loc")])
    np.testing.assert_allclose(np.sort(locations), np.sort(sd), rtol=1e-4)
    shifted = {**params, "_joint.loc": params["_joint.loc"] + 2 * units["_joint.loc"]}
    assert case.family.distance(params, shifted) == pytest.approx(2, rel=1e-3)


def masked_rows_model(y):
    mu = sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3), handlers.mask(mask=np.array([True, False, True])):
        a = sample("a", dist.Normal(mu, 1.0))
        sample("y", dist.Normal(a, 1.0), obs=y)


def wide_model(y):
    mu = sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 3):
        a = sample("a", dist.Normal(mu, 1.0).expand([3, 300]).to_event(1))
        sample("y", dist.Normal(a.sum(-1), 1.0), obs=y)


REFUSALS = {
    "mask": (masked_rows_model, guides.Structured(), r"'a'.*masked.*MeanField\(\)"),
    "wide rows": (wide_model, guides.Structured(), r"'rows'.*300 elements each"),
    "low rank mask": (
        masked_rows_model,
        guides.LowRank(2),
        r"'a'.*masked.*LowRank\(rank=2\)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_family_cannot_carry_is_refused(name):
    model, family, words = REFUSALS[name]
    with pytest.raises(bbvi.PlanError, match=words):
        bbvi.plan(model, ROWS, guide=family)


@pytest.mark.parametrize("site", ["mu", "a"])
def test_a_site_of_a_row_cannot_be_scored(site):
    joint = "_joint" if site == "mu" else "_rows.rows"
    with pytest.raises(bbvi.PlanError, match=f"drawn together.*'{joint}'"):
        bbvi.plan(
            rows_model, ROWS, guide=guides.Structured(), estimators={site: cases.Score}
        )


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "10"])
def test_rank_must_be_a_positive_int(rank):
    with pytest.raises(ValueError, match="rank must be an int of at least 1; found"):
        guides.LowRank(rank)


def test_rows_cost_no_more_than_linearly():
    """No parameter and no array of the guide grows with the square of the rows."""

    def model(y):
        mu = sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            a = sample("a", dist.Normal(mu, 1.0))
            sample("y", dist.Normal(a, 1.0), obs=y)

    plan = bbvi.plan(
        model, {"y": np.zeros(5_000, np.float32)}, guide=guides.Structured()
    )
    params = jax.eval_shape(plan.init, jax.random.key(0))
    assert sum(math.prod(x.shape) for x in params.values()) == 2 + 3 * 5_000
    loss = jax.make_jaxpr(
        lambda p, k: bbvi.loss(plan)(p, k, plan.analysis.arguments.arrays)[0]
    )
    closed = loss(params, jax.random.key(0))
    sizes = [math.prod(v.aval.shape) for e in closed.jaxpr.eqns for v in e.outvars]
    assert max(sizes) <= 4 * 5_000


# --- the default, and the way up ------------------------------------------------------


def plated_model(y, batch=None):
    mu = sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), batch) as index:
        a = sample("a", dist.Normal(mu, 1.0))
        b = sample("b", dist.Normal(mu, 1.0))
        sample("y", dist.Normal(a + b, 1.0), obs=y[index])


SHORT, LONG = f(*range(5)), f(*range(120))


def vector_model(dim):
    def model():
        sample("x", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    return model


# {id: (model, data, default, words of the reason, the families after it)}
DEFAULTS = {
    "few dimensions": (vector_model(7), None, guides.FullRank(), "7 dimensions", []),
    "one dimension": (vector_model(1), None, guides.MeanField(), "one dimension", []),
    "two hundred": (vector_model(200), None, guides.FullRank(), "few enough", []),
    "some hundreds": (
        vector_model(201),
        None,
        guides.MeanField(),
        "201 dimensions, more than 200",
        [guides.LowRank(), guides.FullRank()],
    ),
    "many": (vector_model(5_000), None, guides.MeanField(), "5000", [guides.LowRank()]),
    "many rows": (
        plated_model,
        {"y": LONG},
        guides.Structured(),
        "241 dimensions, of which 1 global; 120 rows of 'rows'",
        [guides.FullRank(), guides.NonCentered(("a", "b"))],
    ),
    "few rows": (
        plated_model,
        {"y": SHORT},
        guides.FullRank(),
        "11 dimensions",
        [guides.NonCentered(("a", "b"))],
    ),
    "a minibatch": (
        plated_model,
        {"y": SHORT, "batch": 2},
        guides.Structured(),
        "5 rows of 'rows', each regressed",
        [],
    ),
    "a mask": (
        masked_rows_model,
        ROWS,
        guides.MeanField(),
        "not all sites fit into one Gaussian",
        [],
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_family_and_those_after_it(name):
    model, data, family, words, after = DEFAULTS[name]
    analysis = bbvi.analyze(model, data)
    names = tuple(analysis.latents)
    found, reason = default_guide(analysis, names)
    assert found == family
    assert words in reason
    for richer in (*after, None):
        found = richer_guide(analysis, names, found)
        assert found == richer


def test_families_of_ones_own_are_not_left():
    analysis = bbvi.analyze(rows_model, ROWS)
    written = guides.Custom(rows_model)
    assert richer_guide(analysis, tuple(analysis.latents), written) is None


FACTOR = (0.4 * np.sin(1.7 * np.arange(420) + 0.3)).astype(np.float32).reshape(210, 2)


def correlated_model():
    centre, own = np.linspace(-1, 2, 210), np.full(210, 0.3)
    joint = dist.LowRankMultivariateNormal(centre, FACTOR, own)
    sample("x", joint)


@pytest.fixture(scope="module")
def moved():
    return bbvi.fit(correlated_model, progress=False, num_starts=2)


def test_a_fit_moves_to_a_richer_family_when_k_hat_asks_for_it(moved):
    """The evidence is 1, and mean field misses it by 3.0 nats."""
    assert moved.plan.guide == guides.LowRank()
    assert moved.plan.guide_reason.startswith("MeanField() could not carry")
    assert moved.status is bbvi.Status.CONVERGED
    assert moved.elbo.value > -0.1
    assert moved.khat < 0.5
    poor, rich = moved.history.path
    assert poor.startswith("MeanField(): ELBO -3.0")
    assert rich.startswith("LowRank(rank=10): ELBO -0.0")
    assert np.all(np.diff(moved.history.step) > 0)
    assert {len(x) for x in moved.history.snr.values()} == {len(moved.history.step)}


def test_path_survives_saving(moved, tmp_path):
    moved.save(tmp_path / "fit.npz", num_draws=5)
    assert bbvi.load(tmp_path / "fit.npz").history.path == moved.history.path


def test_a_family_that_was_asked_for_is_kept_and_the_next_is_named():
    family = guides.MeanField()
    fit = bbvi.fit(correlated_model, guide=family, progress=False, num_starts=2)
    assert fit.plan.guide == family
    assert len(fit.history.path) == 1
    assert "Try guides.LowRank(rank=10)" in str(fit.verdict)


BETTER = {
    "higher": (-10.0, 0.9, -12.0, 0.8, True),
    "lower": (-12.0, 0.6, -10.0, 0.8, False),
    "as good, fits better": (-10.05, 0.6, -10.0, 0.8, True),
    "as good, fits worse": (-9.95, 0.9, -10.0, 0.8, False),
    "not finite": (np.nan, 0.2, -10.0, 0.8, False),
}


@pytest.mark.parametrize("case", BETTER)
def test_a_richer_family_is_kept_if_it_is_better(case):
    """Its bound decides; between bounds that are as good, k-hat does."""
    bound, khat, bound_before, khat_before, expected = BETTER[case]

    def found(bound, khat):
        return SimpleNamespace(elbo=Estimate(bound, 0.01), khat=khat)

    assert _is_better(found(bound, khat), found(bound_before, khat_before)) is expected


def scaled_effects():
    """Effects whose scale is not known: a funnel."""
    scale = sample("scale", dist.HalfCauchy(1.0))
    with numpyro.plate("rows", 5):
        sample("effect", dist.Normal(0.0, scale))


def small_counts():
    """Two Poisson counts with rates of their own, which a Gaussian carries."""
    with numpyro.plate("rows", 2):
        rate = sample("rate", dist.Gamma(2.0, 1.0))
        sample("y", dist.Poisson(rate), obs=np.array([30, 60]))


@pytest.fixture
def averaged(monkeypatch):
    """Families whose searches were averaged, one after the other."""
    families, settle = [], bbvi.driving.Deterministic._settle

    def noting(self, *at):
        families.append(type(self.plan.guide))
        return settle(self, *at)

    monkeypatch.setattr("bbvi.driving.Deterministic._settle", noting)
    return families


def stated_error(fit):
    return float(re.search(r"Monte-Carlo error (\S+) ", fit.history.note)[1])


def test_a_family_on_the_way_is_not_averaged(averaged):
    """One search shows that k-hat is too large; the answer is averaged."""
    fit = bbvi.fit(scaled_effects, progress=False)
    assert averaged == [guides.NonCentered]
    assert len(fit.history.path) == 2
    assert stated_error(fit) <= 0.1


def test_a_family_that_stays_the_answer_is_averaged_after_all(averaged, monkeypatch):
    monkeypatch.setattr("bbvi.fitting._is_better", lambda *_: False)
    kept = bbvi.fit(scaled_effects, progress=False)
    assert averaged == [guides.NonCentered, guides.FullRank]
    assert [line.split(":")[0] for line in kept.history.path] == [
        "FullRank()",
        "NonCentered(sites=('effect',))",
    ]
    alone = bbvi.fit(scaled_effects, guide=guides.FullRank(), progress=False)
    error = stated_error(kept) + stated_error(alone)
    assert error <= 0.2
    distance = kept.plan.guide.distance(kept.params, alone.params)
    assert distance < 5 * error
    assert kept.verdict.level is alone.verdict.level is bbvi.Level.DO_NOT_TRUST
    assert np.all(np.diff(kept.history.step) > 0)


def test_a_first_look_that_was_too_strict_costs_nothing_but_time(averaged, monkeypatch):
    """All draws trust what the first ones did not."""
    plain = bbvi.fit(small_counts, progress=False)
    looks = []
    monkeypatch.setattr("bbvi.watching.Candidate.is_poor", lambda *_: True)
    monkeypatch.setattr(
        "bbvi.fitting.richer_guide",
        lambda *_: looks.append(1) or guides.Funnel(("rate",)),
    )
    fit = bbvi.fit(small_counts, progress=False)
    assert looks
    assert averaged == [guides.FullRank, guides.FullRank]
    assert len(fit.history.path) == 1
    error = stated_error(fit) + stated_error(plain)
    assert fit.plan.guide.distance(plain.params, fit.params) < 5 * error
    assert fit.verdict.level is plain.verdict.level


def test_a_verdict_after_averaging_still_asks_for_a_richer_family(monkeypatch):
    """Near its limit k-hat may be below it before, and above it after."""

    def model():
        s = numpyro.sample("s", dist.LogNormal(0.3, 0.4))
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (3,)))
        numpyro.factor("prior", dist.Normal(0.0, s).log_prob(x).sum())

    real, levels = bbvi.driving.judge, []

    def judged(*args, **kwargs):
        levels.append(bbvi.Level.REWEIGHT if not levels else bbvi.Level.DO_NOT_TRUST)
        made = real(*args, **kwargs)
        return replace(made, level=levels[-1]) if len(levels) < 3 else made

    monkeypatch.setattr("bbvi.watching.Candidate.is_poor", lambda *_: True)
    monkeypatch.setattr("bbvi.driving.judge", judged)
    fit = bbvi.fit(model, progress=False)
    assert [line.split("(")[0] for line in fit.history.path] == ["FullRank", "Funnel"]
    assert fit.verdict.level is bbvi.Level.TRUST
    assert len(levels) == 3
    assert np.all(np.diff(fit.history.step) > 0)


def test_too_little_is_left_to_move(stochastic):
    fit = bbvi.fit(correlated_model, progress=False, num_starts=2, max_steps=5_000)
    assert fit.plan.guide == guides.MeanField()


# --- states of a scan ---------------------------------------------------------------

STATES = {"y": f(0.3, -1.2, 0.5, 2.0)}


def states_model(y, start=dist.Normal(1.0, 1.0)):
    def step(x, y):
        x = sample("x", dist.Normal(0.8 * x, 1.0))
        sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, sample("start", start), y)


def test_prior_centre_of_the_states_of_a_scan():
    data = {**STATES, "start": dist.LogNormal(0.0, 1.0)}
    analysis = bbvi.analyze(states_model, data)
    given = analysis.arguments.bind(STATES)
    centre = prior_centre(analysis, ("start", "x"), given)
    np.testing.assert_allclose(centre["start"], 0.5, rtol=1e-5)
    states = np.exp(0.5) * 0.8 ** np.arange(1, 5)
    np.testing.assert_allclose(centre["x"], states, rtol=1e-5)


@pytest.mark.slow
def test_a_full_rank_gaussian_over_the_states_of_a_scan_is_exact():
    fit = bbvi.fit(states_model, STATES, progress=False, num_starts=2)
    assert fit.plan.guide == guides.FullRank()
    moves = np.eye(5) - np.diag(np.full(4, 0.8), -1)
    root = np.linalg.inv(moves)
    mean, covariance = (root @ [1.0, 0, 0, 0, 0])[1:], (root @ root.T)[1:, 1:]
    seen = dist.MultivariateNormal(mean, covariance + 0.25 * np.eye(4))
    assert fit.elbo.value == pytest.approx(float(seen.log_prob(STATES["y"])), abs=0.01)
