"""The statistical assertions pass what is right and fail what is wrong."""

import numpy as np
import pytest

from tests.statistics import (
    assert_biased,
    assert_close_to_reference,
    assert_unbiased,
)

EXACT = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 10.0]])
N = 4_000


def draws(mean=EXACT, sd=1.0, n=N, seed=0):
    """Draws of a skewed estimator (a centred exponential) with the given moments."""
    noise = np.random.default_rng(seed).exponential(size=(n, *np.shape(mean))) - 1
    return mean + sd * noise


def test_an_unbiased_estimator_passes():
    assert_unbiased(draws(), EXACT, detectable=0.2)


def test_a_scalar_estimator_passes():
    assert_unbiased(draws(mean=2.0), 2.0, detectable=0.2)


def test_a_bias_of_the_detectable_size_in_one_component_fails():
    wrong = EXACT + np.array([[0, 0, 0], [0, 0.2, 0]])
    with pytest.raises(AssertionError, match=r"biased: mean at \(1, 1\)"):
        assert_unbiased(draws(mean=wrong), EXACT, detectable=0.2)
    assert_biased(draws(mean=wrong), EXACT, detectable=0.15)


def test_bias_is_found_whatever_the_seed():
    for seed in range(200):
        with pytest.raises(AssertionError, match="biased"):
            assert_unbiased(draws(EXACT + 0.2, seed=seed), EXACT, detectable=0.2)


def test_false_alarms_keep_to_the_stated_rate():
    """At z = 2 a correct estimator of 6 numbers may fail in 4.6% of calls, no more."""
    alarms = 0
    for seed in range(400):
        try:
            assert_unbiased(draws(n=500, seed=seed), EXACT, z=2.0, detectable=1.0)
        except AssertionError:
            alarms += 1
    # 18 expected; the Bonferroni bound is slightly conservative, the skew is not.
    assert 5 <= alarms <= 40


def test_the_bar_rises_with_the_number_of_components():
    """Six error bars off: too much for one number, tolerable among a million."""
    one = np.random.default_rng(1).normal(size=N)
    one = 5.5 / np.sqrt(N) + (one - one.mean()) / one.std(ddof=1)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(one, 0.0, detectable=0.2)
    many = np.broadcast_to(one[:, None], (N, 5_000))
    assert_unbiased(many, np.zeros(5_000), detectable=0.2)


def test_too_noisy_a_test_fails_rather_than_pass_blindly():
    with pytest.raises(AssertionError, match="cannot see an error of 0.2"):
        assert_unbiased(draws(sd=10.0), EXACT, detectable=0.2)


def test_a_power_that_cannot_separate_is_refused():
    with pytest.raises(ValueError, match="power=0.5 leaves errors unnoticed"):
        assert_unbiased(draws(), EXACT, power=0.5, detectable=0.2)


def test_an_exact_estimator_passes_without_variance():
    constant = np.broadcast_to(EXACT.astype(np.float32), (N, *EXACT.shape))
    assert_unbiased(constant, EXACT, detectable=0.01)


def test_an_exact_estimator_that_is_off_fails():
    constant = np.broadcast_to(EXACT * 1.001, (N, *EXACT.shape))
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(constant, EXACT, detectable=1e-3)
    assert_biased(constant, EXACT, detectable=1e-3)


def test_a_zero_that_should_be_zero_passes_and_another_fails():
    assert_unbiased(np.zeros(N), 0.0, detectable=0.1)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(np.full(N, 0.05), 0.0, detectable=0.1)


def test_rounding_coarser_than_the_signal_fails():
    with pytest.raises(AssertionError, match="cannot see"):
        assert_unbiased(np.full(N, 1e4, np.float32), 1e4, detectable=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_fails(bad):
    samples = draws()
    samples[7, 0, 0] = bad
    with pytest.raises(AssertionError, match="not finite"):
        assert_unbiased(samples, EXACT, detectable=0.2)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        assert_unbiased(draws(), EXACT.T, detectable=0.2)
    with pytest.raises(ValueError, match="too few"):
        assert_unbiased(draws(n=10), EXACT, detectable=0.2)
    with pytest.raises(ValueError, match="detectable must be positive"):
        assert_unbiased(draws(), EXACT, detectable=np.abs(EXACT))
    with pytest.raises(ValueError, match="nothing to compare"):
        assert_unbiased(np.zeros((N, 0)), np.zeros(0), detectable=0.2)


def test_assert_biased_fails_on_a_right_estimator():
    with pytest.raises(AssertionError, match="would pass"):
        assert_biased(draws(), EXACT, detectable=0.2)


def test_assert_biased_fails_on_a_bias_only_just_seen():
    just = draws(mean=EXACT + 6 / np.sqrt(N))
    with pytest.raises(AssertionError, match="barely fail"):
        assert_biased(just, EXACT, detectable=0.01)


def test_a_dropped_score_term_is_caught():
    """The mistake these assertions are for, on E[x^2] with x ~ Normal(loc, 1)."""
    loc = 1.5
    x = loc + np.random.default_rng(2).normal(size=40_000)
    score = x**2 * (x - loc)
    assert_unbiased(score, 2 * loc, detectable=0.5)
    assert_biased(np.zeros_like(x), 2 * loc, detectable=0.5)
    assert_biased(-score, 2 * loc, detectable=0.5)


REFERENCE = {
    "mean": {"z": np.array([1.0, -5.0]), "tau": 2.0},
    "sd": {"z": np.array([0.5, 2.0]), "tau": 1.0},
    "mean_mcse": {"z": np.array([0.005, 0.02]), "tau": 0.01},
    "sd_mcse": {"z": np.array([0.004, 0.015])},
    "origin": "made up",
}
MCSE = {"z": np.array([0.01, 0.04]), "tau": 0.02}


def moments(mean, sd):
    """Moments like the reference's, apart from those of z."""
    return {"z": np.array(mean), "tau": 2.05}, {"z": np.array(sd), "tau": 1.02}


def test_moments_within_the_claim_pass():
    ours = moments([1.04, -5.1], [0.52, 1.9])
    assert_close_to_reference(*ours, REFERENCE, mcse=MCSE)


def test_a_mean_outside_the_claim_fails():
    ours = moments([1.0, -6.0], [0.5, 2.0])
    with pytest.raises(AssertionError, match=r"mean of 'z' at \(1,\) is -6"):
        assert_close_to_reference(*ours, REFERENCE, mcse=MCSE)


def test_a_posterior_too_narrow_fails():
    ours = moments([1.0, -5.0], [0.3, 2.0])
    with pytest.raises(AssertionError, match=r"sd of 'z' at \(0,\) is 0.3"):
        assert_close_to_reference(*ours, REFERENCE, mcse=MCSE)


def test_moments_that_are_not_numbers_fail():
    ours = moments([1.0, np.nan], [0.5, 2.0])
    with pytest.raises(AssertionError, match="nan"):
        assert_close_to_reference(*ours, REFERENCE, mcse=MCSE)


def test_too_few_draws_for_the_claim_fail():
    ours = moments([1.0, -5.0], [0.5, 2.0])
    with pytest.raises(AssertionError, match="Take more draws"):
        assert_close_to_reference(*ours, REFERENCE, mcse=0.2)


def test_a_missing_site_or_a_wrong_shape_fails():
    mean, sd = moments([1.0, -5.0], [0.5, 2.0])
    with pytest.raises(AssertionError, match=r"reference's sites \['tau'\]"):
        assert_close_to_reference({"z": mean["z"]}, sd, REFERENCE, mcse=MCSE)
    wrong = mean | {"z": np.array([[1.0, -5.0]])}
    with pytest.raises(AssertionError, match="shape"):
        assert_close_to_reference(wrong, sd, REFERENCE, mcse=MCSE)


def test_exact_moments_need_no_error():
    reference = {"mean": {"mu": 2.05}, "sd": {"mu": 1.02}}
    assert_close_to_reference({"mu": 2.0}, {"mu": 1.0}, reference, mcse=0.0)
