"""Assertions about random numbers, with their error rates stated.

Each compares an average with what it should be, in units of the standard error that
the samples themselves show, and each refuses to pass when it could not have failed:
the caller names the smallest error worth finding (`detectable`), and a standard error
too large to find it is a failure of its own.

False alarms. `z` is the bar for one number. For an array of m numbers the bar is raised
(Bonferroni) until a correct estimator fails with the probability that one number alone
would: 2 (1 - Phi(z)), which at z = 5 is 6 in ten million for the whole call. The tail
is Student's t with n - 1 degrees of freedom, since the standard error is estimated.
That holds as far as n is large enough for the mean to be normal: an estimator with very
heavy tails needs more samples, not a higher bar.

Missed errors. An error of size `detectable` in a component passes with probability of
at most about Phi(bar - 1/power): one in a thousand or less, because `power` must leave
three standard errors between the two.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

_FEWEST_SAMPLES = 100
Values = Mapping[str, ArrayLike]


def assert_unbiased(
    samples: ArrayLike,
    exact: ArrayLike,
    z: float = 5.0,
    power: float = 0.1,
    *,
    detectable: ArrayLike,
    rounding: ArrayLike | None = None,
) -> None:
    """Fail unless the mean of `samples` is `exact` up to their own standard error.

    Args:
        samples: Independent draws of an estimator, `(n, *shape)`, n at least 100.
        exact: What it estimates, `shape`.
        z: Bar in standard errors for one number; raised for arrays.
        power: Largest standard error allowed, as a fraction of `detectable`.
        detectable: Smallest error that must be found, absolute, broadcast to `shape`.
            A good choice is what the likeliest mistake (a dropped term, a wrong scale)
            would cause, and half of that where it is not known well.
        rounding: Error that floating point alone may cause, absolute. The default is
            about a hundred units in the last place of the largest number seen; this is
            all that a component without variance is allowed.
    """
    __tracebackhide__ = True
    found = _compare(samples, exact, z, rounding)
    detectable = _positive(detectable, "detectable", found.exact.shape)
    if 1 / power < found.bar + 3:
        raise ValueError(
            f"power={power} leaves errors unnoticed when the bar is {found.bar:.1f} "
            f"standard errors; use power={1 / (found.bar + 3):.3f} or less."
        )
    blind = np.maximum(found.error_bar, found.rounding) / (power * detectable)
    if np.any(blind > 1):
        worst = np.unravel_index(np.argmax(blind), blind.shape)
        raise AssertionError(
            f"cannot see an error of {detectable[worst]:.3g}{_at(worst)}: the standard "
            f"error is {found.error_bar[worst]:.3g} (rounding "
            f"{found.rounding[worst]:.3g}), {blind[worst]:.2g} times what is allowed. "
            "Use more samples, or name a larger `detectable`."
        )
    excess = np.abs(found.difference) - found.allowed
    if np.any(excess > 0):
        raise AssertionError("biased: " + found.describe(_worst(found)))


def assert_biased(
    samples: ArrayLike,
    exact: ArrayLike,
    z: float = 5.0,
    margin: float = 2.0,
    *,
    detectable: ArrayLike,
    rounding: ArrayLike | None = None,
) -> None:
    """Fail unless the mean of `samples` is clearly not `exact`: the negative control.

    Give it the deliberately wrong variant of an estimator and the other arguments of
    its `assert_unbiased`. Some component must miss by `margin` times what would
    have been allowed, and by no less than `detectable`.
    """
    __tracebackhide__ = True
    found = _compare(samples, exact, z, rounding)
    detectable = _positive(detectable, "detectable", found.exact.shape)
    needed = np.maximum(margin * found.allowed, detectable)
    if not np.any(np.abs(found.difference) >= needed):
        raise AssertionError(
            f"the wrong variant would pass, or barely fail: needed an error of "
            f"{needed[_worst(found)]:.3g}; {found.describe(_worst(found))}"
        )


def assert_close_to_reference(
    mean: Values,
    sd: Values,
    reference: Mapping[str, Values],
    *,
    mcse: Values | float,
    sd_mcse: Values | None = None,
    location: float = 0.1,
    spread: float = 0.1,
    z: float = 5.0,
    power: float = 0.5,
) -> None:
    r"""Fail unless a posterior's moments are as near a reference's as claimed.

    With $m, s$ the moments and $m_0, s_0$ the reference's, the claim is
    $|m - m_0| \le$ `location` $s_0$ and $|s / s_0 - 1| \le$ `spread`; both sides' Monte
    Carlo errors are allowed on top, `z` of them (raised for the number of comparisons),
    and may not exceed `power` of what is claimed, or the test says nothing.

    Args:
        mean: Posterior means, `{site: array}`, of every site of the reference.
        sd: Posterior standard deviations, likewise.
        reference: What `reference()` of a model in the zoo returns: `mean`, `sd` and,
            where it was sampled, `mean_mcse` and `sd_mcse`, each `{site: array}`.
        mcse: Monte Carlo standard error of `mean`; 0 where it is exact.
        sd_mcse: The same of `sd`; by default that of normal draws, `mcse / sqrt(2)`.
        location: Error of the mean that the approximation may have, in reference sds.
        spread: Relative error of the sd that the approximation may have.
        z: Bar in standard errors for one number.
        power: Largest Monte Carlo error allowed, as a fraction of the claim.
    """
    __tracebackhide__ = True
    sites = reference["mean"]
    if not sites:
        raise ValueError("the reference has no moments to compare with.")
    if absent := sorted(sites.keys() - (mean.keys() & sd.keys())):
        raise AssertionError(f"no moments of the reference's sites {absent}")
    if not isinstance(mcse, Mapping):
        mcse = dict.fromkeys(sites, mcse)
    if sd_mcse is None:
        sd_mcse = {site: np.asarray(mcse[site]) / math.sqrt(2) for site in sites}
    numbers = 2 * sum(np.size(value) for value in sites.values())
    bar = float(stats.norm.isf(stats.norm.sf(z) / numbers))
    for moment, ours, error, claim in (
        ("mean", mean, mcse, location),
        ("sd", sd, sd_mcse, spread),
    ):
        theirs = reference.get(f"{moment}_mcse", {})
        for site in sites:
            what = f"{moment} of {site!r}"
            shape = np.shape(sites[site])
            scale = _positive(reference["sd"][site], f"reference sd of {site!r}", shape)
            noise = np.hypot(error[site], theirs.get(site, 0.0)) / scale
            if not np.all(noise <= power * claim):
                raise AssertionError(
                    f"{what}: a Monte Carlo error of {np.max(noise):.3g} reference sds "
                    f"cannot test a claim of {claim}. Take more draws."
                )
            _assert_within(
                what, ours[site], reference[moment][site], scale, claim, bar * noise
            )


def _assert_within(what, value, target, scale, claim, slack):
    __tracebackhide__ = True
    value, target = np.asarray(value, float), np.asarray(target, float)
    if value.shape != target.shape:
        raise AssertionError(f"{what}: shape {value.shape}, reference {target.shape}")
    off = np.abs(value - target) / scale
    excess = np.nan_to_num(off - claim - slack, nan=np.inf)
    if np.any(excess > 0):
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        raise AssertionError(
            f"{what}{_at(worst)} is {value[worst]:.5g}, the reference "
            f"{target[worst]:.5g}: {off[worst]:.3g} reference sds apart, {claim} "
            f"claimed and {slack[worst]:.2g} allowed for Monte Carlo error"
        )


class _Comparison:
    """Mean against exact: arrays of one shape, and the bar in standard errors."""

    def __init__(self, mean, exact, error_bar, rounding, bar):
        self.exact, self.mean = exact, mean
        self.error_bar, self.rounding, self.bar = error_bar, rounding, bar
        self.difference = mean - exact
        self.allowed = bar * error_bar + rounding

    def describe(self, index):
        return (
            f"mean{_at(index)} {self.mean[index]:.6g}, exact {self.exact[index]:.6g}; "
            f"apart by {self.difference[index]:.3g}, allowed {self.allowed[index]:.3g} "
            f"= {self.bar:.1f} x standard error {self.error_bar[index]:.3g} + rounding "
            f"{self.rounding[index]:.2g}"
        )


def _compare(samples, exact, z, rounding):
    samples, exact = np.asarray(samples), np.asarray(exact)
    if samples.shape[1:] != exact.shape:
        raise ValueError(
            f"samples of shape {samples.shape} do not fit exact of shape {exact.shape}"
            ": expected (n, *exact.shape)."
        )
    if exact.size == 0:
        raise ValueError("there is nothing to compare: exact is empty.")
    if len(samples) < _FEWEST_SAMPLES:
        raise ValueError(
            f"{len(samples)} samples are too few to estimate a standard error; take "
            f"{_FEWEST_SAMPLES} or more."
        )
    if not np.all(np.isfinite(samples)) or not np.all(np.isfinite(exact)):
        raise AssertionError("samples or exact are not finite")
    if rounding is None:
        precise = samples.dtype == np.float64
        largest = np.maximum(np.abs(samples).max(0), np.abs(exact))
        rounding = (1e-12 if precise else 1e-5) * largest
    samples, exact = samples.astype(float), exact.astype(float)
    n = len(samples)
    # Around the first draw, so that a constant has no variance at all.
    error_bar = (samples - samples[0]).std(0, ddof=1) / math.sqrt(n)
    bar = stats.t.isf(stats.norm.sf(z) / exact.size, n - 1)
    rounding = np.broadcast_to(np.asarray(rounding, float), exact.shape)
    return _Comparison(samples.mean(0), exact, error_bar, rounding, float(bar))


def _worst(found):
    # Without variance and rounding any difference is infinitely many error bars.
    ratio = np.abs(found.difference) / np.maximum(found.allowed, np.finfo(float).tiny)
    return np.unravel_index(np.argmax(ratio), ratio.shape)


def _positive(value, name, shape):
    value = np.broadcast_to(np.asarray(value, float), shape)
    if not np.all(value > 0):
        raise ValueError(f"{name} must be positive, found {value}.")
    return value


def _at(index):
    return f" at {tuple(int(i) for i in index)}" if index else ""
