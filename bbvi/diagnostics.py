r"""How good is a fit, and how well is that known?

In the order of the file: the bound with its error (`elbo`), the fit of importance
weights to the posterior (`psis`, `khat_threshold`, `importance_ess`), whether iterates
have stopped drifting (`split_rhat`), and how loud a gradient is over its own noise
(`gradient_snr`). NumPy arrays come in, frozen records and numbers go out; everything is
computed in float64 on the host. What the numbers mean together, the verdict, is decided
by the caller. Only NumPy is imported: see `docs/design/psis.md`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_MIN_TAIL = 5
"""Fewest exceedances that the generalised Pareto fit is given."""
_LOG_TINY = float(np.log(np.finfo(np.float64).tiny))


@dataclass(frozen=True)
class Estimate:
    """A Monte-Carlo estimate ``value`` and its standard error ``mcse``.

    Prints as many digits as the error leaves, two of them uncertain.

    Example:
        >>> print(Estimate(value=-123.4567, mcse=0.0312))
        -123.457 ± 0.031
    """

    value: float
    mcse: float

    def __str__(self) -> str:
        if not np.isfinite(self.value) or not np.isfinite(self.mcse):
            return f"{self.value:.6g} ± {self.mcse:.2g}"
        if self.mcse == 0.0:
            return f"{self.value:.6g} ± 0"
        # Formatting once first lets an error such as 0.0996 round up to 0.10.
        exponent = int(f"{self.mcse:.1e}".partition("e")[2])
        decimals = 1 - exponent
        # Adding zero turns -0.0 into 0.0.
        value, mcse = round(self.value, decimals) + 0.0, round(self.mcse, decimals)
        shown = max(decimals, 0)
        return f"{value:.{shown}f} ± {mcse:.{shown}f}"


class Smoothed(NamedTuple):
    """Pareto-smoothed importance weights.

    ``log_weights`` are normalised, ``logsumexp(log_weights) = 0``; ``khat`` is the
    shape of the tail, to be held against `khat_threshold`; ``ess`` is the importance
    effective sample size of the smoothed weights.
    """

    log_weights: FloatArray
    khat: float
    ess: float


def elbo(log_p: ArrayLike, log_q: ArrayLike) -> Estimate:
    r"""Return the evidence lower bound, with its Monte-Carlo standard error.

    $$ \mathrm{ELBO} = \frac1S \sum_s (\log p_s - \log q_s), \qquad
       \mathrm{mcse} = \mathrm{sd}_s(\log p_s - \log q_s) / \sqrt{S} $$

    for independent draws $z_s \sim q$. One draw says nothing of its error: ``mcse`` is
    then infinite. A bound that is not finite has the error NaN.

    Args:
        log_p: log joint density of each draw, `(num_draws,)`.
        log_q: log density of each draw under the guide, `(num_draws,)`.

    Example:
        >>> print(elbo(log_p=[-1.0, -2.0, -1.5], log_q=[-0.5, -0.5, -0.5]))
        -1.00 ± 0.29
    """
    with np.errstate(invalid="ignore"):
        ratios = _vector(log_p, "log_p") - _vector(log_q, "log_q")
        value = float(np.mean(ratios))
    if not np.isfinite(value):
        return Estimate(value, float("nan"))
    if ratios.size == 1:
        return Estimate(value, float("inf"))
    return Estimate(value, float(np.std(ratios, ddof=1) / np.sqrt(ratios.size)))


def khat_threshold(num_draws: int) -> float:
    r"""Return the largest k-hat at which weighted draws can be trusted.

    $$ \min(1 - 1/\log_{10} S,\ 0.7) $$

    From about 2,200 draws on it is 0.7; fewer draws support less of a tail, and up to
    ten draws support none.

    Args:
        num_draws: number of draws $S$ behind the weights.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25(72).

    Example:
        >>> khat_threshold(100), khat_threshold(4000)
        (0.5, 0.7)
    """
    if num_draws <= 1:
        return -float("inf")
    return min(1.0 - 1.0 / float(np.log10(num_draws)), 0.7)


def tail_length(num_draws: int) -> int:
    r"""Return how many of the largest weights `psis` calls their tail.

    $$ M = \lceil \min(S/5,\ 3 \sqrt S) \rceil $$

    Args:
        num_draws: number of draws $S$ behind the weights.

    Example:
        >>> tail_length(100), tail_length(10_000)
        (20, 300)
    """
    return int(np.ceil(min(num_draws / 5.0, 3.0 * np.sqrt(num_draws))))


def psis(log_weights: ArrayLike) -> Smoothed:
    r"""Return Pareto-smoothed, normalised log importance weights and their k-hat.

    A generalised Pareto distribution is fitted to the $M$ largest weights (see
    `tail_length`) above the next one as cutoff; they are replaced by its quantiles at
    $(j - 1/2)/M$, cut off at the largest raw weight. Its shape is k-hat.

    Without five tail draws there is nothing to fit and the weights are only normalised:
    ties at the cutoff (equal weights, discrete posteriors) give ``khat = -inf`` where
    the largest weight is within a factor $e$ of the cutoff, so that no tail is to be
    seen, else ``inf``; fewer than 21 draws give ``inf``, or ``-inf`` if all are equal.
    Weights of zero (``-inf``) count as draws. NaN, ``+inf`` or no weight above zero
    make every weight meaningless: ``khat = inf``, ``ess = 0`` and NaN weights.

    Args:
        log_weights: unnormalised $\log p_s - \log q_s$, `(num_draws,)`.

    References:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance
        sampling, JMLR 25(72).

    Example:
        >>> psis([0.0] * 100).khat
        -inf
    """
    raw = _vector(log_weights, "log_weights")
    top = np.max(raw)
    if not np.isfinite(top):
        return Smoothed(np.full_like(raw, np.nan), khat=float("inf"), ess=0.0)
    shifted = raw - top
    khat, tail, smoothed = _smooth_tail(shifted)
    shifted[tail] = smoothed
    normalised = shifted - np.log(np.sum(np.exp(shifted)))
    return Smoothed(normalised, khat=khat, ess=importance_ess(normalised))


def resampled(weights: ArrayLike, num_draws: int) -> NDArray[np.intp]:
    r"""Rows of a systematic resample of weighted draws, in random order.

    Row $i$ comes up $N w_i / \sum_j w_j$ times, rounded down or up, so that a mean over
    the rows has hardly more noise than the weighted mean itself.

    Args:
        weights: Of the draws, not negative, `(num_weights,)`.
        num_draws: Rows wanted, $N$.

    References:
        Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear
        state space models, appendix (deterministic resampling).
    """
    generator = np.random.default_rng(num_draws)
    ends = np.cumsum(_vector(weights, "weights"))
    at = (generator.uniform() + np.arange(num_draws)) / num_draws * ends[-1]
    rows = np.minimum(np.searchsorted(ends, at, side="right"), len(ends) - 1)
    return generator.permutation(rows)


def importance_ess(log_weights: ArrayLike) -> float:
    r"""Return the effective number of draws behind importance weights.

    $$ \mathrm{ESS} = \Big(\sum_s w_s\Big)^2 \Big/ \sum_s w_s^2 $$

    Between 1 (one draw carries all the weight) and $S$ (equal weights). It describes
    the weights that were drawn: with a heavy tail the draws that would lower it may be
    missing, so read it only where k-hat is below `khat_threshold`. Weights that cannot
    be normalised have 0.

    Args:
        log_weights: log weights, normalised or not, `(num_draws,)`.

    References:
        Kong (1992), A note on importance sampling using standardized weights.

    Example:
        >>> importance_ess([0.0, 0.0, -float("inf")])
        2.0
    """
    raw = _vector(log_weights, "log_weights")
    top = np.max(raw)
    if not np.isfinite(top):
        return 0.0
    weights = np.exp(raw - top)
    return float(np.sum(weights) ** 2 / np.sum(weights**2))


def split_rhat(means: ArrayLike, variances: ArrayLike, counts: ArrayLike) -> FloatArray:
    r"""Return the R-hat of the first against the second half of a window of iterates.

    With half means $m_1, m_2$, unbiased half variances $s_1^2, s_2^2$ and $n$ iterates
    a half,

    $$ W = (s_1^2 + s_2^2)/2, \quad B/n = (m_1 - m_2)^2/2, \quad
       \hat R = \sqrt{\Big(\frac{n-1}{n} W + \frac Bn\Big) \Big/ W}. $$

    Chunks are pooled, so the iterates themselves are never kept. Of an odd number of
    chunks the oldest is left out. A parameter that did not move at all has 1, one that
    moved only between the halves has infinity, one that was not finite has NaN.

    Args:
        means: mean of the iterates of each chunk, `(num_chunks, *shape)`.
        variances: their variance about that mean with divisor count (mean of squares
            less squared mean), `(num_chunks, *shape)`; rounded below zero counts as 0.
        counts: iterates in each chunk, `(num_chunks,)` or one number for all.

    Returns:
        R-hat of every parameter, `shape`.

    Raises:
        ValueError: with fewer than two chunks, or arrays that do not match.

    References:
        Gelman et al. (2013), Bayesian Data Analysis, section 11.4; used on the iterates
        of VI by Dhaka et al. (2020) and Welandawe et al. (2024).

    Example:
        >>> split_rhat(means=[0.0, 1.0], variances=[1.0, 1.0], counts=100).round(2)
        np.float64(1.22)
    """
    means = np.asarray(means, np.float64)
    variances = np.maximum(np.asarray(variances, np.float64), 0.0)
    if means.ndim == 0 or len(means) < 2 or means.shape != variances.shape:
        raise ValueError(
            "split_rhat: expected means and variances of one shape (num_chunks, ...) "
            f"with at least 2 chunks; found {means.shape} and {variances.shape}. "
            "Give it a window of more chunks."
        )
    counts = np.broadcast_to(np.asarray(counts, np.float64), len(means))
    half = len(means) // 2
    old, new = slice(-2 * half, -half), slice(-half, None)
    mean1, var1, n1 = _pool(means[old], variances[old], counts[old])
    mean2, var2, n2 = _pool(means[new], variances[new], counts[new])
    n = (n1 + n2) / 2.0
    within = (var1 + var2) / 2.0
    between = (mean1 - mean2) ** 2 / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.sqrt((n - 1.0) / n + between / within)
    return np.where((within == 0.0) & (between == 0.0), 1.0, rhat)


def gradient_snr(sum_g: ArrayLike, sum_g2: ArrayLike, n: int) -> float:
    r"""Return how long a gradient is, in units of the noise of one estimate of it.

    $$ \mathrm{SNR} = \sqrt{\max\Big(\lVert\bar g\rVert^2 - \frac{V}{n},\ 0\Big)
       \Big/ V}, \qquad V = \sum_i \mathrm{var}(g_i) $$

    over the $n$ estimates of one window and the elements $i$ of one site's parameters;
    $V/n$ is what noise alone adds to $\lVert\bar g\rVert^2$. An SNR of $r$ needs about
    $1/r^2$ averaged steps to see its direction. Near the optimum it goes to 0 for every
    estimator: compare sites and estimators at the same point only. Infinite for a
    gradient without noise, 0 for one that is always zero.

    Args:
        sum_g: sum of the gradients over the window, any shape.
        sum_g2: sum of their elementwise squares, same shape.
        n: number of gradients summed, at least 2.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        section 3.

    Example:
        >>> round(gradient_snr(sum_g=[8.0], sum_g2=[16.0], n=8), 3)
        0.866
    """
    if n < 2:
        raise ValueError(
            f"gradient_snr: expected n >= 2 gradients to see their noise; found {n}."
        )
    mean = np.asarray(sum_g, np.float64) / n
    spread = np.asarray(sum_g2, np.float64) / n - mean**2
    noise = float(np.sum(np.maximum(spread, 0.0))) * n / (n - 1)
    signal = max(float(np.sum(mean**2)) - noise / n, 0.0)
    if noise == 0.0:
        return float("inf") if signal > 0.0 else 0.0
    return float(np.sqrt(signal / noise))


def _vector(values: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"{name}: expected one number per draw, shape (num_draws,); "
            f"found shape {array.shape}."
        )
    return array


def _smooth_tail(shifted: FloatArray) -> tuple[float, NDArray[np.intp], FloatArray]:
    """Return k-hat, the places of the tail (may be none) and its new log weights.

    ``shifted`` are log weights with maximum 0.
    """
    nothing = np.empty(0, np.intp), np.empty(0)
    num_tail = tail_length(shifted.size)
    if num_tail < _MIN_TAIL:
        return (-np.inf if np.all(shifted == 0.0) else np.inf), *nothing
    order = np.argsort(shifted, kind="stable")
    # Weights that float64 cannot hold count as zero, and so does their cutoff.
    cutoff = max(shifted[order[-num_tail - 1]], _LOG_TINY)
    tail = order[-num_tail:]
    tail = tail[shifted[tail] > cutoff]
    if tail.size < _MIN_TAIL:
        return (-np.inf if cutoff >= -1.0 else np.inf), *nothing
    # w - u = u (exp(log w - log u) - 1) keeps its digits where the weights are close.
    exceedances = np.exp(cutoff) * np.expm1(shifted[tail] - cutoff)
    shape, scale = _fit_generalised_pareto(exceedances)
    if not np.isfinite(shape):
        return np.inf, *nothing
    probabilities = (np.arange(tail.size) + 0.5) / tail.size
    quantiles = _generalised_pareto_quantile(probabilities, shape, scale)
    return shape, tail, np.minimum(np.log(np.exp(cutoff) + quantiles), 0.0)


def _fit_generalised_pareto(exceedances: FloatArray) -> tuple[float, float]:
    r"""Return shape $k$ and scale $\sigma$ of a generalised Pareto distribution.

    Zhang & Stephens (2009): in $\theta = -k/\sigma$ the maximum of the likelihood over
    $k$ is known, $k(\theta) = \frac1n \sum_i \log(1 - \theta x_i)$, and

    $$ \ell(\theta) = n\,(\log(-\theta / k(\theta)) - k(\theta) - 1). $$

    $\hat\theta$ is its posterior mean over a grid of $30 + \sqrt n$ quantiles of their
    data-dependent prior. As in Vehtari et al. (2024), $k$ is then drawn to 1/2 as if by
    ten further observations, and $\sigma = -k/\hat\theta$ is not.

    Args:
        exceedances: positive and ascending, `(n,)`.
    """
    n = exceedances.size
    grid_size = 30 + int(np.sqrt(n))
    quartile = exceedances[int(n / 4.0 + 0.5) - 1]
    ranks = np.arange(1, grid_size + 1) - 0.5
    grid = 1.0 / exceedances[-1] + (1.0 - np.sqrt(grid_size / ranks)) / (3.0 * quartile)
    with np.errstate(all="ignore"):
        shapes = np.mean(np.log1p(-np.outer(grid, exceedances)), axis=1)
        log_lik = n * (np.log(-grid / shapes) - shapes - 1.0)
        posterior = np.exp(log_lik - np.max(log_lik))
        theta = np.sum(grid * posterior) / np.sum(posterior)
        shape = np.mean(np.log1p(-theta * exceedances))
        scale = -shape / theta
    return float((n * shape + 5.0) / (n + 10.0)), float(scale)


def _generalised_pareto_quantile(
    probabilities: FloatArray, shape: float, scale: float
) -> FloatArray:
    r"""Return $\sigma\,((1 - p)^{-k} - 1)/k$, with its limit at $k = 0$."""
    survival = np.log1p(-probabilities)
    if abs(shape) < np.finfo(np.float64).eps:
        return -scale * survival
    return scale * np.expm1(-shape * survival) / shape


def _pool(
    means: FloatArray, variances: FloatArray, counts: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Return mean, unbiased variance and count of all chunks together."""
    n = float(counts.sum())
    share = (counts / n).reshape(-1, *[1] * (means.ndim - 1))
    mean = np.sum(share * means, axis=0)
    variance = np.sum(share * (variances + (means - mean) ** 2), axis=0)
    return mean, variance * n / (n - 1.0), n
