"""`Fit`: its draws, predictions, export, verdict and file."""

import re

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit

import bbvi
from bbvi import Level, Status, guides
from bbvi.diagnostics import Estimate, Smoothed
from bbvi.verdict import judge
from tests.statistics import assert_biased, assert_unbiased

IS_0 = arviz.__version__.startswith("0.")
QUIET = {"progress": False}


def grouped_model(x, group, y=None, num_groups=3):
    """Continuous sites of all kinds: scalar, in a plate, positive, on the simplex."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    share = numpyro.sample("share", dist.Dirichlet(jnp.array([2.0, 3.0, 1.5, 4.0])))
    with numpyro.plate("groups", num_groups):
        theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        numpyro.deterministic("offset", theta - mu)
    with numpyro.plate("rows", len(x)):
        mean = theta[group] + share[0] * x
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def grouped_data(n=11):
    rng = np.random.default_rng(2)
    x, group = rng.normal(size=n), np.arange(n) % 3
    y = np.array([1.0, 2.0, -0.5])[group] + 0.3 * x + 0.5 * rng.normal(size=n)
    return {"x": x, "group": group, "y": y}


def coins_model(y, extra):
    """Three coins in a plate and a die, all summed out, given one continuous site."""
    mu = numpyro.sample("mu", dist.Normal(0.4, 1.0))
    with numpyro.plate("rows", 3):
        z = numpyro.sample("z", dist.Bernoulli(logits=mu))
        numpyro.sample("y", dist.Normal(1.3 * z, 1.0), obs=y)
    die = numpyro.sample("die", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    numpyro.sample("extra", dist.Normal(mu * (die - 0.5), 1.0), obs=extra)


COINS = {"y": np.array([0.2, 1.4, 0.9]), "extra": 0.8}


@pytest.fixture(scope="module")
def grouped():
    return bbvi.fit(grouped_model, grouped_data(), seed=1, **QUIET)


@pytest.fixture(scope="module")
def coins():
    return bbvi.fit(coins_model, COINS, seed=1, **QUIET)


def equal(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name])


# Draws.


def test_draws_have_shapes_dtypes_and_supports(grouped, coins):
    draws = grouped.draws(7)
    shapes = {n: x.shape for n, x in draws.items()}
    assert shapes == {
        "mu": (7,),
        "sigma": (7,),
        "share": (7, 4),
        "theta": (7, 3),
        "offset": (7, 3),
    }
    real = {x.dtype for x in draws.values()}
    assert real == {jnp.zeros(()).dtype}
    assert np.all(draws["sigma"] > 0)
    np.testing.assert_allclose(draws["share"].sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        draws["offset"], draws["theta"] - draws["mu"][:, None], atol=1e-5
    )
    found = coins.draws(50)
    assert found["z"].shape == (50, 3)
    assert found["z"].dtype.kind == found["die"].dtype.kind == "i"
    assert set(np.unique(found["z"])) == {0, 1}
    assert set(np.unique(found["die"])) <= {0, 1, 2}


def test_draws_are_the_same_for_the_same_seed_only(grouped):
    equal(grouped.draws(20), grouped.draws(20))
    equal(grouped.draws(20, seed=5), grouped.draws(20, seed=jax.random.key(5)))
    assert not np.array_equal(
        grouped.draws(20, seed=5)["mu"], grouped.draws(20, seed=6)["mu"]
    )


def test_fewer_draws_are_the_first_of_more(grouped):
    more = grouped.draws(1_500)
    equal(grouped.draws(20), {n: x[:20] for n, x in more.items()})


@pytest.mark.parametrize("num_draws", [0, -3])
def test_no_draws_are_refused(grouped, num_draws):
    with pytest.raises(ValueError, match=f"num_draws.*at least 1; found {num_draws}"):
        grouped.draws(num_draws)


@pytest.mark.parametrize("num_draws", [10.5, 1e3, "10", True, None])
@pytest.mark.parametrize(
    "use",
    [
        lambda fit, n: fit.draws(n),
        lambda fit, n: fit.predict(num_draws=n),
        lambda fit, n: fit.prior(num_draws=n),
        lambda fit, n: fit.to_arviz(n),
        lambda fit, n: fit.summary(n),
        lambda fit, n: fit.covariance(num_draws=n or "None"),
        lambda fit, n: fit.save("never.npz", num_draws=n),
    ],
    ids=["draws", "predict", "prior", "to_arviz", "summary", "covariance", "save"],
)
def test_a_number_of_draws_is_an_int(grouped, use, num_draws):
    found = re.escape(repr(num_draws))
    with pytest.raises(TypeError, match=f"num_draws must be an int; found '?{found}"):
        use(grouped, num_draws)


def test_bad_seed_of_draws_is_refused(grouped):
    with pytest.raises(TypeError, match="seed must be an int or one JAX key"):
        grouped.draws(3, seed=0.5)


def conditional(mu):
    """Probabilities of all 8 x 3 values of coins and die given mu, `(n, 24)`."""
    y, extra = COINS["y"], COINS["extra"]
    odds = mu[:, None] + stats.norm(1.3, 1).logpdf(y) - stats.norm(0, 1).logpdf(y)
    on = expit(odds)  # (n, 3)
    die = np.array([0.2, 0.5, 0.3]) * stats.norm(
        mu[:, None] * np.array([-0.5, 0.5, 1.5]), 1
    ).pdf(extra)
    die /= die.sum(1, keepdims=True)
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    coin = np.prod(np.where(bits, on[:, None], 1 - on[:, None]), -1)
    return (coin[:, :, None] * die[:, None]).reshape(len(mu), -1)


def against_conditional(mu, z, die):
    """Mean zero, also times mu, exactly if `z, die` are drawn given `mu`."""
    code = (z @ (1 << np.arange(3))) * 3 + die
    off = (code[:, None] == np.arange(24)) - conditional(mu.astype(float))
    tilt = (mu - mu.mean()) / mu.std()
    return np.stack([off, off * tilt[:, None]])  # (2, n, 24)


def test_summed_out_sites_are_drawn_from_their_joint_conditional(coins):
    draws = coins.draws(40_000)
    off = against_conditional(draws["mu"], draws["z"], draws["die"])
    samples = np.moveaxis(off, 0, 1)
    assert_unbiased(samples, np.zeros((2, 24)), detectable=0.03)
    # Drawn once for all mu, they would have the right frequencies and no relation.
    shuffled = np.random.default_rng(0).permutation(len(draws["mu"]))
    wrong = against_conditional(
        draws["mu"], draws["z"][shuffled], draws["die"][shuffled]
    )
    samples = np.moveaxis(wrong, 0, 1)
    assert_biased(samples, np.zeros((2, 24)), detectable=0.03)


def correlated_model(y):
    b = numpyro.sample("b", dist.Normal(0.5, 2.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(b.sum(), 0.8), obs=y)
    numpyro.sample("w", dist.Normal(b[0] - 0.2 * b[1], 1.5), obs=0.7 * y)


def test_reweighted_draws_move_towards_the_posterior():
    fit = bbvi.fit(correlated_model, {"y": 3.0}, guide=guides.MeanField(), **QUIET)
    rows = np.array([[1, 1], [1, -0.2]])
    noise = np.array([0.8, 1.5]) ** -2
    precision = np.eye(2) / 4 + rows.T @ (noise[:, None] * rows)
    covariance = np.linalg.inv(precision)
    raw = np.cov(fit.draws(4_000)["b"].T)
    better = np.cov(fit.draws(4_000, reweighted=True)["b"].T)
    assert fit.draws(10, reweighted=True)["b"].shape == (10, 2)
    assert abs(raw[0, 1]) < 0.1 * abs(covariance[0, 1])
    np.testing.assert_allclose(better, covariance, rtol=0.25)
    assert np.abs(better - covariance).max() < 0.4 * np.abs(raw - covariance).max()


# Predictions.


def test_predictions_have_the_shape_and_spread_of_the_data(grouped):
    made = grouped.predict(num_draws=4_000)
    assert {n: x.shape for n, x in made.items()} == {
        "y": (4_000, 11),
        "offset": (4_000, 3),
    }
    draws = grouped.draws(4_000)
    data = grouped_data()
    mean = draws["theta"][:, data["group"]] + draws["share"][:, :1] * data["x"]
    z = (made["y"] - mean) / draws["sigma"][:, None]
    assert stats.kstest(z.ravel()[::7], "norm").pvalue > 1e-5
    equal(made, grouped.predict(num_draws=4_000))


def test_predictions_for_new_data_of_another_size(grouped):
    new = {"x": np.array([0.0, 100.0]), "group": np.array([0, 2]), "y": None}
    made = grouped.predict(new, num_draws=500)["y"]
    assert made.shape == (500, 2)
    draws = grouped.draws(500)
    slope = draws["share"][:, 0]
    assert np.corrcoef(made[:, 1], slope)[0, 1] > 0.9
    single = grouped.predict({"x": np.zeros(1), "group": np.array([1]), "y": None})
    assert single["y"].shape == (1_000, 1)


def test_new_groups_have_effects_from_their_prior(grouped):
    """Their effects are drawn given the others' mean; those of old groups lapse."""
    new = {
        "x": np.zeros(5),
        "group": np.arange(5),
        "y": None,
        "num_groups": 5,
    }
    made = grouped.predict(new, num_draws=2_000)
    assert made["offset"].shape == (2_000, 5)
    assert made["offset"].std() == pytest.approx(1.0, abs=0.1)


def test_data_to_predict_from_come_in_every_kind(grouped):
    x, group = np.array([0.5, 1.0]), np.array([0, 2])
    expected = grouped.predict({"x": x, "group": group, "y": None}, num_draws=5)
    frame = pd.DataFrame({"x": x, "group": group, "label": ["a", "b"]})
    for data in ((x, group), frame):
        made = grouped.predict(data, num_draws=5)
        np.testing.assert_array_equal(made["y"], expected["y"])
    with pytest.raises(TypeError, match="data must be a mapping.*found list"):
        grouped.predict([x, group])


def test_predict_refuses_what_the_model_does_not_take(grouped):
    with pytest.raises(TypeError, match="data has 'z', which the model does not take"):
        grouped.predict({"z": 1.0})


# ArviZ.


@pytest.fixture(scope="module")
def tree(grouped):
    return grouped.to_arviz(300, posterior_predictive=True, prior=True)


def test_export_has_all_groups_with_dims_from_the_plates(grouped, tree):
    assert type(tree).__name__ == ("InferenceData" if IS_0 else "DataTree")
    posterior = tree["posterior"]
    assert posterior["theta"].dims == ("chain", "draw", "groups")
    assert posterior["share"].dims == ("chain", "draw", "share_dim_0")
    np.testing.assert_array_equal(posterior["mu"][0], grouped.draws(300)["mu"])
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "rows")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "rows")
    assert list(tree["posterior_predictive"].data_vars) == ["y"]
    assert tree["observed_data"]["y"].dims == ("rows",)
    assert list(tree["observed_data"].data_vars) == ["y"]
    np.testing.assert_allclose(tree["observed_data"]["y"], grouped_data()["y"], 1e-6)
    assert set(tree["constant_data"].data_vars) == {"x", "group"}
    assert set(tree["sample_stats"].data_vars) == {"log_p", "log_q"}
    assert tree.attrs["status"] == str(grouped.status)
    assert tree.attrs["khat"] == grouped.khat


def test_prior_is_what_the_model_says_before_it_sees_data(grouped, tree):
    latents = set(tree["posterior"].data_vars)
    assert set(tree["prior"].data_vars) == latents
    assert list(tree["prior_predictive"].data_vars) == ["y"]
    assert tree["prior"]["theta"].dims == ("chain", "draw", "groups")
    mu = grouped.prior(num_draws=4_000)["mu"]
    assert abs(mu.mean()) < 5 * mu.std() / 4_000**0.5
    assert mu.std() == pytest.approx(2.0, rel=0.1)


def test_an_improper_prior_cannot_be_drawn_from():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = bbvi.fit(model, {"y": 1.0}, progress=False)
    with pytest.raises(ValueError, match="prior of 'mu' is improper"):
        fit.prior()
    assert fit.predict(num_draws=10)["y"].shape == (10,)


def test_deterministic_sites_have_the_dims_of_their_plates(tree):
    assert tree["posterior"]["offset"].dims == ("chain", "draw", "groups")


def test_export_without_predictions_lacks_their_group(grouped):
    names = grouped.to_arviz(20)
    names = {n.strip("/") for n in names.groups()} if IS_0 else set(names.children)
    assert "posterior_predictive" not in names


def test_exported_densities_are_those_of_model_and_q(grouped, tree):
    posterior = tree["posterior"]
    data = grouped_data()
    theta = posterior["theta"].to_numpy()[0][:, data["group"]]
    mean = theta + posterior["share"].to_numpy()[0][:, :1] * data["x"]
    expected = stats.norm(mean, posterior["sigma"].to_numpy()[0][:, None])
    expected = expected.logpdf(data["y"])
    found = tree["log_likelihood"]["y"].to_numpy()[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    weights = tree["sample_stats"]["log_p"] - tree["sample_stats"]["log_q"]
    assert float(weights.mean()) == pytest.approx(grouped.elbo.value, abs=0.3)


def test_coords_and_dims_can_be_given(grouped):
    tree = grouped.to_arviz(
        20, coords={"groups": ["a", "b", "c"]}, dims={"share": ["part"]}
    )
    np.testing.assert_array_equal(
        tree["posterior"]["theta"].sel(groups="b")[0], grouped.draws(20)["theta"][:, 1]
    )
    assert tree["posterior"]["share"].dims == ("chain", "draw", "part")


def test_log_likelihood_of_rows_that_were_summed_out_is_summed(coins):
    tree = coins.to_arviz(50)
    mu = tree["posterior"]["mu"].to_numpy()[0].astype(float)
    on = expit(mu)[:, None]
    y = COINS["y"]
    density = on * stats.norm(1.3, 1).pdf(y) + (1 - on) * stats.norm(0, 1).pdf(y)
    found = tree["log_likelihood"]["y"].to_numpy()[0]
    np.testing.assert_allclose(found, np.log(density), rtol=1e-4)


def test_log_likelihood_of_rows_that_see_another_row_is_not_moved():
    """A sum over z[i] holds the next row's density: it is not row i's."""

    def model(y):
        with numpyro.plate("rows", 3):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            before = jnp.concatenate([jnp.zeros(1), z[:-1]])
            numpyro.sample("y", dist.Normal(1.2 * before, 0.8), obs=y)

    y = np.array([0.3, 1.9, -0.4], np.float32)
    fit = bbvi.fit(model, {"y": y}, progress=False, max_steps=10)
    assert fit.plan.marginalized == ("z",)
    tree = fit.to_arviz(50)
    z = tree["posterior"]["z"].to_numpy()[0]
    before = np.concatenate([np.zeros((50, 1)), z[:, :-1]], 1)
    found = tree["log_likelihood"]["y"].to_numpy()[0]
    expected = stats.norm(1.2 * before, 0.8).logpdf(y)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_arviz_reads_the_export(tree):
    table = arviz.summary(tree, kind="stats")
    assert {"mu", "sigma", "theta[0]", "share[3]"} <= set(table.index)


# A few of eleven rows in three groups are influential.
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.skipif(IS_0, reason="ArviZ 0.x has no loo_approximate_posterior")
def test_arviz_computes_loo_of_the_approximation(grouped):
    tree = grouped.to_arviz(1_000)
    density = tree["sample_stats"]
    loo = arviz.loo_approximate_posterior(tree, density["log_p"], density["log_q"])
    assert loo.n_data_points == 11
    assert np.isfinite(loo.elpd)


def test_summary_has_a_row_for_each_element(grouped, coins):
    table = grouped.summary()
    assert len(table) == 1 + 1 + 4 + 3 + 3
    draws = grouped.draws(4_000, reweighted=grouped.verdict.level is Level.REWEIGHT)
    assert table.loc["mu", "mean"] == pytest.approx(draws["mu"].mean(), abs=1e-3)
    table = coins.summary()
    assert table.loc["z[1]", "mode"] in (0, 1)
    assert 0.5 <= table.loc["z[1]", "p(mode)"] <= 1


def test_plot_tells_the_verdicts_khat(grouped):
    figure = grouped.plot()
    assert len(figure.axes) > 2
    assert figure.axes[1].get_title().startswith(f"k-hat {grouped.khat:.2f}, ")


# The verdict.

BOUND = Estimate(-3.0, 0.01)


def judged(status, smoothed, bound=BOUND):
    return judge(status, bound, smoothed, len(smoothed.log_weights), "Try that.")


def weights(khat, share, num_draws=4_000):
    return Smoothed(np.zeros(num_draws), khat, share * num_draws)


VERDICTS = {
    "good": (Status.CONVERGED, 0.3, 0.95, Level.TRUST),
    "no tail": (Status.CONVERGED, -np.inf, 1.0, Level.TRUST),
    "uneven": (Status.CONVERGED, 0.3, 0.5, Level.REWEIGHT),
    "just uneven": (Status.CONVERGED, 0.3, 0.899, Level.REWEIGHT),
    "just even enough": (Status.CONVERGED, 0.3, 0.901, Level.TRUST),
    "below the threshold": (Status.CONVERGED, 0.69, 0.95, Level.TRUST),
    "above the threshold": (Status.CONVERGED, 0.71, 0.95, Level.DO_NOT_TRUST),
    "few count, surely below": (Status.CONVERGED, 0.55, 0.05, Level.REWEIGHT),
    "few count, not surely": (Status.CONVERGED, 0.62, 0.09, Level.DO_NOT_TRUST),
    "enough count": (Status.CONVERGED, 0.62, 0.11, Level.REWEIGHT),
    "heavy but even": (Status.CONVERGED, 0.9, 0.995, Level.TRUST),
    "heavier but even": (Status.CONVERGED, 1.1, 0.995, Level.TRUST),
    "heavy": (Status.CONVERGED, 1.5, 0.01, Level.DO_NOT_TRUST),
    "no weights": (Status.CONVERGED, np.inf, 0.0, Level.DO_NOT_TRUST),
    "nan": (Status.CONVERGED, np.nan, 0.0, Level.DO_NOT_TRUST),
    "steps": (Status.MAX_STEPS, 0.1, 1.0, Level.DO_NOT_TRUST),
    "seconds": (Status.MAX_SECONDS, 0.1, 1.0, Level.DO_NOT_TRUST),
    "not finite": (Status.NOT_FINITE, 0.1, 1.0, Level.DO_NOT_TRUST),
    "interrupted": (Status.INTERRUPTED, 0.1, 1.0, Level.DO_NOT_TRUST),
}


@pytest.mark.parametrize("case", list(VERDICTS))
def test_verdict(case):
    status, khat, share, level = VERDICTS[case]
    verdict = judged(status, weights(khat, share))
    assert verdict.level is level
    assert verdict.reason
    assert str(verdict).startswith(level.value + ": ")
    if level is not Level.TRUST and status is Status.CONVERGED:
        assert verdict.remedy


def test_verdict_on_a_bound_that_is_not_finite():
    for value in (np.nan, -np.inf):
        bound = Estimate(value, np.nan)
        verdict = judged(Status.CONVERGED, weights(0.1, 1.0), bound)
        assert verdict.level is Level.DO_NOT_TRUST
        assert "bound is not finite" in str(verdict)


def test_several_modes_are_not_trusted():
    smoothed = weights(0.1, 1.0)
    verdict = judge(Status.CONVERGED, BOUND, smoothed, 4_000, num_modes=3)
    assert verdict.level is Level.DO_NOT_TRUST
    assert "3 different places" in verdict.reason
    assert verdict.remedy


def test_few_draws_lower_the_threshold():
    few = judged(Status.CONVERGED, weights(0.6, 0.95, 100))
    many = judged(Status.CONVERGED, weights(0.6, 0.95))
    assert (few.level, many.level) == (Level.DO_NOT_TRUST, Level.TRUST)
    assert "below 0.50. Try that." in str(few)


def test_figures_and_remedies_are_in_the_sentence():
    text = str(judged(Status.CONVERGED, weights(0.34, 0.5)))
    assert "k-hat is 0.34" in text
    assert "50%" in text
    assert "fit.draws(reweighted=True)" in text
    said = "weights this even"  # why a large k-hat is no reason to worry
    assert said in str(judged(Status.CONVERGED, weights(0.9, 0.995)))
    assert said not in str(judged(Status.CONVERGED, weights(0.3, 0.995)))


@pytest.mark.parametrize("status", Status)
def test_status_is_a_sentence(status):
    assert str(status)[0].isupper()
    assert str(status).endswith(".")
    assert ("Not converged" in str(status)) == (status is not Status.CONVERGED)


def test_a_fit_prints_its_status_and_verdict(grouped):
    text = repr(grouped)
    assert str(grouped.status) in text
    assert str(grouped.verdict) in text
    assert "ELBO" in text


# Files.


@pytest.fixture(scope="module")
def path(grouped, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fit.npz"
    grouped.save(path, num_draws=100)
    return path


def test_saved_fit_comes_back(grouped, path):
    back = bbvi.load(path)
    equal(back.draws(100), grouped.draws(100))
    equal(dict(back.params), {n: np.asarray(x) for n, x in grouped.params.items()})
    assert (back.status, back.verdict) == (grouped.status, grouped.verdict)
    assert (back.elbo, back.khat) == (grouped.elbo, grouped.khat)
    assert repr(back) == repr(grouped)
    assert str(back.plan) == str(grouped.plan)
    for name in ("step", "elbo", "learning_rate", "start_elbos"):
        mine, its = getattr(back.history, name), getattr(grouped.history, name)
        np.testing.assert_array_equal(mine, its)
    assert back.history.snr.keys() == grouped.history.snr.keys()
    assert back.history.note == grouped.history.note


def test_file_holds_no_pickle(path):
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_loaded_fit_exports_summarises_and_plots(grouped, path):
    back = bbvi.load(path)
    assert len(back.summary()) == 12
    assert back.plot().axes
    tree, expected = back.to_arviz(50), grouped.to_arviz(50)
    for group in ("posterior", "log_likelihood", "observed_data", "constant_data"):
        assert set(tree[group].data_vars) == set(expected[group].data_vars)
        for name, array in expected[group].data_vars.items():
            assert tree[group][name].dims == array.dims
            np.testing.assert_array_equal(tree[group][name], array)


def test_loaded_fit_can_be_saved_again(path, tmp_path):
    back = bbvi.load(path)
    back.save(tmp_path / "again.npz", num_draws=100)
    equal(bbvi.load(tmp_path / "again.npz").draws(100), back.draws(100))


def test_loaded_fit_has_no_more_draws_than_saved(path):
    with pytest.raises(ValueError, match=r"100 draws; found num_draws=101.*bbvi.load"):
        bbvi.load(path).draws(101)


def test_loaded_fit_needs_its_plan_to_predict(path):
    with pytest.raises(ValueError, match=r"no model to predict.*bbvi.load\(path, plan"):
        bbvi.load(path).predict()


def test_fit_loaded_with_its_plan_is_the_live_one(grouped, path):
    plan = bbvi.plan(grouped_model, grouped_data())
    back = bbvi.load(path, plan=plan)
    equal(back.draws(1_200), grouped.draws(1_200))
    equal(back.draws(30, seed=9), grouped.draws(30, seed=9))
    equal(back.predict(num_draws=20), grouped.predict(num_draws=20))


@pytest.mark.parametrize("change", [{"num_groups": 4}, {"guide": guides.MeanField()}])
def test_wrong_plan_is_refused(path, change):
    guide = change.get("guide")
    data = {**grouped_data(), "num_groups": change.get("num_groups", 3)}
    plan = bbvi.plan(grouped_model, data, guide=guide)
    with pytest.raises(ValueError, match="the plan's parameters.*plan with the same"):
        bbvi.load(path, plan=plan)


def other_npz(path):
    np.savez(path, a=np.zeros(3))


def text_file(path):
    path.write_text("not a fit")


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def empty_file(path):
    path.touch()


@pytest.mark.parametrize("write", [other_npz, text_file, one_array, empty_file])
def test_other_files_are_refused(tmp_path, write):
    path = tmp_path / "other.npz"
    write(path)
    with pytest.raises(ValueError, match=r"other.npz is no file that Fit.save wrote"):
        bbvi.load(path)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.npz"):
        bbvi.load(tmp_path / "gone.npz")


def network_model(x, y):
    """Parameters as nested as those of a network."""
    start = {"dense": {"kernel": 0.1 * np.ones(2), "bias": np.zeros(())}, "gain": 1.0}
    net = numpyro.param("net", start)
    noise = numpyro.param("noise.loc", 0.0)
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    mean = net["gain"] * (x @ net["dense"]["kernel"] + net["dense"]["bias"])
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(mean + mu, jnp.exp(noise)), obs=y)


def test_nested_parameters_survive_saving(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 2))
    data = {"x": x, "y": x @ [1.0, -2.0] + 0.3 * rng.normal(size=9)}
    fit = bbvi.fit(network_model, data, max_steps=300, **QUIET)
    assert fit.params["net"]["dense"]["kernel"].shape == (2,)
    fit.save(tmp_path / "fit.npz")
    assert "net/dense/kernel" in bbvi.load(tmp_path / "fit.npz").params
    back = bbvi.load(tmp_path / "fit.npz", plan=bbvi.plan(network_model, data))
    assert jax.tree.structure(back.params) == jax.tree.structure(fit.params)
    equal(back.draws(20, seed=3), fit.draws(20, seed=3))


# Minibatches.


def rows_model(y, size):
    mu = numpyro.sample("mu", dist.Normal(0.3, 2.0))
    with numpyro.plate("rows", len(y), subsample_size=size):
        z = numpyro.sample("z", dist.Normal(mu, 0.5))
        y = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(z, 0.5), obs=y)


def test_subsampled_model_is_judged_and_drawn_on_the_full_data():
    y = np.random.default_rng(5).normal(1.2, 0.9, size=6)
    fit = bbvi.fit(rows_model, {"y": y, "size": 2}, max_steps=4_000, **QUIET)
    assert fit.draws(30)["z"].shape == (30, 6)
    assert fit.plan.guide == guides.Structured()  # which holds the posterior
    total = 0.25 * np.eye(6) * 2 + 4.0
    log_evidence = stats.multivariate_normal(np.full(6, 0.3), total).logpdf(y)
    assert fit.elbo.value == pytest.approx(log_evidence, abs=0.15)
    assert fit.predict(num_draws=5)["y"].shape == (5, 6)
    tree = fit.to_arviz(20)
    assert tree["log_likelihood"]["y"].shape == (1, 20, 6)
    assert tree["posterior"]["z"].dims == ("chain", "draw", "rows")
    new = fit.predict({"y": np.zeros(9)}, num_draws=5)
    assert new["y"].shape == (5, 9)
