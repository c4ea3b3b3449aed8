"""Covariances: of draws, and by linear response, against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import bbvi
from bbvi import guides
from bbvi.covariance import linear_response, of_draws
from tests.cases import f, sample

KEY = jax.random.key(0)
QUIET = {"progress": False, "guide": guides.MeanField()}
X = np.stack([np.ones(6), [0.1, 0.9, 2.1, 2.9, 4.2, 5.0]], 1).astype(np.float32)
Y = {"y": f(0.3, 1.2, 1.9, 3.3, 3.8, 5.4)}


def line_model(y):
    """A Gaussian posterior of three correlated elements in two sites."""
    beta = sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    shift = sample("shift", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(X @ beta + shift, 0.7), obs=y)


def line_covariance():
    design = np.concatenate([X, np.ones((6, 1))], 1)
    return np.linalg.inv(design.T @ design / 0.49 + np.diag([0.25, 0.25, 1.0]))


def flat(covariance, sizes):
    """The blocks as one matrix."""
    rows = [
        np.concatenate([b.reshape(sizes[a], sizes[c]) for c, b in row.items()], 1)
        for a, row in covariance.items()
    ]
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def line_fit():
    return bbvi.fit(line_model, Y, **QUIET)


def test_linear_response_of_a_gaussian_posterior_is_exact(line_fit):
    found = line_fit.covariance("linear_response")
    assert found["beta"]["shift"].shape == (2,)
    assert found["beta"]["beta"].shape == (2, 2)
    exact = line_covariance()
    matrix = flat(found, {"beta": 2, "shift": 1})
    np.testing.assert_allclose(matrix, exact, rtol=0.01, atol=1e-3)


def test_control_mean_field_draws_are_too_narrow(line_fit):
    """What linear response corrects: variances far below those of the posterior."""
    drawn = flat(line_fit.covariance(), {"beta": 2, "shift": 1})
    assert np.all(np.diagonal(drawn) < 0.6 * np.diagonal(line_covariance()))


def test_covariance_of_draws_has_the_blocks_of_the_draws(line_fit):
    found = line_fit.covariance("draws", num_draws=500, seed=3)
    drawn = line_fit.draws(500, seed=3)
    matrix = np.cov(np.concatenate([drawn["beta"], drawn["shift"][:, None]], 1).T)
    np.testing.assert_allclose(
        flat(found, {"beta": 2, "shift": 1}), matrix, rtol=1e-4, atol=1e-6
    )


def test_draws_of_integers_have_no_covariance():
    drawn = {"z": np.arange(4), "x": np.arange(8.0).reshape(4, 2)}
    assert list(of_draws(drawn)) == ["x"]
    assert of_draws(drawn)["x"]["x"].shape == (2, 2)


def positive_model(y):
    """Unconstrained, the posterior of the rate is nearly Gaussian; a mixture summed."""
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        z = sample("z", dist.Bernoulli(0.3))
        sample("y", dist.Normal(rate + 2.0 * z, 0.5), obs=y)


def test_linear_response_is_of_constrained_values_with_sites_summed_out():
    y = f(*np.linspace(2.0, 3.5, 9), 4.3, 4.9)
    fit = bbvi.fit(positive_model, {"y": y}, **QUIET)
    grid = np.linspace(0.01, 8.0, 20_000)
    each = np.stack(
        [
            0.7 * np.exp(-2 * (y[:, None] - grid) ** 2),
            0.3 * np.exp(-2 * (y[:, None] - grid - 2) ** 2),
        ]
    )
    log_p = np.log(grid) - grid + np.log(each.sum(0)).sum(0)
    weights = np.exp(log_p - log_p.max())
    mean = np.average(grid, weights=weights)
    variance = np.average((grid - mean) ** 2, weights=weights)
    found = fit.covariance("linear_response")
    assert list(found) == ["rate"]
    np.testing.assert_allclose(found["rate"]["rate"], variance, rtol=0.1)


def zeros_of(shape):
    return np.zeros(shape.shape, shape.dtype)


def plain_model(y):
    a = sample("a", dist.Normal(0.0, 1.0))
    z = sample("z", dist.Poisson(2.0))
    sample("y", dist.Normal(a + z, 1.0), obs=y)


def test_linear_response_refuses_what_is_not_pathwise():
    plan = bbvi.plan(plain_model, {"y": 2.0}, guide=guides.MeanField())
    params = jax.eval_shape(plan.init, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"'z'.*ScoreFunction\(.*covariance\('draws'\)"
    ):
        linear_response(plan, jax.tree.map(zeros_of, params), {"y": 2.0}, KEY)


def test_linear_response_refuses_a_fit_that_has_not_converged(line_fit):
    fit = dataclasses.replace(line_fit, status=bbvi.Status.MAX_STEPS)
    with pytest.raises(ValueError, match="Not converged"):
        fit.covariance("linear_response")


def test_linear_response_of_a_tempered_posterior():
    tempered = handlers.scale(line_model, scale=0.5)
    fit = bbvi.fit(tempered, Y, **QUIET)
    found = flat(fit.covariance("linear_response"), {"beta": 2, "shift": 1})
    np.testing.assert_allclose(found, 2 * line_covariance(), rtol=0.01, atol=2e-3)


def test_draws_of_a_tempered_posterior():
    fit = bbvi.fit(handlers.scale(line_model, scale=0.5), Y, progress=False)
    assert fit.plan.guide == guides.FullRank()
    assert fit.verdict.level is bbvi.Level.TRUST
    found = flat(fit.covariance("draws"), {"beta": 2, "shift": 1})
    exact = 2 * line_covariance()
    deviations = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(np.sqrt(np.diag(found)), deviations, rtol=0.05)


def test_linear_response_refuses_other_families_and_masks(line_fit):
    full = bbvi.plan(line_model, Y, guide=guides.FullRank())
    start = jax.tree.map(zeros_of, jax.eval_shape(full.init, line_fit.key))
    with pytest.raises(ValueError, match=r"corrects guides.MeanField\(\).*FullRank"):
        linear_response(full, start, Y, KEY)

    masked = handlers.mask(line_model, mask=np.array(True))
    plan = bbvi.plan(masked, Y, guide=guides.MeanField())
    with pytest.raises(ValueError, match="'beta'.*masked"):
        linear_response(plan, line_fit.params, Y, KEY)


def test_linear_response_refuses_where_there_is_no_maximum(line_fit):
    def saddle(y):
        beta = sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        sample("shift", dist.Normal(0.0, 1.0))
        numpyro.factor("up", jnp.sum(beta**2))

    plan = bbvi.plan(saddle, Y, guide=guides.MeanField())
    with pytest.raises(ValueError, match="not positive definite"):
        linear_response(plan, line_fit.params, Y, KEY)


def test_unknown_method_is_refused(line_fit):
    with pytest.raises(ValueError, match="'draws' or 'linear_response'; found 'lr'"):
        line_fit.covariance("lr")
