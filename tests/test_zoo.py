"""The zoo: what bbvi sees in every model, what it plans, and how near it comes.

The tables are written by hand: they say what is right, not what was found. Fits are
compared as their verdict recommends, by their importance-weighted draws or as they are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbvi
import models
from bbvi import Level, Status
from tests.statistics import assert_close_to_reference

NUM_DRAWS = 8_000

# Plates as `name: size`; of every cost term the latents that it depends on.
ANALYSES = {
    "anaesthetists": (
        {"raters": 5, "classes": 4, "patients": 45},
        {
            "prevalence": {"prevalence"},
            "confusion": {"confusion"},
            "z": {"z", "prevalence"},
            "rating": {"z", "confusion"},
        },
    ),
    "coal_mining": (
        {"years": 112},
        {
            "switch": {"switch"},
            "early_rate": {"early_rate"},
            "late_rate": {"late_rate"},
            "disasters": {"switch", "early_rate", "late_rate"},
        },
    ),
    "digits_sbn": ({"images": 1797}, {"z": {"z"}, "x": {"z"}}),
    "eight_schools": (
        {"schools": 8},
        {
            "mu": {"mu"},
            "tau": {"tau"},
            "theta_trans": {"theta_trans"},
            "y": {"mu", "tau", "theta_trans"},
        },
    ),
    "eight_schools_centered": (
        {"schools": 8},
        {
            "mu": {"mu"},
            "tau": {"tau"},
            "theta": {"theta", "mu", "tau"},
            "y": {"theta"},
        },
    ),
    "gauss_mix": (
        {"components": 2, "rows": 1000},
        {
            "middle": {"middle"},
            "gap": {"gap"},
            "sigma": {"sigma"},
            "theta": {"theta"},
            "z": {"z", "theta"},
            "y": {"z", "middle", "gap", "sigma"},
        },
    ),
    "gauss_mix_marginalized": (
        {"components": 2, "rows": 1000},
        {
            "middle": {"middle"},
            "gap": {"gap"},
            "sigma": {"sigma"},
            "theta": {"theta"},
            "y": {"theta", "middle", "gap", "sigma"},
        },
    ),
    "hidden_markov": (
        {"states": 2},
        {"theta": {"theta"}, "mu": {"mu"}, "z": {"z", "theta"}, "y": {"z", "mu"}},
    ),
    "nile": (
        {"years": 100},
        {
            "switch": {"switch"},
            "early_mean": {"early_mean"},
            "late_mean": {"late_mean"},
            "sigma": {"sigma"},
            "flow": {"switch", "early_mean", "late_mean", "sigma"},
        },
    ),
    "old_faithful": (
        {"components": 2, "eruptions": 272},
        {
            "weights": {"weights"},
            "mu": {"mu"},
            "sigma": {"sigma"},
            "z": {"z", "weights"},
            "y": {"z", "mu", "sigma"},
        },
    ),
    "spike_slab": (
        {"features": 10, "patients": 442},
        {
            "sigma": {"sigma"},
            "gamma": {"gamma"},
            "beta": {"beta"},
            "y": {"sigma", "gamma", "beta"},
        },
    ),
    "wells": (
        {"households": 3020},
        {"alpha": {"alpha"}, "beta": {"beta"}, "switched": {"alpha", "beta"}},
    ),
    "zip_counts": (
        {"intervals": 240},
        {"pi": {"pi"}, "rate": {"rate"}, "z": {"z", "pi"}, "y": {"z", "rate"}},
    ),
}

# Finite sites whose elements share no cost term are summed out; the units of an image
# are coupled 32 at a time, too many to sum, and the guide is the user's; ten coupled
# indicators are few enough to be changed one at a time. All else is smooth.
MARGINALIZED = {
    "anaesthetists": {"z"},
    "coal_mining": {"switch"},
    "gauss_mix": {"z"},
    "hidden_markov": {"z"},
    "nile": {"switch"},
    "old_faithful": {"z"},
    "zip_counts": {"z"},
}
OTHERS = {
    ("digits_sbn", "z"): "ScoreFunction",
    ("spike_slab", "gamma"): "LocalExpectation",
}
FAMILIES = dict.fromkeys(models.NAMES, "FullRank") | {"digits_sbn": "Custom"}

CHEAP = ("coal_mining", "eight_schools")
# Slow ones that a Gaussian follows well.
GAUSSIAN = ("eight_schools_centered", "hidden_markov", "nile", "wells", "zip_counts")
SLOW = (*GAUSSIAN, "gauss_mix", "gauss_mix_marginalized", "old_faithful")
# Posteriors that no Gaussian follows: inclusions of collinear columns; error rates of
# annotators that are near 0.
HARD = ("anaesthetists", "spike_slab")

every_model = pytest.mark.parametrize("name", models.NAMES)


@functools.cache
def fitted(name):
    """The default fit, once for all tests of this file."""
    zoo = models.load(name)
    return bbvi.fit(zoo.model, zoo.data(), progress=False)


def recommended(fit, num_draws=NUM_DRAWS):
    return fit.draws(num_draws, reweighted=fit.verdict.level is Level.REWEIGHT)


def assert_reaches(name):
    """Moments and probabilities of the reference, and a bound below the evidence."""
    fit, reference = fitted(name), models.load(name).reference()
    draws = recommended(fit)
    mean = {site: draws[site].mean(0, dtype=float) for site in reference["mean"]}
    sd = {site: draws[site].std(0, dtype=float) for site in reference["mean"]}
    assert_close_to_reference(
        mean,
        sd,
        reference,
        mcse={site: x / NUM_DRAWS**0.5 for site, x in sd.items()},
        location=0.15,
        spread=0.15,
    )
    for site, probs in reference.get("probs", {}).items():
        values = fit.plan.analysis.sites[site].values
        found = np.mean(draws[site][..., None] == values, 0)
        noise = 5 * np.sqrt(probs * (1 - probs) / NUM_DRAWS)
        assert np.all(np.abs(found - probs) <= 0.03 + noise), site
    if "log_evidence" in reference:
        slack = 3 * fit.elbo.mcse + 1e-6 * abs(reference["log_evidence"])
        assert fit.elbo.value <= reference["log_evidence"] + slack
    assert fit.status is Status.CONVERGED


def test_every_model_has_its_line_in_the_tables():
    assert set(ANALYSES) == set(models.NAMES)
    assert {*CHEAP, *SLOW, *HARD, "digits_sbn"} == set(models.NAMES)


@every_model
def test_analysis_is_the_expected_one(name):
    zoo = models.load(name)
    plates, depends = ANALYSES[name]
    analysis = bbvi.analyze(zoo.model, zoo.data())
    assert {n: p.size for n, p in analysis.plates.items()} == plates
    found = {term: set(latents) for term, latents in analysis.influence.items()}
    assert found == depends
    observed = set(depends) - set(analysis.latents)
    assert set(analysis.of_kind("observed")) == observed
    assert all(site in repr(analysis) for site in depends)


@every_model
def test_plan_is_the_expected_one(name):
    zoo = models.load(name)
    plan = bbvi.plan(zoo.model, zoo.data(), guide=getattr(zoo, "guide", None))
    expected = {
        site: "Marginalized"
        if site in MARGINALIZED.get(name, ())
        else OTHERS.get((name, site), "Reparameterized")
        for site in ANALYSES[name][1]
        if site in plan.analysis.latents
    }
    found = {n: type(c.estimator).__name__ for n, c in plan.choices.items()}
    assert found == expected
    assert type(plan.guide).__name__ == FAMILIES[name]
    assert all(c.reason and c.rejected for c in plan.choices.values())


@pytest.mark.parametrize("name", CHEAP)
def test_default_fit_reaches_the_reference(name):
    assert_reaches(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_default_fit_of_the_others_reaches_the_reference(name):
    assert_reaches(name)


# Within 8 % of an sd of the truth, 95 and 92 % of their draws effective, but k-hat is
# 0.85 and 1.3: the Gaussian's tails are thinner than those of log rates and logits.
OVERCAUTIOUS = pytest.mark.xfail(strict=False, reason="k-hat sees only the far tail")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n,
            marks=[OVERCAUTIOUS] * (n in ("nile", "zip_counts"))
            + [pytest.mark.slow] * (n not in CHEAP),
        )
        for n in CHEAP + GAUSSIAN
    ],
)
def test_a_good_fit_is_not_called_bad(name):
    assert fitted(name).verdict.level is not Level.DO_NOT_TRUST


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_a_hard_posterior_is_reached_or_not_trusted(name):
    fit, reference = fitted(name), models.load(name).reference()
    assert fit.elbo.value <= reference.get("log_evidence", np.inf) + 3 * fit.elbo.mcse
    if fit.verdict.level is not Level.DO_NOT_TRUST:
        assert_reaches(name)


@pytest.mark.slow
def test_explicit_and_summed_mixture_agree():
    explicit, summed = fitted("gauss_mix"), fitted("gauss_mix_marginalized")
    error = np.hypot(explicit.elbo.mcse, summed.elbo.mcse)
    assert explicit.elbo.value == pytest.approx(summed.elbo.value, abs=5 * error + 0.05)
    one, other = recommended(explicit), recommended(summed)
    for site in ("middle", "gap", "sigma", "theta", "mu"):
        sd = other[site].std(0)
        apart = np.abs(one[site].mean(0) - other[site].mean(0)) / sd
        assert np.all(apart < 0.1)
        assert np.all(np.abs(one[site].std(0) / sd - 1) < 0.1)


@pytest.mark.slow
def test_explicit_and_summed_mixture_have_the_same_bound():
    """At the same parameters with the same key, value and gradient are equal."""
    data = models.load("gauss_mix").data()
    found = []
    for name in ("gauss_mix", "gauss_mix_marginalized"):
        plan = bbvi.plan(models.load(name).model, data)
        params = plan.init(jax.random.key(0))
        value = jax.value_and_grad(bbvi.loss(plan), has_aux=True)
        found.append(jax.jit(value)(params, jax.random.key(1), data))
    (first, _), first_gradient = found[0]
    (second, _), second_gradient = found[1]
    np.testing.assert_allclose(first, second, rtol=1e-4)
    for name, gradient in first_gradient.items():
        scale = jnp.abs(gradient).max()
        other = second_gradient[name]
        np.testing.assert_allclose(gradient / scale, other / scale, atol=1e-3)


@pytest.mark.slow
def test_digits_learn_in_a_few_steps():
    zoo = models.load("digits_sbn")
    data = {"images": zoo.data()["images"][:500]}
    fit = bbvi.fit(zoo.model, data, guide=zoo.guide, max_steps=300, progress=False)
    assert fit.status is Status.MAX_STEPS
    # Independent pixels with their own frequencies lose more.
    mean = data["images"].mean(0).clip(1e-6, 1 - 1e-6)
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)).sum()
    assert -fit.elbo.value / 500 < entropy
    assert fit.draws(3)["z"].shape == (3, 500, 32)
