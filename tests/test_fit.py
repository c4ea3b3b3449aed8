"""`fit`: the same answer again, nothing compiled twice, and right where it is known."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from scipy import stats
from scipy.special import betaln, gammaln, logsumexp

import bbvi
from bbvi import Status, estimators, guides
from bbvi.compiling import wait_for_compilers
from bbvi.diagnostics import psis
from bbvi.optimize.progress import Progress
from bbvi.optimize.stopping import Plateaus
from tests.compiles import count_compiles

QUIET = {"progress": False}


class Recorder(Progress):
    """Notes what it is told, and may end the fit."""

    def __init__(self, after=None, error=KeyboardInterrupt):
        self.after, self.error = after, error
        self.total, self.updates, self.message = None, [], None

    def start(self, total_steps):
        self.total = total_steps

    def update(self, step, elbo, learning_rate):
        self.updates.append((step, elbo, learning_rate))
        if len(self.updates) == self.after:
            raise self.error

    def close(self, message):
        self.message = message


def normal_model(x, y=None):
    """Conjugate: a slope and an intercept of known noise."""
    b = numpyro.sample("b", dist.Normal(0.3, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(b[0] + b[1] * x, 0.7), obs=y)


def normal_data(n=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 1.3, size=n)
    return {"x": x, "y": 1.5 - 0.8 * x + 0.7 * rng.normal(size=n)}


def normal_answer(x, y):
    """Mean, covariance and log evidence in closed form."""
    design = np.stack([np.ones_like(x), x], 1)
    covariance = np.linalg.inv(np.eye(2) / 4 + design.T @ design / 0.49)
    mean = covariance @ (0.3 / 4 + design.T @ y / 0.49)
    total = design @ design.T * 4 + 0.49 * np.eye(len(x))
    prior = design @ np.array([0.3, 0.3])
    return mean, covariance, stats.multivariate_normal(prior, total).logpdf(y)


def same(first, second):
    """Equal bit for bit, as pytrees."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def is_finite(fit):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(fit.params))


@pytest.fixture(scope="module")
def normal_fit():
    return bbvi.fit(normal_model, normal_data(), seed=3, **QUIET)


# Reproducible.


@pytest.mark.parametrize("progress", [False, True, Recorder()])
def test_same_seed_gives_the_same_fit_whatever_is_shown(normal_fit, progress):
    again = bbvi.fit(normal_model, normal_data(), seed=3, progress=progress)
    assert same(again.params, normal_fit.params)
    assert same(again.history.elbo, normal_fit.history.elbo)
    assert again.elbo == normal_fit.elbo
    assert same(again.draws(30), normal_fit.draws(30))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey, np.int64])
def test_int_seed_is_the_key_of_that_seed(normal_fit, make):
    again = bbvi.fit(normal_model, normal_data(), seed=make(3), **QUIET)
    assert same(again.params, normal_fit.params)


def test_another_seed_gives_another_fit(normal_fit):
    other = bbvi.fit(normal_model, normal_data(), seed=4, **QUIET)
    assert not same(other.params, normal_fit.params)


def test_progress_is_told_what_history_holds(normal_fit):
    shown = Recorder()
    bbvi.fit(normal_model, normal_data(), seed=3, progress=shown)
    history = normal_fit.history
    rows = zip(history.step, history.elbo, history.learning_rate, strict=True)
    np.testing.assert_array_equal(shown.updates, list(rows))
    assert shown.message == str(normal_fit.status) == str(Status.CONVERGED)
    assert shown.total >= history.step[-1]


# Compiled once.


def define_model(offset):
    """A model made anew by every call, with a constant of its own."""
    offset = jnp.asarray(offset)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(mu + offset, 1.0), obs=y)

    return model


def test_second_fit_at_the_same_shapes_compiles_nothing(normal_fit):
    normal_fit.draws(10)
    with count_compiles() as count:
        other = bbvi.fit(normal_model, normal_data(seed=1), seed=8, **QUIET)
        other.draws(10)
    assert count.compiles == 0, count.compiled
    mean, _, _ = normal_answer(**normal_data(seed=1))
    np.testing.assert_allclose(other.draws()["b"].mean(0), mean, atol=0.1)


@pytest.mark.parametrize("num_starts", [1, 2])
def test_draws_of_a_small_model_need_no_program_of_their_own(num_starts):
    """The fit has compiled it: the same one judges candidates."""

    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(0.0, scale), obs=y)

    y = np.array([1.0, -2.0])
    fit = bbvi.fit(model, {"y": y}, num_starts=num_starts, **QUIET)
    with count_compiles() as count:
        draws = fit.draws(10)
    assert (count.traces, count.compiles) == (0, 0)
    assert np.array_equal(draws["scale"], fit.draws(20)["scale"][:10])


def test_a_key_of_another_generator_is_a_seed_too(normal_fit):
    key = jax.random.key(3, impl="rbg")
    with count_compiles() as count:
        fits = [bbvi.fit(normal_model, normal_data(), seed=key, **QUIET) for _ in "ab"]
    assert count.compiles == 0, count.compiled
    assert same(fits[0].params, fits[1].params)
    assert not same(fits[0].params, normal_fit.params)
    assert fits[0].status is Status.CONVERGED


def test_a_model_defined_anew_compiles_nothing_but_its_constants_count():
    y = np.array([2.0, 3.5, 1.0])
    first = bbvi.fit(define_model([0.0, 0.0, 0.0]), {"y": y}, **QUIET)
    anew = define_model([0.0, 0.0, 0.0])
    with count_compiles() as count:
        again = bbvi.fit(anew, {"y": y}, **QUIET)
    assert count.compiles == 0, count.compiled
    assert same(again.params, first.params)
    moved = bbvi.fit(define_model([1.0, 3.0, 2.0]), {"y": y}, **QUIET)
    precision = 3 + 1 / 25
    for fit, total in ((first, 6.5), (moved, 0.5)):
        draws = fit.draws(4_000)["mu"]
        error = draws.mean() - total / precision
        assert abs(error) < 5 * draws.std() / len(draws) ** 0.5 + 0.02


OFFSET = np.zeros(3)


def test_a_global_array_that_changed_changes_the_answer(monkeypatch):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(mu + OFFSET, 1.0), obs=y)

    y = np.array([2.0, 3.5, 1.0])
    before = bbvi.fit(model, {"y": y}, **QUIET).draws()["mu"].mean()
    monkeypatch.setitem(globals(), "OFFSET", np.array([1.0, 3.0, 2.0]))
    after = bbvi.fit(model, {"y": y}, **QUIET).draws()["mu"].mean()
    assert before - after == pytest.approx(2.0, abs=0.2)


def test_other_shapes_compile_again(normal_fit):
    with count_compiles() as count:
        bbvi.fit(normal_model, normal_data(n=5), **QUIET)
    assert count.compiles > 0


# How it ends.


LOW_RANK = guides.LowRank(2)
"""A family that has no deterministic phase."""


@pytest.mark.parametrize(("guide", "max_steps"), [(None, 3), (LOW_RANK, 200)])
def test_steps_run_out_as_not_converged(guide, max_steps):
    options = {"guide": guide, "max_steps": max_steps, **QUIET}
    fit = bbvi.fit(normal_model, normal_data(), seed=3, **options)
    assert fit.status is Status.MAX_STEPS
    assert fit.history.step[-1] == max_steps
    assert fit.verdict.level is bbvi.Level.DO_NOT_TRUST
    assert is_finite(fit)
    assert "max_steps" in str(fit.status)


@pytest.mark.parametrize("guide", [None, LOW_RANK])
@pytest.mark.parametrize("max_steps", [1, 2, 4])
def test_fewer_steps_than_a_chunk(guide, max_steps):
    options = {"guide": guide, "max_steps": max_steps, **QUIET}
    fit = bbvi.fit(normal_model, normal_data(), **options)
    assert fit.status is Status.MAX_STEPS
    assert fit.history.step[-1] == max_steps
    assert is_finite(fit)
    assert np.isfinite(fit.elbo.value)


def test_never_more_steps_than_allowed():
    options = {"guide": LOW_RANK, "max_steps": 250, **QUIET}
    fit = bbvi.fit(normal_model, normal_data(), **options)
    assert 230 <= fit.history.step[-1] <= 250


def test_seconds_run_out_as_not_converged(normal_fit):
    fit = bbvi.fit(normal_model, normal_data(), seed=3, max_seconds=1e-6, **QUIET)
    assert fit.status is Status.MAX_SECONDS
    assert "max_seconds" in str(fit.status)
    assert is_finite(fit)
    assert np.isfinite(fit.elbo.value)


@pytest.mark.parametrize("guide", [None, LOW_RANK])
def test_interrupted_fit_is_the_fit_so_far(guide):
    shown = Recorder(after=2)
    given = normal_model, normal_data()
    fit = bbvi.fit(*given, seed=3, guide=guide, progress=shown)
    whole = bbvi.fit(*given, seed=3, guide=guide, **QUIET)
    assert fit.status is Status.INTERRUPTED
    assert shown.message == str(Status.INTERRUPTED)
    assert len(fit.history.step) == 2
    assert is_finite(fit)
    assert same(fit.history.elbo, whole.history.elbo[:2])
    assert fit.draws(10)["b"].shape == (10, 2)


def test_error_of_the_progress_ends_the_fit_and_closes_it():
    shown = Recorder(after=1, error=RuntimeError("the disk is full"))
    with pytest.raises(RuntimeError, match="the disk is full"):
        bbvi.fit(normal_model, normal_data(), seed=3, progress=shown)
    assert shown.message is not None


def cliff_model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(mu, 0.1), obs=y)
    numpyro.factor("cliff", jnp.where(mu > 3.0, jnp.nan, 0.0))


def test_density_that_becomes_nan_ends_with_that_status():
    fit = bbvi.fit(cliff_model, {"y": 5.0}, **QUIET)
    assert fit.status is Status.NOT_FINITE
    assert fit.verdict.level is bbvi.Level.DO_NOT_TRUST
    assert is_finite(fit)
    assert np.isfinite(fit.history.elbo).all()


@pytest.mark.parametrize(
    ("hole", "is_wide", "said"),
    [
        (np.nan, False, "'hole' is not a number at .*%.*type numpyro.enable_x64"),
        (np.nan, True, "'hole' is not a number at .*%.*Cholesky factors"),
        (-np.inf, False, "'hole' is infinite at .*%.*zero density"),
    ],
)
def test_verdict_names_a_hole_in_the_density(hole, is_wide, said):
    def model():
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.factor("hole", jnp.where(jnp.abs(mu) > 2.5, hole, 0.0))

    with jax.enable_x64(is_wide):
        fit = bbvi.fit(model, guide=guides.MeanField(), max_steps=300, **QUIET)
    assert fit.verdict.level is bbvi.Level.DO_NOT_TRUST
    assert re.search(said, str(fit.verdict))
    assert is_finite(fit)


def test_no_finite_start_names_the_site():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("speed", dist.Normal(jnp.log(-jnp.exp(mu)), 1.0), obs=y)

    with pytest.raises(ValueError, match=r"model has no start.*site 'speed' \(Normal"):
        bbvi.fit(model, {"y": 1.0}, **QUIET)


# Refused before anything compiles.

WRONG = {
    "seed float": ({"seed": 1.0}, TypeError, "seed must be an int or one JAX key.*1.0"),
    "seed str": ({"seed": "1"}, TypeError, "seed must be an int.*str '1'"),
    "seed bool": ({"seed": True}, TypeError, "seed must be an int.*bool True"),
    "seed None": ({"seed": None}, TypeError, "seed must be an int.*NoneType"),
    "seed array": ({"seed": np.arange(3)}, TypeError, "seed must be an int"),
    "max_steps zero": ({"max_steps": 0}, ValueError, "max_steps.*at least 1; found 0"),
    "max_steps float": ({"max_steps": 10.0}, TypeError, "max_steps.*int; found 10.0"),
    "max_steps bool": ({"max_steps": True}, TypeError, "max_steps.*found True"),
    "num_starts zero": ({"num_starts": 0}, ValueError, "num_starts.*found 0"),
    "num_starts str": ({"num_starts": "8"}, TypeError, "num_starts.*found '8'"),
    "seconds negative": (
        {"max_seconds": -1},
        ValueError,
        "max_seconds must be positive; found -1",
    ),
    "seconds zero": ({"max_seconds": 0}, ValueError, "max_seconds.*found 0"),
    "seconds nan": ({"max_seconds": float("nan")}, ValueError, "max_seconds.*nan"),
    "optimizer str": ({"optimizer": "adam"}, TypeError, "optimizer.*optax.*found str"),
    "optimizer uncalled": ({"optimizer": optax.adam}, TypeError, r"optimizer.*optax"),
    "progress": ({"progress": 1}, TypeError, "progress must be a bool or a Progress"),
    "guide": (
        {"guide": 3},
        ValueError,
        r"guide must be a family.*MeanField.*found int",
    ),
    "guide class": (
        {"guide": guides.FullRank},
        ValueError,
        r"guide is the class FullRank: write FullRank\(\)",
    ),
    "particles zero": ({"num_particles": 0}, ValueError, "num_particles.*found 0"),
    "particles float": ({"num_particles": 1.5}, ValueError, "num_particles.*found 1.5"),
    "estimator": (
        {"estimators": {"b": "score"}},
        ValueError,
        "estimator of site 'b' must be one of bbvi.estimators.*found 'score'",
    ),
    "estimators list": (
        {"estimators": [1]},
        ValueError,
        r"estimators must map sites to estimators, such as \{'b': .*; found \[1\]",
    ),
    "estimators alone": (
        {"estimators": estimators.ScoreFunction()},
        ValueError,
        r"estimators must map sites to estimators.*found ScoreFunction\(\)",
    ),
    "seed too long": ({"seed": 2**70}, ValueError, "seed must fit into 64 bits"),
    "estimator site": (
        {"estimators": {"c": estimators.ScoreFunction()}},
        ValueError,
        "estimators names 'c', which is no latent site.* b",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_argument_is_refused_before_anything_compiles(case):
    arguments, error, message = WRONG[case]
    data = normal_data(n=6)
    with (
        count_compiles() as count,
        pytest.raises(error, match=f"(?s){message}"),
    ):
        bbvi.fit(normal_model, data, **{**QUIET, **arguments})
    assert count.compiles == 0


def test_arguments_are_looked_at_before_a_jump_is_settled():
    """Which compiles the density; here it jumps where the sign of mu changes."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.where(mu > 0.3, 1.0, -1.0), 1.0), obs=y)

    with count_compiles() as count, pytest.raises(ValueError, match="names 'nu'"):
        bbvi.fit(model, {"y": 0.3}, estimators={"nu": estimators.ScoreFunction()})
    assert count.compiles == 0
    with count_compiles() as count:
        assert set(bbvi.analyze(model, {"y": 0.3}).jumps) == {"mu"}
    assert count.compiles == 1


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_several_keys_are_no_seed(make):
    keys = jax.random.split(make(0))
    with pytest.raises(TypeError, match="seed must be an int or one JAX key"):
        bbvi.fit(normal_model, normal_data(), seed=keys, **QUIET)


def test_seconds_as_text_are_refused():
    with pytest.raises(TypeError, match="max_seconds must be.*found '1'"):
        bbvi.fit(normal_model, normal_data(), max_seconds="1", **QUIET)
    with pytest.raises(TypeError, match="max_seconds must be.*found True"):
        bbvi.fit(normal_model, normal_data(), max_seconds=True, **QUIET)


def test_no_data_names_what_is_missing():
    with pytest.raises(TypeError, match="argument 'x' is missing"):
        bbvi.fit(normal_model, **QUIET)


# Right where the answer is known.


def assert_moments(draws, mean, sd, *, location=0.05, spread=0.05):
    """Within what is claimed of the fit, in exact sds, and five Monte-Carlo errors."""
    draws = np.asarray(draws, float)
    n = len(draws)
    noise = 5 / n**0.5
    assert np.all(np.abs(draws.mean(0) - mean) / sd < location + noise)
    assert np.all(np.abs(draws.std(0) / sd - 1) < spread + noise / 2**0.5)


def assert_bound(fit, log_evidence, *, gap=0.02):
    """Below the evidence up to Monte-Carlo error, and no more than ``gap`` below."""
    slack = 4 * fit.elbo.mcse + 1e-5 * abs(log_evidence)
    assert fit.elbo.value < log_evidence + slack
    assert fit.elbo.value > log_evidence - gap - slack


def test_normal_regression_is_exact(normal_fit):
    mean, covariance, log_evidence = normal_answer(**normal_data())
    draws = normal_fit.draws(4_000)["b"]
    assert_moments(draws, mean, np.sqrt(np.diag(covariance)))
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    found = np.corrcoef(draws.T)[0, 1]
    assert found == pytest.approx(correlation, abs=0.1)
    assert_bound(normal_fit, log_evidence)
    assert normal_fit.status is Status.CONVERGED
    assert normal_fit.verdict.level is bbvi.Level.TRUST


def test_mean_field_of_a_correlated_normal_is_the_known_one():
    """Its sds are those of the conditionals, and its gap is known too."""
    fit = bbvi.fit(normal_model, normal_data(), guide=guides.MeanField(), **QUIET)
    mean, covariance, log_evidence = normal_answer(**normal_data())
    precision = np.linalg.inv(covariance)
    assert_moments(fit.draws(4_000)["b"], mean, np.diag(precision) ** -0.5)
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert_bound(fit, log_evidence - gap)


def beta_model(y):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def test_beta_bernoulli_by_closed_form():
    y = np.array([1] * 11 + [0] * 4)
    fit = bbvi.fit(beta_model, {"y": y}, **QUIET)
    answer = stats.beta(13, 7)
    draws = fit.draws(4_000, reweighted=fit.verdict.level is bbvi.Level.REWEIGHT)
    assert_moments(draws["p"], answer.mean(), answer.std())
    assert_bound(fit, betaln(13, 7) - betaln(2, 3))


def mixed_model(y):
    """A coin chooses between two means; the scale is latent too."""
    z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    mu = numpyro.sample("mu", dist.Normal(0.5, 1.0))
    shift = jnp.array([-1.0, 0.4, 1.7])[z]
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + shift, 0.9), obs=y)


MIXED = {"y": np.array([0.9, 2.1, 0.4, 1.6])}


def mixed_answer(y):
    """Probabilities of z, moments of mu, log evidence: three conjugate models."""
    n, variance = len(y), 0.81
    log_joint, means, variances = [], [], []
    for weight, shift in zip([0.2, 0.5, 0.3], [-1.0, 0.4, 1.7], strict=True):
        total = np.eye(n) * variance + 1.0
        log_joint.append(
            np.log(weight)
            + stats.multivariate_normal(np.full(n, 0.5 + shift), total).logpdf(y)
        )
        precision = 1 + n / variance
        means.append((0.5 + np.sum(y - shift) / variance) / precision)
        variances.append(1 / precision)
    log_evidence = logsumexp(log_joint)
    probs = np.exp(np.array(log_joint) - log_evidence)
    mean = probs @ means
    sd = np.sqrt(probs @ (np.array(variances) + np.square(means)) - mean**2)
    return probs, mean, sd, log_evidence


def test_mixed_discrete_and_continuous_by_enumeration():
    fit = bbvi.fit(mixed_model, MIXED, **QUIET)
    probs, mean, sd, log_evidence = mixed_answer(**MIXED)
    # q of mu is one Normal, the exact marginal a mixture of three.
    draws = fit.draws(8_000, reweighted=fit.verdict.level is bbvi.Level.REWEIGHT)
    assert_moments(draws["mu"], mean, sd, location=0.1, spread=0.1)
    found = np.bincount(draws["z"], minlength=3) / 8_000
    np.testing.assert_allclose(found, probs, atol=0.03)
    assert_bound(fit, log_evidence, gap=0.2)


def count_model(y):
    """Its posterior is wider than a Poisson, as negative binomials are."""
    z = numpyro.sample("z", dist.NegativeBinomial2(4.0, 1.5))
    numpyro.sample("y", dist.Normal(1.0 * z, 4.0), obs=y)


def poisson_model(y):
    """Its posterior is narrower than any Poisson."""
    z = numpyro.sample("z", dist.Poisson(3.0))
    numpyro.sample("y", dist.Normal(1.0 * z, 1.2), obs=y)


def summed(log_prior, sd, y):
    """Mean, sd and log evidence of a count seen with Normal noise."""
    values = np.arange(200)
    log_joint = log_prior(values) + stats.norm(values, sd).logpdf(y)
    probs = np.exp(log_joint - logsumexp(log_joint))
    mean = probs @ values
    return mean, np.sqrt(probs @ values**2 - mean**2), logsumexp(log_joint)


@pytest.mark.slow
def test_countable_latent_by_summation():
    fit = bbvi.fit(count_model, {"y": 9.0}, **QUIET)
    assert isinstance(fit.plan.choices["z"].estimator, estimators.ScoreFunction)
    prior = stats.nbinom(1.5, 1.5 / 5.5)
    mean, sd, log_evidence = summed(prior.logpmf, 4.0, 9.0)
    draws = fit.draws(8_000, reweighted=True)["z"]
    assert draws.dtype == np.int32
    assert_moments(draws, mean, sd, location=0.1, spread=0.1)
    assert_bound(fit, log_evidence, gap=0.15)


@pytest.mark.slow
def test_countable_latent_narrower_than_its_family():
    """The best negative binomial is the Poisson, its limit."""
    fit = bbvi.fit(poisson_model, {"y": 5.2}, **QUIET)
    mean, sd, log_evidence = summed(stats.poisson(3.0).logpmf, 1.2, 5.2)
    assert_bound(fit, log_evidence, gap=1.0)
    draws = fit.draws(8_000, reweighted=True)["z"]
    assert_moments(draws, mean, sd, location=0.1, spread=0.1)
    assert fit.status is Status.CONVERGED


def subsampled_model(x, y, size=None):
    b = numpyro.sample("b", dist.Normal(0.3, 2.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=size):
        x = numpyro.subsample(x, event_dim=0)
        y = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(b[0] + b[1] * x, 0.7), obs=y)


def test_minibatches_give_the_answer_of_the_whole():
    data = normal_data(n=40)
    fit = bbvi.fit(subsampled_model, {**data, "size": 8}, **QUIET)
    mean, covariance, log_evidence = normal_answer(**data)
    sd = np.sqrt(np.diag(covariance))
    assert_moments(fit.draws(4_000)["b"], mean, sd, location=0.15, spread=0.15)
    # Evaluated on the full data; NumPyro's own k-hat of such a model is 36.8.
    assert_bound(fit, log_evidence, gap=0.05)
    assert fit.khat < 0.7


def test_parameters_of_the_model_reach_the_largest_evidence():
    def model(y):
        scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        loc = numpyro.param("loc", 0.0)
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Normal(loc, scale))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y)

    y = np.array([2.0, 4.5, 3.0, 5.5, 1.0])
    fit = bbvi.fit(model, {"y": y}, **QUIET)
    # Marginally y ~ Normal(loc, sqrt(scale^2 + 0.25)).
    assert fit.params["loc"] == pytest.approx(y.mean(), abs=0.05)
    best = np.sqrt(y.var() - 0.25)
    assert np.exp(fit.params["scale"]) == pytest.approx(best, rel=0.03)
    assert_bound(fit, stats.norm(y.mean(), y.std()).logpdf(y).sum())


def discrete_model(y):
    """Every latent is summed out: nothing is left to optimise."""
    z = numpyro.sample("z", dist.Categorical(jnp.array([0.1, 0.6, 0.3])))
    numpyro.sample("y", dist.Poisson(jnp.array([1.0, 4.0, 9.0])[z]), obs=y)


def test_everything_discrete_is_exact():
    fit = bbvi.fit(discrete_model, {"y": 6}, **QUIET)
    assert fit.params == {}
    rates, prior = np.array([1.0, 4.0, 9.0]), np.array([0.1, 0.6, 0.3])
    log_joint = np.log(prior) + 6 * np.log(rates) - rates - gammaln(7)
    assert fit.elbo.value == pytest.approx(logsumexp(log_joint), rel=1e-6)
    assert fit.elbo.mcse == 0
    assert fit.status is Status.CONVERGED
    assert fit.verdict.level is bbvi.Level.TRUST
    found = np.bincount(fit.draws(8_000)["z"], minlength=3)
    expected = 8_000 * np.exp(log_joint - logsumexp(log_joint))
    assert stats.chisquare(found, expected).pvalue > 1e-6


# Options.


def test_what_was_not_seen_is_imputed_and_what_was_seen_is_no_second_mode():
    """Elements that a mask hides have no gradient: starts leave them where they are."""
    seen = np.array([1, 0, 1, 1, 1, 1, 1], bool)
    y = np.array([1.0, 0.0, 2.5, 1.5, 0.5, 2.0, 3.0], np.float32)

    def model(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("rows", 7):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=seen)

    fit = bbvi.fit(model, {"y": y, "seen": seen}, **QUIET)
    assert fit.verdict.level is bbvi.Level.REWEIGHT, fit.verdict
    draws = fit.draws(4_000, reweighted=True)
    precision = 1 / 4 + 6
    assert_moments(draws["mu"], 10.5 / precision, precision**-0.5)
    assert_moments(draws["y"][:, 1], 10.5 / precision, (1 + 1 / precision) ** 0.5)
    np.testing.assert_allclose(draws["y"][:, seen], np.tile(y[seen], (4_000, 1)))


def test_own_optimizer_keeps_its_learning_rate():
    fit = bbvi.fit(normal_model, normal_data(), optimizer=optax.adam(0.03), **QUIET)
    mean, covariance, _ = normal_answer(**normal_data())
    sd = np.sqrt(np.diag(covariance))
    assert_moments(fit.draws(4_000)["b"], mean, sd, location=0.1, spread=0.1)
    assert set(fit.history.learning_rate) == {1.0}


@pytest.mark.slow
def test_optimizers_that_differ_in_numbers_alone_are_told_apart():
    slow, fast = (
        bbvi.fit(normal_model, normal_data(), optimizer=o, max_steps=50, **QUIET)
        for o in (optax.adam(1e-4), optax.adam(0.05))
    )
    assert slow.elbo.value < fast.elbo.value - 1


@pytest.mark.slow
def test_one_particle_with_scores_uses_a_running_average():
    fit = bbvi.fit(count_model, {"y": 9.0}, num_particles=1, max_steps=6_000, **QUIET)
    _, _, log_evidence = summed(stats.nbinom(1.5, 1.5 / 5.5).logpmf, 4.0, 9.0)
    assert fit.plan.num_particles == 1
    assert_bound(fit, log_evidence, gap=0.15)


def test_own_guide_with_parameters():
    def guide(x, y):
        loc = numpyro.param("loc", np.zeros(2))
        tril = numpyro.param(
            "tril", 0.1 * np.eye(2), constraint=dist.constraints.lower_cholesky
        )
        numpyro.sample("b", dist.MultivariateNormal(loc, scale_tril=tril))

    fit = bbvi.fit(normal_model, normal_data(), guide=guide, **QUIET)
    mean, covariance, log_evidence = normal_answer(**normal_data())
    assert sorted(fit.params) == ["loc", "tril"]
    np.testing.assert_allclose(fit.params["loc"], mean, atol=0.05)
    assert_bound(fit, log_evidence, gap=0.05)


def test_deterministic_sites_are_among_the_draws():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.deterministic("twice", jnp.stack([2 * mu, -mu, mu**2]))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    draws = bbvi.fit(model, {"y": 1.0}, **QUIET).draws(50)
    mu = draws["mu"]
    expected = np.stack([2 * mu, -mu, mu**2], 1)
    np.testing.assert_allclose(draws["twice"], expected, rtol=1e-5)


def test_a_data_frame_passes_its_columns_by_name(normal_fit):
    frame = pd.DataFrame({**normal_data(), "other": ["a"] * 7})
    fit = bbvi.fit(normal_model, frame, seed=3, **QUIET)
    assert same(fit.params, normal_fit.params)


def test_starts_are_reported():
    fit = bbvi.fit(normal_model, normal_data(), num_starts=3, max_steps=100, **QUIET)
    assert fit.history.start_elbos.shape == (3,)


def test_snr_is_reported_for_every_site():
    """Of stochastic gradients; a deterministic phase has none."""
    options = {"guide": LOW_RANK, "max_steps": 300, **QUIET}
    history = bbvi.fit(normal_model, normal_data(), **options).history
    assert history.snr
    assert all(len(snr) == len(history.step) for snr in history.snr.values())


def test_a_large_khat_is_believed_after_more_draws():
    """A skewed posterior, which a Gaussian carries; with 10,000 draws k-hat is not."""

    def model():
        numpyro.sample("rate", dist.Gamma(12.0, 1.0))

    fit = bbvi.fit(model, **QUIET)
    programs = fit.live.programs
    given = programs.measure, fit.params, fit.key, fit.live.data
    few = programs.draws(*given, 10_000 // programs.batch)
    assert psis(few.log_p - few.log_q).khat > 0.7
    assert fit.weights.log_weights.shape == (40_000,)
    assert fit.khat < 0.7
    assert fit.verdict.level is not bbvi.Level.DO_NOT_TRUST
    many = programs.draws(*given, 40_000 // programs.batch)
    assert psis(many.log_p - many.log_q).khat == fit.khat


@pytest.mark.parametrize("kind", ["pathwise", "score"])
def test_gradients_know_their_monte_carlo_error(kind, stochastic, monkeypatch):
    """Of fits with different seeds, against the best factorised Gaussian.

    The control takes all iterates of a window for independent.
    """
    naive, error = [], Plateaus.error

    def noting(self, size, units):
        variance = np.mean(self.variances[-size:], 0)
        naive.append(np.max(np.sqrt(variance / (size * self.size)) / units))
        return error(self, size, units)

    monkeypatch.setattr(Plateaus, "error", noting)
    chosen = {"b": estimators.ScoreFunction()} if kind == "score" else None
    options = {"guide": guides.MeanField(), "estimators": chosen, **QUIET}
    data = normal_data()
    mean, covariance, _ = normal_answer(**data)
    sd = 1 / np.sqrt(np.diagonal(np.linalg.inv(covariance)))
    scores, controls = [], []
    for seed in range(12):
        fit = bbvi.fit(normal_model, data, seed=seed, **options)
        assert fit.status is Status.CONVERGED
        off = (fit.params["b.loc"] - mean) / sd
        off = np.concatenate([off, fit.params["b.scale"] - np.log(sd)])
        scores.append(off / float(fit.history.note.split("error ")[1].split()[0]))
        controls.append(off / naive[-1])
    typical, control = (
        np.median(np.abs(x)) / stats.norm.ppf(0.75) for x in (scores, controls)
    )
    assert 0.3 < typical < 1.4
    assert np.max(np.abs(scores)) < 6  # of 48, each of 3 degrees of freedom
    assert control > 3


@pytest.mark.slow
def test_a_large_joint_gaussian_lands_on_the_exact_posterior(stochastic):
    """Once it has come near its chunk is another program, compiled beside the first."""
    dim, rng = 25, np.random.default_rng(0)
    x = rng.normal(size=(60, dim)).astype(np.float32)
    y = (x @ rng.normal(size=dim) + rng.normal(size=60)).astype(np.float32)

    def model(x, y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(dim), 1.0).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    def fit(**options):
        with count_compiles() as count:
            found = bbvi.fit(model, {"x": x, "y": y}, progress=False, **options)
            wait_for_compilers()
        return found, count.compiled.count("jit(chunk)")

    (late, chunks), (again, none) = fit(), fit()
    assert (chunks, none) == (2, 0)
    assert late.status is Status.CONVERGED
    assert late.verdict.level is bbvi.Level.TRUST
    assert np.array_equal(late.draws()["w"], again.draws()["w"])
    covariance = np.linalg.inv(x.T @ x + np.eye(dim))
    evidence = stats.multivariate_normal(cov=x @ x.T + np.eye(60)).logpdf(y)
    assert abs(late.elbo.value - evidence) < 0.01
    draws = late.draws(4_000)["w"]
    sds = np.sqrt(np.diagonal(covariance))
    assert np.all(np.abs(draws.mean(0) - covariance @ x.T @ y) < 0.1 * sds)
    assert np.all(np.abs(draws.std(0) / sds - 1) < 0.1)
    never, chunks = fit(estimators={"w": estimators.Reparameterized()})
    assert chunks == 1
    assert never.history.step[-1] > late.history.step[-1]
    assert abs(never.elbo.value - evidence) > abs(late.elbo.value - evidence)
