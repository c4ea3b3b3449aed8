"""The search for a mode, and the members of a family around it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import bbvi
from bbvi import guides
from bbvi.guides.gaussian import laplace
from bbvi.optimize.mode import find_mode

SCALES = np.array([1.0, 30.0, 500.0, 0.02])
QUIET = {"progress": False}


def quadratic():
    """A Gaussian of four coordinates whose units differ by ten thousands."""
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(4, 4)) / SCALES
    precision = factor.T @ factor + np.diag(0.5 / SCALES**2)
    return jnp.asarray(precision), jnp.asarray(50.0 * SCALES * rng.normal(size=4))


def test_mode_of_a_gaussian_is_found_in_any_units():
    precision, centre = quadratic()

    def log_density(u):
        return -0.5 * (u - centre) @ precision @ (u - centre)

    found = jax.jit(lambda u: find_mode(log_density, u))(jnp.zeros(4))
    np.testing.assert_allclose((found.point - centre) / SCALES, 0.0, atol=1e-3)
    np.testing.assert_allclose(found.precision, precision, 1e-3)


def test_mode_is_found_where_the_density_bends_up():
    """Far out a Cauchy is convex; a plain Newton step would run away."""

    def log_density(u):
        return -jnp.sum(jnp.log1p((u - 3.0) ** 2))

    found = jax.jit(lambda u: find_mode(log_density, u))(jnp.array([0.0, 40.0]))
    np.testing.assert_allclose(found.point, 3.0, atol=0.05)


def test_flat_directions_keep_the_precision_positive():
    found = find_mode(lambda u: -((u[0] - u[1]) ** 2), jnp.array([3.0, 0.0]))
    assert np.linalg.eigvalsh(found.precision).min() > 0
    np.testing.assert_allclose(found.point[0], found.point[1], atol=0.05)


@pytest.mark.parametrize("guide", [guides.MeanField(), guides.FullRank()])
def test_the_best_member_for_a_gaussian(guide):
    """Full rank is the Gaussian; the mean field has the inverse of its precision."""

    def model():
        numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    plan = bbvi.plan(model, {}, guide=guide)
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(3, 3))
    precision, point = factor @ factor.T + np.eye(3), np.array([1.0, -2.0, 0.5])
    before = jax.device_get(plan.init(jax.random.key(0)))
    around = laplace(plan.analysis, ("a", "b"), point, precision)
    params = guide.start_from(plan.analysis, plan.drawn, before, around)
    found = guide.gaussian(plan.analysis, plan.drawn, params)
    np.testing.assert_allclose([found.loc["a"], *found.loc["b"]], point, 1e-6)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, before)
    if isinstance(guide, guides.FullRank):
        tril = dist.biject_to(constraints.lower_cholesky)(params["_joint.scale_tril"])
        np.testing.assert_allclose(tril @ tril.T, np.linalg.inv(precision), 1e-4)
    else:
        scale = np.exp([params["a.scale"], *params["b.scale"]])
        np.testing.assert_allclose(scale**-2, np.diagonal(precision), 1e-5)


def line(x, y):
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (2,)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(10_000.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x, sigma), obs=y)


@pytest.mark.parametrize(
    "guide",
    [pytest.param(guides.MeanField(), marks=pytest.mark.slow), guides.FullRank()],
)
def test_a_flat_prior_on_a_large_scale_is_no_obstacle(guide):
    """Least squares in ten thousands, far from where every start begins."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=400).astype(np.float32)
    y = (31_000.0 + 7_000.0 * x + 9_000.0 * rng.normal(size=400)).astype(np.float32)
    fit = bbvi.fit(line, {"x": x, "y": y}, guide=guide, **QUIET)
    design = np.stack([np.ones(400), x], 1).astype(float)
    exact, residual, *_ = np.linalg.lstsq(design, y.astype(float))
    sd = np.sqrt(np.diagonal(np.linalg.inv(design.T @ design)) * residual[0] / 398)
    drawn = fit.draws(4_000)["beta"]
    assert fit.status is bbvi.Status.CONVERGED
    assert fit.history.step[-1] <= 5_000
    np.testing.assert_allclose((drawn.mean(0) - exact) / sd, 0.0, atol=0.1)
    np.testing.assert_allclose(drawn.std(0) / sd, 1.0, atol=0.1)
