"""Diagnostics against ArviZ's own, closed forms and calibration.

PSIS is held to the installed ArviZ, 0.x or 1.x, whose implementations differ from each
other in the tail length: sizes are chosen at which both agree (S/5 or 3 sqrt(S) whole).
"""

import arviz
import numpy as np
import pytest

from bbvi.diagnostics import (
    Estimate,
    elbo,
    gradient_snr,
    importance_ess,
    khat_threshold,
    psis,
    resampled,
    split_rhat,
    tail_length,
)

INF = float("inf")


def pareto_log_weights(shape, num_draws, seed=0):
    """Log weights whose tail is a generalised Pareto distribution, in random order."""
    survival = np.random.default_rng(seed).uniform(size=num_draws)
    return np.log1p((survival**-shape - 1) / shape) - 1234.5


def arviz_psis(log_weights):
    if arviz.__version__.startswith("0."):
        smoothed, khat = arviz.psislw(log_weights.copy())
        return smoothed, float(khat)
    from arviz_stats.base import array_stats

    smoothed, khat = array_stats.psislw(-log_weights)  # of the log likelihood
    return smoothed, float(khat)


@pytest.mark.parametrize("num_draws", [100, 400, 2500, 10_000])
@pytest.mark.parametrize("shape", [-0.5, 0.2, 0.6, 1.1])
def test_psis_agrees_with_arviz(shape, num_draws):
    log_weights = pareto_log_weights(shape, num_draws)
    smoothed, khat = arviz_psis(log_weights)
    ours = psis(log_weights)
    assert ours.khat == pytest.approx(khat, abs=1e-10)
    np.testing.assert_allclose(ours.log_weights, smoothed, rtol=0, atol=1e-10)


def test_psis_agrees_with_arviz_on_lognormal_weights():
    log_weights = 1.5 * np.random.default_rng(1).normal(size=400)
    smoothed, khat = arviz_psis(log_weights)
    ours = psis(log_weights)
    assert ours.khat == pytest.approx(khat, abs=1e-10)
    np.testing.assert_allclose(ours.log_weights, smoothed, rtol=0, atol=1e-10)


def test_comparison_with_arviz_notices_another_tail_length():
    log_weights = pareto_log_weights(0.6, 2500)
    _, khat = arviz_psis(log_weights)
    assert abs(psis(log_weights[:-100]).khat - khat) > 1e-4


@pytest.mark.parametrize("shape", [0.2, 0.6, 1.1])
def test_khat_finds_the_shape_of_the_tail(shape):
    khats = [psis(pareto_log_weights(shape, 10_000, seed)).khat for seed in range(40)]
    prior = (300 * shape + 5) / 310  # 300 tail draws, ten more at 1/2
    error = np.std(khats, ddof=1) / np.sqrt(len(khats))
    assert error < 0.025
    assert abs(np.mean(khats) - prior) < 5 * error


def test_psis_normalises_float32_weights_in_float64():
    ours = psis(np.float32(pareto_log_weights(0.3, 500)))
    assert ours.log_weights.dtype == np.float64
    assert np.exp(ours.log_weights).sum() == pytest.approx(1, abs=1e-13)
    assert ours.ess == importance_ess(ours.log_weights)


def test_psis_does_not_change_its_argument():
    log_weights = pareto_log_weights(0.6, 100)
    before = log_weights.copy()
    psis(log_weights)
    np.testing.assert_array_equal(log_weights, before)


DEGENERATE = {
    "all equal": ([-3.0] * 100, -INF),
    "all equal, few": ([-3.0] * 10, -INF),
    "one draw": ([-3.0], -INF),
    "too few to judge": ([0.0] * 10 + [1.0], INF),
    "two values, the rare one a little larger": ([0.0] * 97 + [0.1] * 3, -INF),
    "two values, the rare one much larger": ([0.0] * 97 + [5.0] * 3, INF),
    "two values, the rare one smaller": ([0.0] * 80 + [-5.0] * 20, -INF),
    "hardly a weight above zero": ([-INF] * 97 + [0.0, 0.0, 0.1], INF),
    "beyond float64": (list(np.arange(100) * 1000.0), INF),
    "no weight above zero": ([-INF] * 100, INF),
    "nan": ([0.0] * 99 + [np.nan], INF),
    "infinite": ([0.0] * 99 + [INF], INF),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_psis_without_a_tail_to_fit_says_so(case):
    log_weights, khat = DEGENERATE[case]
    assert psis(log_weights).khat == khat


@pytest.mark.parametrize("case", ["no weight above zero", "nan", "infinite"])
def test_psis_returns_no_weights_where_there_are_none(case):
    ours = psis(DEGENERATE[case][0])
    assert ours.ess == 0
    assert np.all(np.isnan(ours.log_weights))


def test_zero_weights_count_as_draws_and_stay_zero():
    log_weights = np.concatenate([np.full(80, -INF), pareto_log_weights(0.3, 320)])
    ours = psis(log_weights)
    assert np.isfinite(ours.khat)
    np.testing.assert_array_equal(ours.log_weights[:80], -INF)


def test_discrete_weights_are_fitted_quietly():
    log_weights = np.round(np.random.default_rng(0).normal(size=1000), 1)
    assert psis(log_weights).khat < khat_threshold(1000)


@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_psis_refuses_what_is_not_one_number_per_draw(shape):
    with pytest.raises(ValueError, match=r"log_weights: expected .*\(num_draws,\)"):
        psis(np.zeros(shape))


def test_khat_threshold_is_that_of_the_paper():
    assert khat_threshold(1) == -INF
    assert khat_threshold(10) == 0
    assert khat_threshold(100) == 0.5
    assert khat_threshold(2000) == pytest.approx(1 - 1 / np.log10(2000))
    assert khat_threshold(100_000) == 0.7


def test_tail_length_is_the_smaller_of_the_two_rules():
    assert [tail_length(n) for n in (1, 21, 225, 10_000)] == [1, 5, 45, 300]


def test_importance_ess_counts_equal_weights():
    assert importance_ess([-1e4, -1e4, -INF]) == 2
    assert importance_ess([0.0, 100.0]) == pytest.approx(1)


def test_elbo_error_is_calibrated():
    rng = np.random.default_rng(0)
    log_q = rng.normal(size=(2000, 50))
    ratios = rng.exponential(size=log_q.shape)
    bounds = [elbo(q + r, q) for q, r in zip(log_q, ratios, strict=True)]
    values = np.array([bound.value for bound in bounds])
    stated = np.sqrt(np.mean([bound.mcse**2 for bound in bounds]))
    # The mean of 50 exponentials: sd 1/sqrt(50); 2,000 of them know theirs to 2 %.
    assert np.std(values) == pytest.approx(stated, rel=0.08)
    assert stated == pytest.approx(1 / np.sqrt(50), rel=0.08)
    assert np.mean(values) == pytest.approx(1, abs=5 * stated / np.sqrt(2000))


def test_elbo_of_one_draw_or_of_none_finite_claims_no_precision():
    assert elbo([1.0], [0.5]) == Estimate(0.5, INF)
    bound = elbo([-INF, 1.0], [0.0, 0.0])
    assert bound.value == -INF
    assert np.isnan(bound.mcse)
    assert np.isnan(elbo([-INF, 1.0], [-INF, 0.0]).value)


PRINTED = {
    "-123.457 ± 0.031": (-123.4567, 0.0312),
    "-123.46 ± 0.10": (-123.4567, 0.0996),
    "-123 ± 10": (-123.4567, 9.96),
    "-1230 ± 120": (-1234.567, 123.0),
    "0.00 ± 0.50": (-0.001, 0.5),
    "2.5 ± 0": (2.5, 0.0),
    "2.5 ± inf": (2.5, INF),
    "-inf ± nan": (-INF, np.nan),
}


@pytest.mark.parametrize("text", PRINTED)
def test_estimate_prints_the_digits_its_error_leaves(text):
    assert str(Estimate(*PRINTED[text])) == text


def chunks(iterates, num_chunks):
    """Means and variances of a `(num_iterates, ...)` array in equal chunks."""
    parts = iterates.reshape(num_chunks, -1, *iterates.shape[1:])
    return parts.mean(1), parts.var(1), parts.shape[1]


def test_split_rhat_equals_the_formula_on_the_iterates():
    iterates = np.random.default_rng(0).normal(size=(600, 2, 3)).cumsum(0)
    halves = iterates.reshape(2, 300, 2, 3)
    within = halves.var(1, ddof=1).mean(0)
    between = 300 * halves.mean(1).var(0, ddof=1)
    expected = np.sqrt((299 / 300 * within + between / 300) / within)
    np.testing.assert_allclose(split_rhat(*chunks(iterates, 6)), expected, rtol=1e-10)


def test_split_rhat_leaves_out_the_oldest_of_an_odd_number_of_chunks():
    iterates = np.random.default_rng(0).normal(size=(700, 2))
    iterates[:100] += 100
    np.testing.assert_allclose(
        split_rhat(*chunks(iterates, 7)), split_rhat(*chunks(iterates[100:], 6))
    )


def test_split_rhat_weighs_chunks_by_their_counts():
    iterates = np.random.default_rng(0).normal(size=600)
    parts = np.split(iterates, [50, 300, 400])
    means, variances = [p.mean() for p in parts], [p.var() for p in parts]
    rhat = split_rhat(means, variances, [len(p) for p in parts])
    assert rhat == pytest.approx(split_rhat(*chunks(iterates, 2)))


def test_split_rhat_sees_drift_and_only_drift():
    noise = np.random.default_rng(0).normal(size=(1000, 50))
    drift = np.linspace(0, 1, 1000)[:, None]
    assert np.all(split_rhat(*chunks(noise, 10)) < 1.01)
    assert np.all(split_rhat(*chunks(noise + 2 * drift, 10)) > 1.1)


def test_split_rhat_of_iterates_without_spread():
    still, jumped = np.ones((4, 1)), np.array([[0.0], [0.0], [1.0], [1.0]])
    lost = np.array([[0.0], [0.0], [1.0], [np.nan]])
    means = np.concatenate([still, jumped, lost], axis=1)
    rhat = split_rhat(means, np.full((4, 3), -1e-9), 10)
    np.testing.assert_array_equal(rhat, [1.0, INF, np.nan])


def test_split_rhat_refuses_a_window_of_one_chunk():
    with pytest.raises(ValueError, match="window of more chunks"):
        split_rhat([[0.0]], [[1.0]], 10)


def test_gradient_snr_is_the_length_over_the_noise():
    rng = np.random.default_rng(0)
    mean, sd = np.array([0.3, -0.1, 0.2]), np.array([1.0, 2.0, 0.5])
    g = mean + sd * rng.normal(size=(400, 500, 3))
    found = [gradient_snr(x.sum(0), (x**2).sum(0), 500) for x in g]
    expected = np.linalg.norm(mean) / np.linalg.norm(sd)
    error = np.std(found, ddof=1) / 20
    assert error < 0.02 * expected
    assert np.mean(found) == pytest.approx(expected, abs=5 * error + 0.01 * expected)


def test_gradient_snr_subtracts_what_noise_alone_would_show():
    g = np.random.default_rng(0).normal(size=(200, 20, 50))
    found = [gradient_snr(x.sum(0), (x**2).sum(0), 20) for x in g]
    naive = np.sqrt(1 / 20)
    assert np.mean(np.square(found)) < 0.2 * naive**2


def test_gradient_snr_without_noise():
    assert gradient_snr([6.0], [12.0], 3) == INF
    assert gradient_snr([0.0], [0.0], 3) == 0
    with pytest.raises(ValueError, match="n >= 2"):
        gradient_snr([1.0], [1.0], 1)


# Resampling.


@pytest.mark.parametrize("num_draws", [1, 10, 4_000])
def test_each_row_comes_up_as_often_as_its_weight_says(num_draws):
    weights = np.random.default_rng(0).exponential(size=1_000) ** 2
    weights[:3] = 0.0
    rows = resampled(weights, num_draws)
    assert rows.shape == (num_draws,)
    counts = np.bincount(rows, minlength=1_000)
    assert np.all(np.abs(counts - num_draws * weights / weights.sum()) < 1)
    assert np.array_equal(rows, resampled(7 * weights, num_draws))


def test_resampled_rows_are_in_random_order():
    rows = resampled(np.ones(4_000), 4_000)
    assert abs(np.corrcoef(rows[1:], rows[:-1])[0, 1]) < 5 / 4_000**0.5


def test_resampling_adds_hardly_any_noise_to_a_mean():
    """Independent rows would add 1/N of the variance, which the same check sees."""
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=8_000), rng.exponential(size=8_000)
    wanted = values @ weights / weights.sum()
    own = rng.choice(8_000, (100, 4_000), p=weights / weights.sum())
    error = np.std(values[own].mean(1))
    systematic = [values[resampled(weights, n)].mean() for n in range(3_901, 4_001)]
    assert error == pytest.approx(4_000**-0.5, rel=0.3)
    assert np.sqrt(np.mean((np.array(systematic) - wanted) ** 2)) < 0.75 * error


@pytest.mark.parametrize(
    ("num_draws", "lowest", "highest"),
    [
        (10_000, 0.5, np.inf),
        (20_000, 0.0, 0.5),
    ],
)
def test_khat_of_a_little_skewness_needs_many_draws(num_draws, lowest, highest):
    """A tail of more than 2.3 % begins below the local maximum at z = -1."""
    rng = np.random.default_rng(0)
    khats = []
    for _ in range(8):
        z = rng.standard_normal(num_draws)
        khats.append(psis(0.0075 * (z**3 - 3 * z)).khat)
    assert lowest < np.min(khats) <= np.max(khats) < highest
